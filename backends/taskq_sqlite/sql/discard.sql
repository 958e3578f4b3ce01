-- Remove a member of a key that never lapses, and remember it.
UPDATE taskq_members SET gone = 1 WHERE key = ? AND member = ? AND gone = 0 AND until IS NULL
