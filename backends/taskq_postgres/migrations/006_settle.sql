-- End leases, given as arrays of one length without repetition; of queues and tokens one element will do. NULL for kinds means that all are plain acks.
--
-- kinds: 'ack', 'nack', 'dead'. payloads: an outcome, or a nack's error. seconds: how long an ack's or dead letter's
-- outcome is kept (NULL: for ever), or after how long a nack is due. grouped: the queues whose groups may change.
-- tells: as for enqueue, and those who wait for an outcome are told, too.
-- Returns the places of those that were settled; what is missing had a void receipt.
CREATE FUNCTION {schema}.settle(
  queues text[],
  ids text[],
  tokens bigint[],
  kinds text[],
  payloads bytea[],
  seconds float8[],
  counted boolean[],
  grouped text[],
  dedup_window float8,
  tells boolean,
  OUT places integer[]
) LANGUAGE plpgsql
SET jit = off SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off
SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
  moment float8;
  line text;
  name text;
  lines text[];
  names text[];
BEGIN
  queues := {schema}.spread(queues, ids);
  tokens := {schema}.spread(tokens, ids);
  IF grouped IS NOT NULL THEN
    PERFORM {schema}.lock_groups(grouped);
    SELECT array_agg(queue), array_agg(grp) INTO lines, names FROM (
      SELECT DISTINCT j.queue, j.grp FROM unnest(queues, ids, tokens) AS given (queue, id, token), {schema}.jobs AS j
      WHERE j.queue = given.queue AND j.id = given.id AND j.token = given.token AND j.grp IS NOT NULL
    ) AS changed;
  END IF;
  moment := extract(epoch FROM clock_timestamp());
  IF kinds IS NULL THEN
    WITH acked AS (
      DELETE FROM {schema}.jobs AS j
      USING unnest(queues, ids, tokens) WITH ORDINALITY AS given (queue, id, token, n)
      WHERE j.queue = given.queue AND j.id = given.id AND j.token = given.token
      RETURNING given.n
    )
    SELECT array_agg(n::integer) INTO places FROM acked;
  ELSE
    WITH acked AS (
      DELETE FROM {schema}.jobs AS j
      USING unnest(queues, ids, tokens, kinds, payloads, seconds) WITH ORDINALITY
        AS given (queue, id, token, kind, payload, seconds, n)
      WHERE given.kind = 'ack' AND j.queue = given.queue AND j.id = given.id AND j.token = given.token
      RETURNING given.n, j.queue, j.id, given.payload, given.seconds
    ), dead AS (
      UPDATE {schema}.jobs AS j
      SET state = 'dead', due = moment, was_due = NULL, held_until = NULL, outcome = given.payload,
        lapses_at = moment + given.seconds, token = NULL, placed = false, keyed = j.keyed AND j.key_until = 'success'
      FROM unnest(queues, ids, tokens, kinds, payloads, seconds) WITH ORDINALITY
        AS given (queue, id, token, kind, payload, seconds, n)
      WHERE given.kind = 'dead' AND j.queue = given.queue AND j.id = given.id AND j.token = given.token
      RETURNING given.n, j.queue, j.id
    ), nacked AS (
      UPDATE {schema}.jobs AS j
      SET state = CASE
          WHEN given.seconds > 0 THEN 'later'
          WHEN j.grp IS NULL OR j.cancelled OR (j.placed AND j.group_limit = 1) THEN 'ready'
          ELSE 'parked'
        END,
        due = moment + given.seconds, was_due = NULL, held_until = NULL, token = NULL,
        attempt = j.attempt + given.counted::integer, placed = j.placed AND j.group_limit = 1,
        error = coalesce(given.payload, j.error)
      FROM unnest(queues, ids, tokens, kinds, payloads, seconds, counted) WITH ORDINALITY
        AS given (queue, id, token, kind, payload, seconds, counted, n)
      WHERE given.kind = 'nack' AND j.queue = given.queue AND j.id = given.id AND j.token = given.token
      RETURNING given.n
    ), kept AS (
      INSERT INTO {schema}.ended AS e (queue, id, outcome, outcome_until, id_until, lapses_at)
      SELECT queue, id, outcome, moment + keep, moment + dedup_window, moment + greatest(keep, dedup_window)
      FROM (
        SELECT queue, id, payload AS outcome, CASE WHEN payload IS NULL THEN 0 ELSE seconds END AS keep FROM acked
        UNION ALL
        SELECT queue, id, NULL, 0 FROM dead
      ) AS ends
      WHERE greatest(keep, dedup_window) > 0
      ON CONFLICT (queue, id) DO UPDATE
      SET outcome = excluded.outcome, outcome_until = excluded.outcome_until, id_until = excluded.id_until,
        lapses_at = excluded.lapses_at
    )
    SELECT array_agg(n::integer) INTO places
    FROM (SELECT n FROM acked UNION ALL SELECT n FROM dead UNION ALL SELECT n FROM nacked) AS settled;
  END IF;
  IF grouped IS NOT NULL THEN
    FOR line, name IN SELECT changed.queue, changed.grp FROM unnest(lines, names) AS changed (queue, grp)
    LOOP
      PERFORM {schema}.show(line, name);
    END LOOP;
  END IF;
  IF tells THEN
    PERFORM {schema}.tell(queues);
    PERFORM {schema}.say(ARRAY['e']);
  END IF;
END
$$;
