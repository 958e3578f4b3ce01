-- An array of one element stands for as many as there are ids.
CREATE FUNCTION {schema}.spread(given anyarray, ids text[]) RETURNS anyarray LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN cardinality(given) = 1 THEN array_fill(given[1], ARRAY[cardinality(ids)]) ELSE given END
$$;

-- Add jobs, given as arrays of one length; an array that is NULL leaves each job its default. Of queues and tasks one
-- element will do for all.
--
-- Returns a row for each job that was not added: its place in the arrays, who holds its id or key, and whether that is
-- a conflict. With tells, those who wait are told at the commit: for callers whose transaction it is.
CREATE FUNCTION {schema}.enqueue(
  queues text[],
  ids text[],
  tasks text[],
  bodies bytea[],
  priorities integer[] DEFAULT NULL,
  delays float8[] DEFAULT NULL,
  run_ats float8[] DEFAULT NULL,
  expiries float8[] DEFAULT NULL,
  uniques text[] DEFAULT NULL,
  conflicts text[] DEFAULT NULL,
  key_untils text[] DEFAULT NULL,
  key_seconds float8[] DEFAULT NULL,
  grps text[] DEFAULT NULL,
  group_limits integer[] DEFAULT NULL,
  rests text[] DEFAULT NULL,
  tells boolean DEFAULT true
)
RETURNS TABLE (place integer, holder text, conflict boolean) LANGUAGE plpgsql
-- Who may call this may enqueue, and needs no right to the tables.
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET jit = off SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
  -- A caller's transaction that sees the groups as they were when it began: the next fetch is to judge them.
  stale CONSTANT boolean := current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted');
  moment float8;
  seqs bigint[];
  again integer[];
  answered integer[] := '{}';
  expected integer := cardinality(ids);
  added integer;
  job record;
  other {schema}.jobs;
  line text;
  name text;
