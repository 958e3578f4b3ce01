-- How much of everything is left, by table.
SELECT 'jobs', count(*) FROM taskq_jobs
UNION ALL SELECT 'ended', count(*) FROM taskq_ended
UNION ALL SELECT 'hints', count(*) FROM taskq_hints
UNION ALL SELECT 'keys', count(*) FROM taskq_keys
UNION ALL SELECT 'members', count(*) FROM taskq_members
