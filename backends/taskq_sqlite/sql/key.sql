-- A key of the store: value, until, lasting.
SELECT value, until, lasting FROM taskq_keys WHERE key = ?
