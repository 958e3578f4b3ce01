-- The front of a queue's line, in the order of delivery: whole rows.
SELECT
  queue, id, task, body, priority, uniq, grp, group_limit, rest, due, attempt, losses, expires_at, cancelled, error,
  seq, fence, token, state, outcome, placed
FROM taskq_jobs INDEXED BY taskq_jobs_ready
WHERE queue = ? AND state = 'ready' ORDER BY priority DESC, due, seq LIMIT ?
