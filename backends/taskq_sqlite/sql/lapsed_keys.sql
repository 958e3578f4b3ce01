-- Some keys whose end has come.
SELECT key FROM taskq_keys WHERE until <= :now AND until IS NOT NULL LIMIT :limit
