-- The outcome of an ended job.
SELECT outcome FROM taskq_jobs
WHERE queue = :queue AND id = :id AND state = 'dead' AND (lapses_at IS NULL OR lapses_at > :now)
UNION ALL
SELECT outcome FROM taskq_ended
WHERE queue = :queue AND id = :id AND outcome_until > :now
  AND NOT EXISTS (SELECT 1 FROM taskq_jobs WHERE queue = :queue AND id = :id)
