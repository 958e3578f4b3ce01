-- How many live members of a key will lapse by themselves.
SELECT count(*) FROM taskq_members INDEXED BY taskq_members_lapsing
WHERE key = ? AND gone = 0 AND until > ? AND until IS NOT NULL
