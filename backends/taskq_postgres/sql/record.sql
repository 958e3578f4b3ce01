-- A job or dead letter by queue and id: its whole row.
SELECT
  queue, id, task, body, priority, uniq, grp, group_limit, rest, coalesce(was_due, due) AS due, attempt, losses,
  expires_at, cancelled, error, state, outcome, extract(epoch FROM statement_timestamp())::float8 AS now
FROM {schema}.seen
WHERE queue = $1 AND id = $2 AND (lapses_at IS NULL OR lapses_at > extract(epoch FROM statement_timestamp()))
