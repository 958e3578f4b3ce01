-- Remove a dead letter; returns its id.
DELETE FROM taskq_jobs
WHERE queue = :queue AND id = :id AND state = 'dead' AND (lapses_at IS NULL OR lapses_at > :now)
RETURNING id
