-- Remove one member of a key without remembering it.
DELETE FROM taskq_members WHERE key = ? AND member = ?