BEGIN
  IF grps IS NOT NULL OR 'replace' = ANY (conflicts) THEN
    PERFORM {schema}.lock_groups(queues);
  END IF;
  moment := extract(epoch FROM clock_timestamp());
  seqs := ARRAY(SELECT nextval('{schema}.arrivals') FROM generate_series(1, expected));
  -- Calls that say nothing but their task, as most do, go in as they are, which takes 5 µs each in place of 9. Where one
  -- meets its like, all of them go the long way.
  IF cardinality(queues) = 1 AND cardinality(tasks) = 1 AND num_nonnulls(
    priorities, delays, run_ats, expiries, uniques, conflicts, key_untils, key_seconds, grps, group_limits, rests
  ) = 0 THEN
    BEGIN
      INSERT INTO {schema}.jobs (seq, due, state, queue, id, task, body)
      SELECT seq, moment, 'ready', queues[1], id, tasks[1], body FROM unnest(seqs, ids, bodies) AS given (seq, id, body)
      ORDER BY id;
      expected := 0;
    EXCEPTION WHEN unique_violation THEN
      NULL;
    END;
    IF expected = 0 AND NOT EXISTS (SELECT FROM {schema}.ended AS e WHERE e.queue = queues[1]) THEN
      IF tells THEN
        PERFORM {schema}.tell(queues);
      END IF;
      RETURN;
    END IF;
  END IF;
  queues := {schema}.spread(queues, ids);
  tasks := {schema}.spread(tasks, ids);
  WHILE expected > 0 LOOP
    -- In one order, so that of two calls with the same ids or keys one waits for the other, and never each for each.
    INSERT INTO {schema}.jobs (
      seq, due, priority, group_limit, keyed, state, queue, id, task, body, expires_at, uniq, key_until, key_free_at,
      grp, rest
    )
    SELECT
      seq, due, coalesce(priority, 0), coalesce(group_limit, 1), uniq IS NOT NULL,
      CASE
        WHEN due > moment OR (grp IS NOT NULL AND stale) THEN 'later' WHEN grp IS NULL THEN 'ready' ELSE 'parked'
      END,
      queue, id, task, body, due + expiry, uniq, CASE WHEN uniq IS NOT NULL THEN coalesce(until, 'end') END,
      CASE WHEN uniq IS NOT NULL THEN moment + seconds END, grp, rest
    FROM (
      SELECT *, CASE WHEN run_at IS NULL THEN moment + coalesce(delay, 0) ELSE greatest(moment, run_at) END AS due
      FROM unnest(
        seqs, queues, ids, tasks, bodies, priorities, delays, run_ats, expiries, uniques, key_untils, key_seconds, grps,
        group_limits, rests
      ) WITH ORDINALITY AS given (
        seq, queue, id, task, body, priority, delay, run_at, expiry, uniq, until, seconds, grp, group_limit, rest, n
      )
    ) AS given
    WHERE (again IS NULL OR n = ANY (again)) AND NOT EXISTS (
      SELECT FROM {schema}.ended AS e WHERE e.queue = given.queue AND e.id = given.id AND e.id_until > moment
    )
    ORDER BY queue, uniq NULLS FIRST, CASE WHEN uniq IS NULL THEN id END, n
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS added = ROW_COUNT;
    EXIT WHEN added = expected;
    again := '{}';
    FOR job IN
      SELECT given.* FROM unnest(
        seqs, queues, ids, tasks, bodies, priorities, delays, run_ats, expiries, uniques, conflicts, rests
      ) WITH ORDINALITY AS given (
        seq, queue, id, task, body, priority, delay, run_at, expiry, uniq, conflict, rest, n
      )
      WHERE NOT EXISTS (
        SELECT FROM {schema}.jobs AS j WHERE j.queue = given.queue AND j.id = given.id AND j.seq = given.seq
      )
      ORDER BY n
    LOOP
      CONTINUE WHEN job.n = ANY (answered);
      SELECT * INTO other FROM {schema}.jobs AS j WHERE j.queue = job.queue AND j.id = job.id;
      IF FOUND AND other.lapses_at <= moment THEN
        WITH gone AS (
          DELETE FROM {schema}.jobs AS j WHERE j.queue = job.queue AND j.id = job.id AND j.lapses_at <= moment
          RETURNING j.queue
        )
        INSERT INTO {schema}.lapsed (queue, jobs) SELECT gone.queue, 1 FROM gone;
        again := again || job.n::integer;
      ELSIF FOUND OR EXISTS (
        SELECT FROM {schema}.ended AS e WHERE e.queue = job.queue AND e.id = job.id AND e.id_until > moment
      ) THEN
        answered := answered || job.n::integer;
        place := job.n; holder := job.id; conflict := false;
        RETURN NEXT;
      ELSE
        SELECT * INTO other FROM {schema}.jobs AS j
        WHERE j.queue = job.queue AND j.uniq = job.uniq AND j.keyed FOR UPDATE;
        IF NOT FOUND THEN
          again := again || job.n::integer;
        ELSIF other.lapses_at <= moment OR other.key_free_at <= moment THEN
          UPDATE {schema}.jobs AS j SET keyed = false WHERE j.queue = other.queue AND j.id = other.id;
          again := again || job.n::integer;
        ELSE
          answered := answered || job.n::integer;
          place := job.n; holder := other.id; conflict := coalesce(job.conflict, 'return') <> 'return';
          -- A holder with a token may still be settled late, and a cancelled one will not run: neither may take over
          -- a call that would be lost with it.
          IF job.conflict = 'replace' AND other.token IS NULL AND NOT other.cancelled AND other.state <> 'dead' THEN
            conflict := false;
            PERFORM {schema}.replace_job(
              other, job.task, job.body, coalesce(job.priority, 0), job.delay, job.run_at, job.expiry, job.rest, moment
            );
          END IF;
          RETURN NEXT;
        END IF;
      END IF;
    END LOOP;
    expected := cardinality(again);
  END LOOP;
  IF answered <> '{}' THEN
    -- What another has added may not be on disk yet: a transaction that has written nothing would not wait for it.
    PERFORM pg_logical_emit_message(true, 'taskq', '');
  END IF;
  -- An outcome is the last end's of its id. An end that was committed while the insert waited for it, unseen by it,
  -- holds its id still.
  FOR job IN
    SELECT given.*, e.id_until > moment AS held FROM unnest(queues, ids, seqs) WITH ORDINALITY AS given (queue, id, seq, n)
    JOIN {schema}.ended AS e ON e.queue = given.queue AND e.id = given.id
    JOIN {schema}.jobs AS j ON j.queue = given.queue AND j.id = given.id AND j.seq = given.seq
  LOOP
    IF job.held THEN
      DELETE FROM {schema}.jobs AS j WHERE j.queue = job.queue AND j.id = job.id AND j.seq = job.seq;
      place := job.n; holder := job.id; conflict := false;
      RETURN NEXT;
    ELSE
      DELETE FROM {schema}.ended AS e WHERE e.queue = job.queue AND e.id = job.id;
    END IF;
  END LOOP;
  IF grps IS NOT NULL THEN
    FOR line, name IN
      SELECT given.queue, given.grp FROM unnest(queues, grps) WITH ORDINALITY AS given (queue, grp, n)
      WHERE given.grp IS NOT NULL GROUP BY given.queue, given.grp ORDER BY min(n)
    LOOP
      PERFORM {schema}.show(line, name);
    END LOOP;
  END IF;
  IF tells THEN
    PERFORM {schema}.tell(queues);
  END IF;
