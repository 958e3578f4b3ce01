-- Remove a key of the store; its members are removed by drop_members.
DELETE FROM taskq_keys WHERE key = ?
