-- Lease jobs of the queues; a row for each, and one without an id that says when to look again and where to go on.
SELECT
  queue, id, task, body, priority, uniq, grp, group_limit, rest, due, attempt, losses, fence, expires_at, cancelled,
  error, now, passed, next_marks, handed
FROM {schema}.fetch($1, $2, $3, $4, $5, $6, $7, $8)
