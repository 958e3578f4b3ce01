-- Lease jobs of the queues; a row for each, or one without an id that says when to look again.
SELECT
  queue, id, task, body, priority, uniq, grp, group_limit, rest, due, attempt, losses, fence, expires_at, cancelled,
  error, now
FROM {schema}.fetch($1, $2, $3, $4)
