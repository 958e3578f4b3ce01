-- Remove some dead letters that have lapsed; returns the queue of each.
DELETE FROM taskq_jobs
WHERE seq IN (SELECT seq FROM taskq_jobs WHERE lapses_at <= :now AND lapses_at IS NOT NULL LIMIT :limit)
RETURNING queue
