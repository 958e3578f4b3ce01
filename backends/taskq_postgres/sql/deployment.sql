-- What this server is and promises: version, its process behind this connection, and what a commit waits for.
SELECT
  current_setting('server_version_num')::integer AS version,
  pg_backend_pid() AS process,
  current_setting('synchronous_commit') AS synchronous_commit,
  current_setting('fsync')::boolean AS fsync,
  current_setting('default_transaction_isolation') AS isolation,
  EXISTS (SELECT FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')) AS replicated
