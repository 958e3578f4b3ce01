-- Three roles for the schema {schema}, none of which can log in: grant them to the users of your programs.
--
--   {role}_migrate  owns the schema: for `taskq migrate`, in the deploy
--   {role}_enqueue  calls what enqueues: for programs that only defer
--   {role}_work     reads and writes the tables, and changes no table itself: for workers, consoles, results
--
-- Run it as a superuser after the first migration, whoever ran that; it may be run again. Later migrations are run by
-- {role}_migrate, and what they create is granted as said here.
BEGIN;

DO $$
DECLARE
  role text;
  thing record;
BEGIN
  FOREACH role IN ARRAY ARRAY['{role}_migrate', '{role}_enqueue', '{role}_work'] LOOP
    IF to_regrole(role) IS NULL THEN
      EXECUTE format('CREATE ROLE %I NOLOGIN', role);
    END IF;
  END LOOP;
  ALTER SCHEMA {schema} OWNER TO {role}_migrate;
  FOR thing IN
    SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind, oid::regclass::text AS name
    FROM pg_class WHERE relnamespace = '{schema}'::regnamespace AND relkind IN ('r', 'v', 'S')
    UNION ALL
    SELECT 'ROUTINE', oid::regprocedure::text FROM pg_proc WHERE pronamespace = '{schema}'::regnamespace
  LOOP
    EXECUTE format('ALTER %s %s OWNER TO {role}_migrate', thing.kind, thing.name);
  END LOOP;
END
$$;

-- Of every step to come, too: a function is everybody's until it is revoked.
ALTER DEFAULT PRIVILEGES FOR ROLE {role}_migrate REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE {role}_migrate IN SCHEMA {schema}
  GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role}_work;
ALTER DEFAULT PRIVILEGES FOR ROLE {role}_migrate IN SCHEMA {schema} GRANT USAGE ON SEQUENCES TO {role}_work;
ALTER DEFAULT PRIVILEGES FOR ROLE {role}_migrate IN SCHEMA {schema} GRANT EXECUTE ON FUNCTIONS TO {role}_work;

REVOKE EXECUTE ON ALL ROUTINES IN SCHEMA {schema} FROM PUBLIC;
GRANT USAGE ON SCHEMA {schema} TO {role}_enqueue, {role}_work;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}_work;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {role}_work;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA {schema} TO {role}_work;
GRANT SELECT ON {schema}.migrations TO {role}_enqueue;
GRANT EXECUTE ON ROUTINE {schema}.enqueue, {schema}.enqueue_ahead, {schema}.hand TO {role}_enqueue;

COMMIT;
