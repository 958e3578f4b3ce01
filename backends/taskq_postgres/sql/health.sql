-- What an operator should know of the server, this database and the tables: one row.
SELECT
  current_setting('server_version') AS version,
  current_setting('server_version_num')::integer AS version_num,
  current_setting('synchronous_commit') AS synchronous_commit,
  current_setting('fsync')::boolean AS fsync,
  current_setting('full_page_writes')::boolean AS full_page_writes,
  current_setting('autovacuum')::boolean AND current_setting('track_counts')::boolean AS autovacuum,
  current_setting('synchronous_standby_names') AS wanted_standbys,
  pg_is_in_recovery() AS standby,
  (SELECT count(*) FROM pg_stat_replication) AS standbys,
  (SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')) AS synchronous_standbys,
  current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
    - coalesce(current_setting('reserved_connections', true)::integer, 0) AS most,
  -- Of others' sessions an ordinary user sees whose they are, and not what kind.
  (SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL AND usesysid IS NOT NULL) AS used,
  -- What keeps dead rows: a snapshot or a number held by a transaction, also one that was prepared or that a slot keeps.
  (
    SELECT extract(epoch FROM clock_timestamp() - min(xact_start))::float8 FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND (backend_xid IS NOT NULL OR backend_xmin IS NOT NULL)
  ) AS oldest,
  (
    SELECT extract(epoch FROM clock_timestamp() - min(prepared))::float8 FROM pg_prepared_xacts
    WHERE database = current_database()
  ) AS prepared,
  (SELECT count(*) FROM pg_replication_slots WHERE NOT active) AS idle_slots,
  s.n_live_tup AS live,
  s.n_dead_tup AS dead,
  pg_table_size(s.relid) AS bytes,
  extract(epoch FROM clock_timestamp())::float8 AS now
FROM pg_stat_user_tables AS s WHERE s.relid = '{schema}.jobs'::regclass
