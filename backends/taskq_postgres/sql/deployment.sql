-- What this server is and promises: its process behind this connection, what a commit waits for, how many connections
-- it has and may have, and its clock.
SELECT
  pg_backend_pid() AS process,
  current_setting('synchronous_commit') AS synchronous_commit,
  current_setting('fsync')::boolean AS fsync,
  current_setting('default_transaction_isolation') AS isolation,
  current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
    - coalesce(current_setting('reserved_connections', true)::integer, 0) AS most,
  -- Of others' sessions an ordinary user sees whose they are, and not what kind.
  (SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL AND usesysid IS NOT NULL) AS used,
  EXISTS (SELECT FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')) AS replicated,
  extract(epoch FROM clock_timestamp())::float8 AS now
