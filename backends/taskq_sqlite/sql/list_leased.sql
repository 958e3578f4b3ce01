-- Leased jobs of a queue behind an id, by rising id: whole rows.
SELECT
  queue, id, task, body, priority, uniq, grp, group_limit, rest, due, attempt, losses, expires_at, cancelled, error,
  seq, fence, token, state, outcome, placed
FROM taskq_jobs INDEXED BY taskq_jobs_timed
WHERE queue = :queue AND id > :after AND state IN ('later', 'leased') AND state = 'leased' AND due > :now
ORDER BY id LIMIT :limit
