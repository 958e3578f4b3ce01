-- The live members of a key.
SELECT member FROM taskq_members WHERE key = ? AND gone = 0 AND (until IS NULL OR until > ?)
