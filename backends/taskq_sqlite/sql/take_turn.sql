-- Show the best member of a tenant at the end of its queue's line, unless one is shown; returns its whole row.
UPDATE taskq_jobs SET state = 'ready', was_due = due, due = :turn
WHERE seq = (
  SELECT seq FROM taskq_jobs INDEXED BY taskq_jobs_waiting
  WHERE queue = :queue AND grp = :grp AND grp IS NOT NULL AND state = 'parked' AND group_limit = 9223372036854775807
  ORDER BY priority DESC, due, seq LIMIT 1
) AND NOT EXISTS (
  SELECT 1 FROM taskq_jobs INDEXED BY taskq_jobs_shown
  WHERE queue = :queue AND grp = :grp AND grp IS NOT NULL AND state = 'ready' AND placed = 0 AND cancelled = 0
)
RETURNING
  queue, id, task, body, priority, uniq, grp, group_limit, rest, due, attempt, losses, expires_at, cancelled, error,
  seq, fence, token, state, outcome, placed, was_due
