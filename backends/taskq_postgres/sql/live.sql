-- Say that this session listens for somebody, as long as it lives.
SELECT pg_advisory_lock_shared({schema}.life($1))
