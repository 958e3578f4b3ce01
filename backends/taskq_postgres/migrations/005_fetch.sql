-- How many entries of the lines this transaction has read so far.
CREATE FUNCTION {schema}.entries_read() RETURNS bigint LANGUAGE sql AS $$
  SELECT pg_stat_get_xact_tuples_returned('{schema}.jobs_ready'::regclass)
    + pg_stat_get_xact_tuples_returned('{schema}.jobs_timed'::regclass)
$$;

-- Lock the first plain jobs of a line that nobody else holds, from a mark on: see marked(). Returns where they are, in the
-- order of delivery, and since when each can be leased. The plans are fixed by fetch, the only caller.
CREATE FUNCTION {schema}.front(
  line text, wanted integer, moment float8, mark jsonb,
  OUT places tid[], OUT since float8[], OUT priorities integer[], OUT dues float8[], OUT seqs bigint[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  above bigint := 1::bigint << 31;
  below bigint;
  rung jsonb;
  more record;
BEGIN
  places := '{}';
  FOR rung IN SELECT value FROM jsonb_array_elements(coalesce(mark -> 'rungs', '[]') || '[[]]') LOOP
    -- What lies between two known priorities, and at the end below them all, ...
    below := coalesce((rung ->> 0)::bigint, -(1::bigint << 32));
    SELECT
      array_agg(ctid) AS places, array_agg(since) AS since, array_agg(priority) AS priorities, array_agg(due) AS dues,
      array_agg(seq) AS seqs
    INTO more FROM (
      SELECT ctid, coalesce(held_until, was_due, due) AS since, priority, due, seq FROM {schema}.jobs
      WHERE queue = line AND state = 'ready' AND (held_until IS NULL OR held_until <= moment)
        AND grp IS NULL AND priority < above AND priority > below
      ORDER BY priority DESC, due, seq LIMIT wanted - cardinality(places) FOR UPDATE SKIP LOCKED
    ) AS found;
    places := places || more.places; since := since || more.since; priorities := priorities || more.priorities;
    dues := dues || more.dues; seqs := seqs || more.seqs;
    EXIT WHEN cardinality(places) = wanted OR rung = '[]';
    -- ... and what is known of a priority, from its position on.
    SELECT
      array_agg(ctid) AS places, array_agg(since) AS since, array_agg(priority) AS priorities, array_agg(due) AS dues,
      array_agg(seq) AS seqs
    INTO more FROM (
      SELECT ctid, coalesce(held_until, was_due, due) AS since, priority, due, seq FROM {schema}.jobs
      WHERE queue = line AND state = 'ready' AND (held_until IS NULL OR held_until <= moment)
        AND grp IS NULL AND priority = below AND (due, seq) >= ((rung ->> 1)::float8, (rung ->> 2)::bigint)
      ORDER BY due, seq LIMIT wanted - cardinality(places) FOR UPDATE SKIP LOCKED
    ) AS found;
    places := places || more.places; since := since || more.since; priorities := priorities || more.priorities;
    dues := dues || more.dues; seqs := seqs || more.seqs;
    EXIT WHEN cardinality(places) = wanted;
    above := below;
  END LOOP;
END
$$;

-- How many of the jobs in these places can be leased at once: up to the first that lets another of its group go, too,
-- which may stand before the rest. The next of a tenant does so only if its priority is larger than the last one's.
CREATE FUNCTION {schema}.independent(
  line text, places tid[], priorities integer[], OUT many integer, OUT following text
)
LANGUAGE plpgsql AS $$
BEGIN
  SELECT n, grp INTO many, following
  FROM unnest(places) WITH ORDINALITY AS first (place, n), LATERAL (
    SELECT j.id, j.grp, j.group_limit FROM {schema}.jobs AS j
    WHERE j.ctid = first.place AND j.grp IS NOT NULL AND NOT j.placed AND NOT j.cancelled
  ) AS member, LATERAL (
    SELECT count(*) AS taken FROM {schema}.jobs AS o WHERE o.queue = line AND o.grp = member.grp AND o.placed
  ) AS holders
  WHERE CASE member.group_limit
    WHEN 2147483647 THEN priorities[cardinality(priorities)] < (
      SELECT w.priority FROM {schema}.jobs AS w
      WHERE w.queue = line AND w.grp = member.grp AND w.grp IS NOT NULL AND w.state = 'parked'
        AND NOT w.placed AND NOT w.cancelled AND w.group_limit = 2147483647
      ORDER BY w.group_limit DESC, w.priority DESC, w.due, w.seq LIMIT 1
    )
    ELSE EXISTS (
      SELECT FROM {schema}.jobs AS w
      WHERE w.queue = line AND w.grp = member.grp AND w.grp IS NOT NULL AND w.state IN ('parked', 'ready')
        AND NOT w.placed AND NOT w.cancelled AND w.id <> member.id AND w.group_limit > 1 + holders.taken
    )
  END
  ORDER BY n LIMIT 1;
  many := coalesce(many, cardinality(places));
END
$$;

-- Where the next fetch may enter a line of plain jobs: behind what this one found to be over.
--
-- reached: what was due before it stands in line. rungs: for each priority seen, by falling priority, the due moment
-- and number before which no job was found. NULL when that would be too much to carry to and fro.
CREATE FUNCTION {schema}.marked(
  mark jsonb, moment float8, reached float8, oldest float8, exhausted boolean, priorities integer[], dues float8[],
  seqs bigint[]
) RETURNS jsonb LANGUAGE sql AS $$
  SELECT jsonb_build_object(
    'reached', least(reached, moment - 0.2),
    'rungs', coalesce(jsonb_agg(jsonb_build_array(priority, due, seq) ORDER BY priority DESC), '[]')
  )
  FROM (
    -- An enqueue that is not committed yet may bring a job that was due a little earlier.
    SELECT
      priority, CASE WHEN exhausted OR due > moment - 0.2 THEN moment - 0.2 ELSE due END AS due,
      CASE WHEN exhausted OR due > moment - 0.2 THEN 0 ELSE seq END AS seq
    FROM (
      SELECT DISTINCT ON (priority) priority, due, seq FROM (
        SELECT
          (value ->> 0)::integer AS priority, least((value ->> 1)::float8, oldest) AS due,
          CASE WHEN oldest < (value ->> 1)::float8 THEN 0 ELSE (value ->> 2)::bigint END AS seq, 0 AS n
        FROM jsonb_array_elements(mark -> 'rungs')
        UNION ALL
        SELECT * FROM unnest(priorities, dues, seqs) WITH ORDINALITY
      ) AS seen ORDER BY priority, n DESC
    ) AS last
  ) AS rungs
  HAVING count(*) <= 16
$$;

-- A fetch has found nothing: let one job be handed to it, if it waits. heard: the last token it knows to be used. Another
-- one that was used meanwhile is returned with its job, whose message may have been lost.
CREATE FUNCTION {schema}.wait(
  listener bigint, queues text[], lease float8, proof bigint, heard bigint, waits boolean, moment float8,
  OUT unheard {schema}.waits
) LANGUAGE plpgsql AS $$
DECLARE
  fresh CONSTANT float8 := moment + 1.5;
BEGIN
  SELECT * INTO unheard FROM {schema}.waits AS w WHERE w.ear = listener AND w.lines = queues;
  IF unheard.ear IS NULL THEN
    IF waits THEN
      INSERT INTO {schema}.waits (ear, lines, seconds, token, until, handed)
      VALUES (listener, queues, lease, proof, moment + 4, heard) ON CONFLICT DO NOTHING;
    END IF;
  ELSIF unheard.handed IS DISTINCT FROM heard THEN
    RETURN;
  ELSIF (unheard.token IS NOT NULL) <> waits OR (waits AND (unheard.until < fresh OR unheard.seconds <> lease)) THEN
    -- Every few seconds, while nothing happens. Whoever holds the row hands a job over, and may wait for one of this fetch's.
    IF waits THEN
      PERFORM FROM {schema}.waits AS w WHERE w.ear = listener AND w.lines = queues FOR UPDATE SKIP LOCKED;
      IF NOT FOUND THEN
        unheard := NULL;
        RETURN;
      END IF;
    END IF;
    UPDATE {schema}.waits AS w
    SET seconds = lease, token = CASE WHEN waits THEN proof END,
      until = CASE WHEN w.until < fresh THEN moment + 4 ELSE w.until END
    WHERE w.ear = listener AND w.lines = queues AND w.handed IS NOT DISTINCT FROM heard;
    IF NOT FOUND THEN
      -- Just now.
      SELECT * INTO unheard FROM {schema}.waits AS w WHERE w.ear = listener AND w.lines = queues;
      RETURN;
    END IF;
  END IF;
  unheard := NULL;
END
$$;

-- Lease up to so many due jobs of the queues, in the order given; proof is the random part of their receipts.
--
-- Returns a row for each in the order of delivery. When there are none, one row without an id: its due is the moment at
-- which there may be one, NULL for not in sight.
--
-- Entries of the lines that are over are passed over until they can be removed, and that waits for every transaction
-- that is older. When there were many the last row has no id, and says how many, and where the lines may be entered
-- next time: those are the marks that a fetch may be given. What a slow transaction adds before a mark, or another
-- process puts there, is found by the next fetch without marks.
--
-- With a listener one may be handed to this fetch later, if there are none now and it waits: see wait. One that was handed
-- over unheard is returned with the rest, and the last row has its token.
CREATE FUNCTION {schema}.fetch(
  queues text[], wanted integer, lease float8, proof bigint, marks jsonb DEFAULT NULL, listener bigint DEFAULT NULL,
  heard bigint DEFAULT NULL, waits boolean DEFAULT false
)
RETURNS TABLE (
  queue text, id text, task text, body bytea, priority integer, uniq text, grp text, group_limit integer, rest text,
  due float8, attempt integer, losses integer, fence bigint, expires_at float8, cancelled boolean, error bytea,
  now float8, passed bigint, next_marks text, handed bigint
) LANGUAGE plpgsql
-- A plan that was made while the table was small must not stay when it has grown. What is switched off counts as very
-- costly before PostgreSQL 18, and what is costly is compiled, which takes longer than all the rest; and arrays would be planned for at each call.
SET jit = off SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET enable_hashjoin = off
SET enable_mergejoin = off SET enable_material = off AS $$
#variable_conflict use_column
DECLARE
  grouped text[];
  moment float8;
  line text;
  taken integer;
  missing integer := wanted;
  in_groups boolean;
  portion integer;
  exhausted boolean;
  stays boolean;
  following text;
  name text;
  served text[] := '{}';
  mark jsonb;
  behind float8;
  reached float8;
  oldest float8;
  first record;
  unheard {schema}.waits;
  next jsonb := coalesce(marks, '{}');
  entries bigint := {schema}.entries_read();
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
    mark := marks -> line;
    in_groups := line = ANY (grouped);
    behind := coalesce((mark ->> 'reached')::float8, '-infinity');
    reached := moment;
    oldest := NULL;
    -- Most fetches find that time has moved nothing, and a call costs 30 µs more than a look.
    IF EXISTS (
      SELECT FROM {schema}.jobs AS j
      WHERE j.queue = line AND j.state IN ('later', 'leased') AND j.due > behind AND j.due <= moment
    ) THEN
      SELECT p.reached, p.oldest INTO reached, oldest FROM {schema}.promote(line, in_groups, moment, behind) AS p;
    END IF;
    portion := missing;
    LOOP
      IF mark IS NULL OR in_groups THEN
        -- From its start, as most fetches do, which front would do, too, at 20 µs more.
        SELECT
          coalesce(array_agg(ctid), '{}') AS places, array_agg(since) AS since, array_agg(priority) AS priorities,
          array_agg(due) AS dues, array_agg(seq) AS seqs
        INTO first FROM (
          SELECT ctid, coalesce(held_until, was_due, due) AS since, priority, due, seq FROM {schema}.jobs
          WHERE queue = line AND state = 'ready' AND (held_until IS NULL OR held_until <= moment)
            AND (in_groups OR grp IS NULL)
          ORDER BY priority DESC, due, seq LIMIT least(portion, missing) FOR UPDATE SKIP LOCKED
        ) AS found;
      ELSE
        SELECT * INTO first FROM {schema}.front(line, least(portion, missing), moment, mark);
      END IF;
      taken := cardinality(first.places);
      exhausted := taken < least(portion, missing);
      passed := {schema}.entries_read() - entries - (wanted - missing) - taken;
      -- Whoever comes passes over the leases that stand in the line: at most a few times what is fetched.
      stays := NOT in_groups AND mark IS NULL AND passed <= 4 * taken;
      EXIT WHEN taken = 0 AND NOT in_groups;
      IF in_groups THEN
        SELECT many, following INTO taken, following FROM {schema}.independent(line, first.places, first.priorities);
        portion := CASE WHEN following IS NULL THEN least(2 * portion, wanted) ELSE taken END;
        served := ARRAY(
          SELECT j.grp FROM unnest(first.places[:taken]) WITH ORDINALITY AS front (place, n), {schema}.jobs AS j
          WHERE j.ctid = front.place AND j.grp IS NOT NULL AND j.group_limit = 2147483647 ORDER BY n
        );
      END IF;
      -- In the order of delivery, as there is but one way to join: each place in turn leads to its row.
      RETURN QUERY
      -- A token still there is a lease that ended unsettled.
      UPDATE {schema}.jobs AS j
      SET state = CASE WHEN stays THEN 'ready' ELSE 'leased' END, was_due = NULL, fence = j.fence + 1,
        due = CASE WHEN stays THEN j.due ELSE moment + lease END,
        held_until = CASE WHEN stays THEN moment + lease END,
        losses = j.losses + (j.token IS NOT NULL)::integer, token = proof,
        placed = j.placed OR (j.grp IS NOT NULL AND NOT j.cancelled AND j.group_limit < 2147483647),
        keyed = j.keyed AND j.key_until <> 'start'
      FROM unnest(first.places[:taken], first.since[:taken]) AS front (place, since)
      WHERE j.ctid = front.place
      RETURNING
        j.queue, j.id, j.task, j.body, j.priority, j.uniq, j.grp, j.group_limit, j.rest, front.since, j.attempt, j.losses,
        j.fence, j.expires_at, j.cancelled, j.error,
        -- What came to stand in line since the clock was read is due all the same.
        greatest(moment, front.since), NULL::bigint, NULL, NULL::bigint;
      missing := missing - taken;
      FOREACH name IN ARRAY served LOOP
        PERFORM {schema}.take_turn(line, name);
      END LOOP;
      IF following IS NOT NULL THEN
        PERFORM {schema}.show(line, following);
        following := NULL;
      ELSIF (exhausted AND served = '{}') OR missing <= 0 THEN
        EXIT;
      END IF;
    END LOOP;
    IF marks IS NOT NULL OR passed > 2000 THEN
      -- A line with groups is walked from its start: a member that comes to stand in it was due long ago.
      next := next || jsonb_build_object(line, {schema}.marked(
        mark, moment, reached, oldest, exhausted, CASE WHEN NOT in_groups THEN first.priorities END,
        CASE WHEN NOT in_groups THEN first.dues END, CASE WHEN NOT in_groups THEN first.seqs END
      ));
    END IF;
  END LOOP;
  IF listener IS NOT NULL AND missing < wanted THEN
    -- Whoever holds the row may wait for one of these jobs.
    UPDATE {schema}.waits SET token = NULL WHERE ctid = (
      SELECT ctid FROM {schema}.waits AS w WHERE w.ear = listener AND w.lines = queues AND w.token IS NOT NULL
      FOR UPDATE SKIP LOCKED
    );
  ELSIF listener IS NOT NULL THEN
    -- Among many entries that are over nobody is to look for what stands before a job.
    unheard := {schema}.wait(
      listener, queues, lease, proof, heard, waits AND marks IS NULL AND coalesce(passed, 0) <= 2000, moment
    );
    IF unheard.handed IS NOT NULL THEN
      RETURN QUERY
      UPDATE {schema}.jobs AS j SET due = moment + lease
      WHERE j.queue = unheard.queue AND j.id = unheard.id AND j.token = unheard.handed
        AND j.state = 'leased' AND j.due > moment
      RETURNING
        j.queue, j.id, j.task, j.body, j.priority, j.uniq, j.grp, j.group_limit, j.rest, moment, j.attempt, j.losses,
        j.fence, j.expires_at, j.cancelled, j.error, moment, NULL::bigint, NULL, NULL::bigint;
      handed := unheard.handed;
    END IF;
  END IF;
  now := moment;
  IF missing = wanted OR marks IS NOT NULL OR passed > 2000 THEN
    next_marks := next::text;
    IF missing = wanted THEN
      SELECT min(soonest.due) INTO due FROM unnest(queues) AS name, LATERAL (
        (
          SELECT j.due FROM {schema}.jobs AS j
          WHERE j.queue = name AND j.state IN ('later', 'leased')
            AND j.due >= coalesce((next -> name ->> 'reached')::float8, '-infinity')
          ORDER BY j.due LIMIT 1
        )
        UNION ALL
        SELECT min(j.held_until) FROM {schema}.jobs AS j WHERE marks IS NULL AND j.queue = name AND j.state = 'ready'
      ) AS soonest;
    END IF;
    RETURN NEXT;
  END IF;
END
$$;
