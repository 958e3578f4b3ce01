-- Groups: a queue's line shows the best member that a free place allows, so that those that wait cost a fetch nothing.
--
-- A member that needs no place stands in the line as any job does: a cancelled one will not run, and one that started
-- in order still holds its own. Whoever changes anything of a group holds its queue's lock, taken before any row's.

-- A tenant is a group with a place for everybody (a group_limit of 2147483647) whose members take turns: whoever is
-- shown stands behind all others, and keeps that place unless a job of larger priority comes.

-- Hold the locks of these queues' groups until the transaction ends: in one order, so that no two wait for each other.
CREATE FUNCTION {schema}.lock_groups(queues text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  lock bigint;
BEGIN
  FOR lock IN
    SELECT DISTINCT hashtextextended('{schema} groups of ' || queue, 0) FROM unnest(queues) AS queue ORDER BY 1
  LOOP
    PERFORM pg_advisory_xact_lock(lock);
  END LOOP;
END
$$;

-- Show the best member of a tenant at the end of its queue's line.
CREATE FUNCTION {schema}.take_turn(line text, name text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  shown record;
  best record;
BEGIN
  SELECT id, priority INTO best FROM {schema}.jobs
  WHERE queue = line AND grp = name AND grp IS NOT NULL AND state = 'parked' AND NOT placed AND NOT cancelled
    AND group_limit = 2147483647
  ORDER BY group_limit DESC, priority DESC, due, seq LIMIT 1;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  SELECT id, priority INTO shown FROM {schema}.jobs
  WHERE queue = line AND grp = name AND grp IS NOT NULL AND state = 'ready' AND NOT placed AND NOT cancelled;
  IF FOUND THEN
    IF shown.priority >= best.priority THEN
      RETURN;
    END IF;
    UPDATE {schema}.jobs SET state = 'parked', due = was_due, was_due = NULL WHERE queue = line AND id = shown.id;
  END IF;
  UPDATE {schema}.jobs SET state = 'ready', was_due = due, due = extract(epoch FROM clock_timestamp())
  WHERE queue = line AND id = best.id;
END
$$;

-- Put the right member of a group in its queue's line after anything of the group has changed; callers fix the plans.
CREATE FUNCTION {schema}.show(line text, name text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  taken bigint;
  rung integer;
  head {schema}.jobs;
  best {schema}.jobs;
  shown text;
BEGIN
  IF left(name, 1) = U&'\0001' THEN
    PERFORM {schema}.take_turn(line, name);
    RETURN;
  END IF;
  SELECT count(*) INTO taken FROM {schema}.jobs WHERE queue = line AND grp = name AND placed;
  LOOP
    -- The best of each group_limit stands at the head of its own range of the index.
    SELECT * INTO head FROM {schema}.jobs
    WHERE queue = line AND grp = name AND grp IS NOT NULL AND state IN ('parked', 'ready') AND NOT placed
      AND NOT cancelled AND group_limit > taken AND (rung IS NULL OR group_limit < rung)
    ORDER BY group_limit DESC, priority DESC, due, seq LIMIT 1;
    EXIT WHEN NOT FOUND;
    IF best.id IS NULL OR (-head.priority, head.due, head.seq) < (-best.priority, best.due, best.seq) THEN
      best := head;
    END IF;
    rung := head.group_limit;
    EXIT WHEN rung = taken + 1;
  END LOOP;
  SELECT id INTO shown FROM {schema}.jobs
  WHERE queue = line AND grp = name AND grp IS NOT NULL AND state = 'ready' AND NOT placed AND NOT cancelled;
  IF shown IS DISTINCT FROM best.id THEN
    UPDATE {schema}.jobs SET state = 'parked' WHERE queue = line AND id = shown;
    UPDATE {schema}.jobs SET state = 'ready' WHERE queue = line AND id = best.id;
  END IF;
END
$$;

-- Carry out what time alone brings about in a queue: due jobs and those whose lease is over stand in line.
--
-- A portion at a time, so that no fetch pays for all that became due at once. Grouped jobs only under their lock.
-- Only what was due after since is looked at; returns the moment up to which all is done, and the oldest moved.
CREATE FUNCTION {schema}.promote(
  line text, in_groups boolean, moment float8, since float8 DEFAULT '-infinity', OUT reached float8, OUT oldest float8
) LANGUAGE plpgsql
SET jit = off SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
DECLARE
  portion CONSTANT integer := 1000;
  name text;
  names text[];
  moved tid[];
  dues float8[];
BEGIN
  SELECT array_agg(place), array_agg(due) INTO moved, dues FROM (
    SELECT ctid AS place, due FROM {schema}.jobs
    WHERE queue = line AND state IN ('later', 'leased') AND due > since AND due <= moment AND (in_groups OR grp IS NULL)
    ORDER BY due LIMIT portion FOR UPDATE SKIP LOCKED
  ) AS found;
  reached := CASE WHEN cardinality(moved) = portion THEN dues[portion] ELSE moment END;
  IF moved IS NULL THEN
    RETURN;
  END IF;
  oldest := dues[1];
  WITH promoted AS (
    UPDATE {schema}.jobs
    SET state = CASE WHEN grp IS NULL OR cancelled OR (placed AND group_limit = 1) THEN 'ready' ELSE 'parked' END,
      placed = placed AND group_limit = 1
    WHERE ctid = ANY (moved)
    RETURNING grp
  )
  SELECT array_agg(DISTINCT grp) FILTER (WHERE grp IS NOT NULL) INTO names FROM promoted;
  IF names IS NOT NULL THEN
    FOREACH name IN ARRAY names LOOP
      PERFORM {schema}.show(line, name);
    END LOOP;
  END IF;
END
$$;
