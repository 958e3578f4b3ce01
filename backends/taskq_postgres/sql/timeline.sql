-- Which data this server has, and the timeline it writes on; fails on a standby, and where no log can be looked at.
SELECT system_identifier AS data, left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) AS timeline FROM pg_control_system()
