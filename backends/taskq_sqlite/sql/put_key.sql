-- Write a key of the store.
INSERT OR REPLACE INTO taskq_keys (key, value, until, lasting) VALUES (?, ?, ?, ?)
