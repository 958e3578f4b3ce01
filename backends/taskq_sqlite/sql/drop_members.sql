-- Remove all members of a key, and what is remembered of those discarded.
DELETE FROM taskq_members WHERE key = ?
