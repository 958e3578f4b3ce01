-- Remove some members whose time is over, and what is remembered of some; returns their keys.
DELETE FROM taskq_members
WHERE (key, member) IN (
  SELECT key, member FROM taskq_members WHERE until <= :now AND until IS NOT NULL LIMIT :limit
)
RETURNING key
