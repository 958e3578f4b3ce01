-- Dead letters of a queue behind an id, by rising id: whole rows.
SELECT
  queue, id, task, body, priority, uniq, grp, group_limit, rest, due, attempt, losses, expires_at, cancelled, error,
  seq, fence, token, state, outcome, placed
FROM taskq_jobs INDEXED BY taskq_jobs_dead
WHERE queue = :queue AND id > :after AND state = 'dead' AND (lapses_at IS NULL OR lapses_at > :now)
ORDER BY id LIMIT :limit
