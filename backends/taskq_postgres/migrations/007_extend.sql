-- Let leases end so many seconds from now, given as arrays as in settle.
--
-- grouped: the queues whose groups may change. Returns the place of each that is held, and whether it is cancelled.
CREATE FUNCTION {schema}.extend(queues text[], ids text[], tokens bigint[], grouped text[], lease float8)
RETURNS TABLE (place integer, cancelled boolean) LANGUAGE plpgsql
SET jit = off SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off
SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
  moment float8;
  job record;
  line text;
BEGIN
  queues := {schema}.spread(queues, ids);
  tokens := {schema}.spread(tokens, ids);
  IF grouped IS NOT NULL THEN
    PERFORM {schema}.lock_groups(grouped);
  END IF;
  moment := extract(epoch FROM clock_timestamp());
  RETURN QUERY
  UPDATE {schema}.jobs AS j SET state = 'leased', due = moment + lease, held_until = NULL
  FROM unnest(queues, ids, tokens) WITH ORDINALITY AS given (queue, id, token, n)
  WHERE j.queue = given.queue AND j.id = given.id AND j.token = given.token
    AND (j.grp IS NULL OR (j.state = 'leased' AND j.due > moment))
  RETURNING given.n::integer, j.cancelled;
  IF grouped IS NULL THEN
    RETURN;
  END IF;
  FOREACH line IN ARRAY grouped LOOP
    PERFORM {schema}.promote(line, true, moment);
  END LOOP;
  -- The lease is over, and nobody has taken the job: it is ours again if its group still has a place for it.
  FOR job IN
    SELECT given.n, j.queue, j.id, j.grp FROM unnest(queues, ids, tokens) WITH ORDINALITY
      AS given (queue, id, token, n), {schema}.jobs AS j
    WHERE j.queue = given.queue AND j.id = given.id AND j.token = given.token AND j.grp IS NOT NULL
      AND j.state IN ('ready', 'parked')
  LOOP
    RETURN QUERY
    UPDATE {schema}.jobs AS j
    SET state = 'leased', due = moment + lease, was_due = NULL,
      placed = j.placed OR NOT (j.cancelled OR j.group_limit = 2147483647)
    WHERE j.queue = job.queue AND j.id = job.id AND (
      j.placed OR j.cancelled OR j.group_limit > (
        SELECT count(*) FROM {schema}.jobs AS o WHERE o.queue = j.queue AND o.grp = j.grp AND o.placed
      )
    )
    RETURNING job.n::integer, j.cancelled;
    PERFORM {schema}.show(job.queue, job.grp);
  END LOOP;
END
$$;
