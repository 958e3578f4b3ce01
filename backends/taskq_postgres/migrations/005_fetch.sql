-- Lease up to so many due jobs of the queues, in the order given; proof is the random part of their receipts.
--
-- Returns a row for each in the order of delivery. When there are none, one row without an id: its due is the moment at
-- which there may be one, NULL for not in sight.
CREATE FUNCTION {schema}.fetch(queues text[], wanted integer, lease float8, proof bigint)
RETURNS TABLE (
  queue text, id text, task text, body bytea, priority integer, uniq text, grp text, group_limit integer, rest text,
  due float8, attempt integer, losses integer, fence bigint, expires_at float8, cancelled boolean, error bytea,
  now float8
) LANGUAGE plpgsql
-- A plan that was made while the table was small must not stay when it has grown. What is switched off counts as very
-- costly before PostgreSQL 18, and what is costly is compiled, which takes longer than all the rest.
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET enable_hashjoin = off
SET enable_mergejoin = off SET enable_material = off AS $$
#variable_conflict use_column
DECLARE
  grouped text[];
  moment float8;
  line text;
  taken integer;
  missing integer := wanted;
  head {schema}.jobs;
BEGIN
  -- A claim that a crash of the server undoes would be neither counted as a loss nor raise the fence: an at-most-once
  -- job would run twice. So it waits for the disk, also where other commits do not.
  IF current_setting('synchronous_commit') = 'off' THEN
    PERFORM set_config('synchronous_commit', 'local', true);
  END IF;
  grouped := ARRAY(
    SELECT name FROM unnest(queues) AS name WHERE EXISTS (
      SELECT FROM {schema}.jobs AS j WHERE j.queue = name AND j.grp IS NOT NULL AND j.state <> 'dead'
    )
  );
  IF grouped <> '{}' THEN
    PERFORM {schema}.lock_groups(grouped);
  END IF;
  moment := extract(epoch FROM clock_timestamp());
  FOREACH line IN ARRAY queues LOOP
    EXIT WHEN missing <= 0;
    PERFORM {schema}.promote(line, line = ANY (grouped), moment);
    IF line <> ALL (grouped) THEN
      RETURN QUERY
      WITH front AS MATERIALIZED (
        SELECT j.ctid AS place, j.due FROM {schema}.jobs AS j
        WHERE j.queue = line AND j.state = 'ready' AND j.grp IS NULL
        ORDER BY j.priority DESC, j.due, j.seq LIMIT missing FOR UPDATE SKIP LOCKED
      ), leased AS (
        -- A token still there is a lease that ended unsettled.
        UPDATE {schema}.jobs AS j
        SET state = 'leased', due = moment + lease, fence = j.fence + 1,
          losses = j.losses + (j.token IS NOT NULL)::integer, token = proof,
          keyed = j.keyed AND j.key_until <> 'start'
        FROM front WHERE j.ctid = front.place
        RETURNING
          j.queue, j.id, j.task, j.body, j.priority, j.uniq, j.grp, j.group_limit, j.rest, front.due, j.attempt,
          j.losses, j.fence, j.expires_at, j.cancelled, j.error, moment, j.seq
      )
      SELECT
        l.queue, l.id, l.task, l.body, l.priority, l.uniq, l.grp, l.group_limit, l.rest, l.due, l.attempt, l.losses,
        l.fence, l.expires_at, l.cancelled, l.error, l.moment
      FROM leased AS l ORDER BY l.priority DESC, l.due, l.seq;
      GET DIAGNOSTICS taken = ROW_COUNT;
      missing := missing - taken;
      CONTINUE;
    END IF;
    -- One by one: each member shows the next of its group, which may stand before the rest.
    WHILE missing > 0 LOOP
      SELECT * INTO head FROM {schema}.jobs AS j WHERE j.queue = line AND j.state = 'ready'
      ORDER BY j.priority DESC, j.due, j.seq LIMIT 1 FOR UPDATE SKIP LOCKED;
      EXIT WHEN NOT FOUND;
      RETURN QUERY
      UPDATE {schema}.jobs AS j
      SET state = 'leased', due = moment + lease, fence = j.fence + 1,
        losses = j.losses + (j.token IS NOT NULL)::integer, token = proof,
        placed = j.placed OR (j.grp IS NOT NULL AND NOT j.cancelled), keyed = j.keyed AND j.key_until <> 'start'
      WHERE j.queue = line AND j.id = head.id
      RETURNING
        j.queue, j.id, j.task, j.body, j.priority, j.uniq, j.grp, j.group_limit, j.rest, head.due, j.attempt, j.losses,
        j.fence, j.expires_at, j.cancelled, j.error, moment;
      missing := missing - 1;
      IF head.grp IS NOT NULL THEN
        PERFORM {schema}.show(line, head.grp);
      END IF;
    END LOOP;
  END LOOP;
  IF missing = wanted THEN
    now := moment;
    SELECT min(soonest.due) INTO due FROM unnest(queues) AS name, LATERAL (
      SELECT j.due FROM {schema}.jobs AS j WHERE j.queue = name AND j.state IN ('later', 'leased')
      ORDER BY j.due LIMIT 1
    ) AS soonest;
    RETURN NEXT;
  END IF;
END
$$;
