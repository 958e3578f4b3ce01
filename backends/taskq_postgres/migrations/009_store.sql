-- The store's calls: each holds its key's lock, so that a key changes as one thing.

-- Nothing of the key remains.
CREATE FUNCTION {schema}.forget_key(name text) RETURNS void LANGUAGE sql AS $$
  DELETE FROM {schema}.members WHERE key = name;
  DELETE FROM {schema}.discarded WHERE key = name;
  DELETE FROM {schema}.keys WHERE key = name;
$$;

-- The key as it is now, with a row of its own: what has lapsed of it is removed.
CREATE FUNCTION {schema}.open_key(name text, moment float8) RETURNS {schema}.keys LANGUAGE plpgsql AS $$
DECLARE
  held {schema}.keys;
BEGIN
  SELECT * INTO held FROM {schema}.keys WHERE key = name;
  IF held.until <= moment THEN
    PERFORM {schema}.forget_key(name);
  END IF;
  IF held.key IS NULL OR held.until <= moment THEN
    INSERT INTO {schema}.keys (key) VALUES (name) RETURNING * INTO held;
  ELSE
    DELETE FROM {schema}.members WHERE key = name AND until <= moment AND until IS NOT NULL;
  END IF;
  RETURN held;
END
$$;

-- How many live members a key has that was just opened.
CREATE FUNCTION {schema}.count_members(name text) RETURNS bigint LANGUAGE sql AS $$
  SELECT k.lasting + (
    SELECT count(*) FROM {schema}.members AS m WHERE m.key = name AND NOT m.gone AND m.until IS NOT NULL
  )
  FROM {schema}.keys AS k WHERE k.key = name
$$;

-- Keep the key if it holds anything; otherwise nothing of it remains.
CREATE FUNCTION {schema}.close_key(name text, moment float8) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT FROM {schema}.keys WHERE key = name AND value IS NULL) AND {schema}.count_members(name) = 0 THEN
    PERFORM {schema}.forget_key(name);
  END IF;
END
$$;

-- Set the value if it is what it was; NULL is absent. With ttl the whole key ends so many seconds from now.
CREATE FUNCTION {schema}.swap(name text, was bytea, new bytea, ttl float8) RETURNS boolean LANGUAGE plpgsql
SET jit = off SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off AS $$
DECLARE
  moment float8;
  held {schema}.keys;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended('{schema} key ' || name, 0));
  moment := extract(epoch FROM clock_timestamp());
  held := {schema}.open_key(name, moment);
  IF held.value IS DISTINCT FROM was THEN
    PERFORM {schema}.close_key(name, moment);
    RETURN false;
  END IF;
  UPDATE {schema}.keys SET value = new, until = coalesce(moment + ttl, until) WHERE key = name;
  PERFORM {schema}.close_key(name, moment);
  RETURN true;
END
$$;

-- Add all members, or none when there would then be more than ceiling. Those discarded before are passed over.
CREATE FUNCTION {schema}.add(name text, adding text[], ttl float8, ceiling bigint) RETURNS boolean LANGUAGE plpgsql
SET jit = off SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
  moment float8;
  fresh bigint;
  lasting_before bigint;
  allowed text[];
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended('{schema} key ' || name, 0));
  moment := extract(epoch FROM clock_timestamp());
  PERFORM {schema}.open_key(name, moment);
  SELECT
    array_agg(given.member), count(*) FILTER (WHERE m.member IS NULL),
    count(*) FILTER (WHERE m.member IS NOT NULL AND m.until IS NULL)
  INTO allowed, fresh, lasting_before
  FROM (SELECT DISTINCT member FROM unnest(adding) AS member) AS given
  LEFT JOIN {schema}.members AS m ON m.key = name AND m.member = given.member
  WHERE m.gone IS NOT TRUE
    AND given.member NOT IN (SELECT unnest(d.members) FROM {schema}.discarded AS d WHERE d.key = name);
  IF ceiling < fresh + {schema}.count_members(name) THEN
    PERFORM {schema}.close_key(name, moment);
    RETURN false;
  END IF;
  INSERT INTO {schema}.members (key, member, until) SELECT name, member, moment + ttl FROM unnest(allowed) AS member
  ON CONFLICT (key, member) DO UPDATE SET until = excluded.until;
  UPDATE {schema}.keys
  SET lasting = lasting - lasting_before + CASE WHEN ttl IS NULL THEN coalesce(cardinality(allowed), 0) ELSE 0 END
  WHERE key = name;
  PERFORM {schema}.close_key(name, moment);
  RETURN true;
END
$$;

-- Remove members for good; returns how many are left.
CREATE FUNCTION {schema}.discard(name text, leaving text[]) RETURNS bigint LANGUAGE plpgsql
SET jit = off SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
  moment float8;
  held {schema}.keys;
  lasting_gone text[];
  left_over bigint;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended('{schema} key ' || name, 0));
  moment := extract(epoch FROM clock_timestamp());
  held := {schema}.open_key(name, moment);
  IF held.lasting > 0 THEN
    WITH gone AS (
      DELETE FROM {schema}.members WHERE key = name AND member = ANY (leaving) AND until IS NULL RETURNING member
    )
    SELECT array_agg(member) INTO lasting_gone FROM gone;
    IF lasting_gone IS NOT NULL THEN
      INSERT INTO {schema}.discarded (key, members) VALUES (name, lasting_gone);
      UPDATE {schema}.keys SET lasting = lasting - cardinality(lasting_gone) WHERE key = name;
    END IF;
  END IF;
  IF EXISTS (SELECT FROM {schema}.members WHERE key = name AND NOT gone AND until IS NOT NULL) THEN
    UPDATE {schema}.members SET gone = true
    WHERE key = name AND member = ANY (leaving) AND until IS NOT NULL AND NOT gone;
  END IF;
  left_over := {schema}.count_members(name);
  PERFORM {schema}.close_key(name, moment);
  RETURN left_over;
END
$$;

-- Remove members and settle their jobs, as one: see discard and settle. NULL when no member is left, and then nothing was settled.
CREATE FUNCTION {schema}.discard_and_settle(
  name text, leaving text[], queues text[], ids text[], tokens bigint[], kinds text[], payloads bytea[], seconds float8[],
  counted boolean[], grouped text[], dedup_window float8, OUT places integer[]
) LANGUAGE plpgsql
SET jit = off SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  IF {schema}.discard(name, leaving) > 0 THEN
    places := coalesce(
      {schema}.settle(queues, ids, tokens, kinds, payloads, seconds, counted, grouped, dedup_window, false), '{}'
    );
  END IF;
END
$$;
