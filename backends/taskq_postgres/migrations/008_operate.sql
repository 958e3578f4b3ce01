-- What an operator may do, and the removal of what has lapsed.

-- Ask for live jobs to be cancelled; a waiting one is due at once and stands in line. Returns the places found.
CREATE FUNCTION {schema}.cancel(queues text[], ids text[]) RETURNS SETOF integer LANGUAGE plpgsql
SET jit = off SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off
SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
  moment float8;
  job record;
  grp text;
BEGIN
  PERFORM {schema}.lock_groups(queues);
  moment := extract(epoch FROM clock_timestamp());
  FOR job IN
    SELECT given.queue, given.id, given.n FROM unnest(queues, ids) WITH ORDINALITY AS given (queue, id, n)
    ORDER BY given.queue, given.id, given.n
  LOOP
    UPDATE {schema}.jobs AS j
    SET cancelled = true,
      due = CASE WHEN j.state = 'leased' THEN j.due ELSE least(coalesce(j.was_due, j.due), moment) END, was_due = NULL,
      placed = j.placed AND (j.group_limit = 1 OR (j.state = 'leased' AND j.due > moment)),
      state = CASE WHEN j.state = 'leased' AND j.due > moment THEN 'leased' ELSE 'ready' END
    WHERE j.queue = job.queue AND j.id = job.id AND j.state <> 'dead'
    RETURNING j.grp INTO grp;
    IF FOUND THEN
      RETURN NEXT job.n::integer;
      IF grp IS NOT NULL THEN
        PERFORM {schema}.show(job.queue, grp);
      END IF;
    END IF;
  END LOOP;
END
$$;

-- Make dead letters ready again, as if new. Returns the place of each found, and whether its unique key let it.
CREATE FUNCTION {schema}.revive(queues text[], ids text[]) RETURNS TABLE (place integer, revived boolean)
LANGUAGE plpgsql SET jit = off SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
DECLARE
  moment float8;
  job record;
  dead {schema}.jobs;
  other {schema}.jobs;
BEGIN
  PERFORM {schema}.lock_groups(queues);
  moment := extract(epoch FROM clock_timestamp());
  FOR job IN
    SELECT given.queue, given.id, given.n::integer AS n FROM unnest(queues, ids) WITH ORDINALITY
      AS given (queue, id, n) ORDER BY given.queue, given.id, given.n
  LOOP
    SELECT * INTO dead FROM {schema}.jobs AS j
    WHERE j.queue = job.queue AND j.id = job.id AND j.state = 'dead' AND (j.lapses_at IS NULL OR j.lapses_at > moment)
    FOR UPDATE;
    CONTINUE WHEN NOT FOUND;
    place := job.n; revived := true;
    IF dead.uniq IS NOT NULL AND (dead.key_free_at IS NULL OR dead.key_free_at > moment) THEN
      SELECT * INTO other FROM {schema}.jobs AS j
      WHERE j.queue = job.queue AND j.uniq = dead.uniq AND j.keyed AND j.id <> dead.id FOR UPDATE;
      IF FOUND AND (other.lapses_at <= moment OR other.key_free_at <= moment) THEN
        UPDATE {schema}.jobs AS j SET keyed = false WHERE j.queue = other.queue AND j.id = other.id;
      ELSIF FOUND THEN
        revived := false;
      END IF;
    END IF;
    IF revived THEN
      UPDATE {schema}.jobs AS j
      SET state = CASE WHEN j.grp IS NULL THEN 'ready' ELSE 'parked' END, due = moment, attempt = 1, losses = 0,
        cancelled = false, outcome = NULL, lapses_at = NULL,
        expires_at = moment + (j.rest::jsonb ->> 'expires_in')::float8,
        keyed = j.uniq IS NOT NULL AND (j.key_free_at IS NULL OR j.key_free_at > moment)
      WHERE j.queue = job.queue AND j.id = job.id;
      IF dead.grp IS NOT NULL THEN
        PERFORM {schema}.show(job.queue, dead.grp);
      END IF;
    END IF;
    RETURN NEXT;
  END LOOP;
END
$$;

-- Remove a portion of what has lapsed; returns how much went. One caller at a time: what others remove need not wait.
CREATE FUNCTION {schema}.sweep(portion integer) RETURNS bigint LANGUAGE plpgsql
SET jit = off SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
  moment float8 := extract(epoch FROM clock_timestamp());
  removed bigint;
  total bigint := 0;
  lapsed record;
BEGIN
  IF NOT pg_try_advisory_xact_lock(hashtextextended('{schema} sweep', 0)) THEN
    RETURN 0;
  END IF;
  WITH gone AS (
    DELETE FROM {schema}.jobs WHERE ctid = ANY (ARRAY(
      SELECT ctid FROM {schema}.jobs WHERE lapses_at <= moment LIMIT portion FOR UPDATE SKIP LOCKED
    )) RETURNING queue, 1 AS jobs
  ), before AS (
    DELETE FROM {schema}.lapsed WHERE EXISTS (SELECT FROM gone) RETURNING queue, jobs
  ), counted AS (
    INSERT INTO {schema}.lapsed (queue, jobs)
    SELECT queue, sum(jobs) FROM (SELECT * FROM gone UNION ALL SELECT * FROM before) AS one GROUP BY queue
  )
  SELECT count(*) INTO removed FROM gone;
  total := total + removed;
  DELETE FROM {schema}.ended WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM {schema}.ended WHERE lapses_at <= moment LIMIT portion FOR UPDATE SKIP LOCKED
  ));
  GET DIAGNOSTICS removed = ROW_COUNT;
  total := total + removed;
  DELETE FROM {schema}.waits WHERE until < moment - 60;
  FOR lapsed IN
    SELECT key FROM (
      (SELECT key FROM {schema}.keys WHERE until <= moment LIMIT portion)
      UNION
      (SELECT key FROM {schema}.members WHERE until <= moment LIMIT portion)
    ) AS found ORDER BY key
  LOOP
    -- Whoever holds a key is about to clear it up.
    CONTINUE WHEN NOT pg_try_advisory_xact_lock(hashtextextended('{schema} key ' || lapsed.key, 0));
    PERFORM {schema}.open_key(lapsed.key, moment);
    PERFORM {schema}.close_key(lapsed.key, moment);
    total := total + 1;
  END LOOP;
  RETURN total;
END
$$;
