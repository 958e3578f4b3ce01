-- A job or dead letter by queue and id: its whole row.
SELECT
  queue, id, task, body, priority, uniq, grp, group_limit, rest, coalesce(was_due, due), attempt, losses, expires_at,
  cancelled, error, seq, fence, token, state, outcome, placed
FROM taskq_jobs WHERE queue = :queue AND id = :id AND (lapses_at IS NULL OR lapses_at > :now)