END
$$;

-- Give a waiting job another call, priority, due moment and expiry; it keeps its id, group, key and attempt.
CREATE FUNCTION {schema}.replace_job(
  other {schema}.jobs, new_task text, new_body bytea, new_priority integer, delay float8, run_at float8, expiry float8,
  new_rest text, moment float8
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  moved float8 := CASE WHEN run_at IS NULL THEN moment + coalesce(delay, 0) ELSE greatest(moment, run_at) END;
  kept jsonb := coalesce(other.rest::jsonb, '{}') - ARRAY['delay', 'run_at', 'expires_in', 'headers'];
  given jsonb := coalesce(new_rest::jsonb, '{}') - ARRAY['on_conflict', 'unique_until', 'tenant'];
BEGIN
  UPDATE {schema}.jobs
  SET task = new_task, body = new_body, priority = new_priority, due = moved, was_due = NULL,
    expires_at = moved + expiry, rest = nullif(kept || given, '{}')::text,
    state = CASE WHEN moved > moment THEN 'later' WHEN grp IS NULL OR placed THEN 'ready' ELSE 'parked' END
  WHERE queue = other.queue AND id = other.id;
  IF other.grp IS NOT NULL THEN
    PERFORM {schema}.show(other.queue, other.grp);
  END IF;
END
$$;

-- Send messages to all listeners, at the commit. Where a listener that stays in a transaction lets the server's queue of
-- them fill up, nothing is sent: the commit would fail, and who waits looks for itself. Asking takes 0.15 microseconds.
CREATE FUNCTION {schema}.say(messages text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF pg_notification_queue_usage() < 0.5 THEN
    PERFORM pg_notify('{channel}', message) FROM unnest(messages) AS message;
  END IF;
END
$$;

-- Tell whoever waits for a job of these queues, at the commit: once a queue. Under say's condition.
CREATE FUNCTION {schema}.tell(queues text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF pg_notification_queue_usage() < 0.5 THEN
    PERFORM pg_notify('{channel}', 'q' || queue) FROM unnest(queues) AS queue
    WHERE octet_length(queue) < 7000 GROUP BY queue;
  END IF;
END
$$;

-- The advisory lock by which a session that listens says that it lives. Everybody may see who holds which; whom jobs are
-- sent to cannot be found out by it.
CREATE FUNCTION {schema}.life(ear bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
  SELECT ('x' || encode(substr(sha256(ear::text::bytea), 1, 8), 'hex'))::bit(64)::bigint
$$;

-- Add a plain job, leased to a fetch that waits: who is to be sent which message when this is committed. NULL if there is
-- none, or something stands before the job, or its id is known; then nothing has been added.
CREATE FUNCTION {schema}.hand(line text, name text, called text, content bytea, OUT ear bigint, OUT message text)
LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET jit = off SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
DECLARE
  -- Says also that this is no standby, where the rest could not even be planned.
  seq CONSTANT bigint := nextval('{schema}.arrivals');
  moment CONSTANT float8 := extract(epoch FROM clock_timestamp());
  wish {schema}.waits;
  life bigint;
  said text;
BEGIN
  IF octet_length(content) > 5000 THEN
    -- It would not fit into a message.
    RETURN;
  END IF;
  LOOP
    SELECT * INTO wish FROM {schema}.waits AS w
    WHERE w.until > moment AND w.token IS NOT NULL AND line = ANY (w.lines)
    ORDER BY w.until LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
      RETURN;
    END IF;
    life := {schema}.life(wish.ear);
    EXIT WHEN NOT pg_try_advisory_lock(life);
    -- Nobody holds it who listens. Nor must this session, or another that adds a job would take it for one.
    PERFORM pg_advisory_unlock(life);
    UPDATE {schema}.waits AS w SET token = NULL WHERE w.ear = wish.ear AND w.lines = wish.lines;
  END LOOP;
  said := json_build_array(
    line, name, called, replace(encode(content, 'base64'), E'\n', ''), wish.token, moment, wish.lines
  );
  IF octet_length(said) > 7900 OR pg_notification_queue_usage() >= 0.5 OR EXISTS (
    SELECT FROM {schema}.jobs AS j
    WHERE j.queue = line AND j.state = 'ready' AND (j.held_until IS NULL OR j.held_until <= moment)
  ) OR EXISTS (
    SELECT FROM {schema}.jobs AS j WHERE j.queue = line AND j.state IN ('later', 'leased') AND j.due <= moment
  ) THEN
    RETURN;
  END IF;
  INSERT INTO {schema}.jobs (seq, due, token, fence, state, queue, id, task, body)
  VALUES (seq, moment + wish.seconds, wish.token, 1, 'leased', line, name, called, content)
  ON CONFLICT DO NOTHING;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  IF EXISTS (SELECT FROM {schema}.ended AS e WHERE e.queue = line AND e.id = name) THEN
    DELETE FROM {schema}.jobs AS j WHERE j.queue = line AND j.id = name;
    RETURN;
  END IF;
  UPDATE {schema}.waits AS w SET token = NULL, handed = wish.token, queue = line, id = name
  WHERE w.ear = wish.ear AND w.lines = wish.lines;
  ear := wish.ear;
  message := said;
END
$$;

-- As enqueue, in two transactions of its own: one that others see at once, and one that waits for the disk.
--
-- What follows from the first stands behind it in the log: nobody's claim of these jobs can last without them. And NOTIFY
-- holds a lock of the server's until its transaction ends, which is now not for as long as the disk takes.
CREATE PROCEDURE {schema}.enqueue_ahead(
  queues text[], ids text[], tasks text[], bodies bytea[], priorities integer[], delays float8[], run_ats float8[],
  expiries float8[], uniques text[], conflicts text[], key_untils text[], key_seconds float8[], grps text[],
  group_limits integer[], rests text[], OUT places integer[], OUT holders text[], OUT in_conflict boolean[]
) LANGUAGE plpgsql AS $$
DECLARE
  handed record;
BEGIN
  IF cardinality(ids) = 1 AND num_nonnulls(
    priorities, delays, run_ats, expiries, uniques, conflicts, key_untils, key_seconds, grps, group_limits, rests
  ) = 0 THEN
    SELECT * INTO handed FROM {schema}.hand(queues[1], ids[1], tasks[1], bodies[1]);
    IF handed.ear IS NOT NULL THEN
      -- Whoever is told begins at once, and a claim waits for the disk: see fetch.
      IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'local', true);
      END IF;
      COMMIT;
      PERFORM set_config('synchronous_commit', 'off', true);
      PERFORM pg_notify('{channel}_' || to_hex(handed.ear), handed.message);
      RETURN;
    END IF;
  END IF;
  PERFORM set_config('synchronous_commit', 'off', true);
  SELECT array_agg(place), array_agg(holder), array_agg(conflict) INTO places, holders, in_conflict
  FROM {schema}.enqueue(
    queues, ids, tasks, bodies, priorities, delays, run_ats, expiries, uniques, conflicts, key_untils, key_seconds, grps,
    group_limits, rests
  );
  COMMIT;
  -- A transaction that has written nothing would not wait.
  PERFORM pg_logical_emit_message(true, 'taskq', '');
END
$$;
