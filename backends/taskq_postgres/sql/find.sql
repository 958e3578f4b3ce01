-- A job or dead letter by its id alone: whole rows, one look into every queue.
WITH RECURSIVE queues (name) AS (
  (SELECT queue FROM {schema}.jobs ORDER BY queue LIMIT 1)
  UNION ALL
  SELECT (SELECT j.queue FROM {schema}.jobs AS j WHERE j.queue > queues.name ORDER BY j.queue LIMIT 1)
  FROM queues WHERE queues.name IS NOT NULL
)
SELECT
  queue, id, task, body, priority, uniq, grp, group_limit, rest, coalesce(was_due, due) AS due, attempt, losses,
  expires_at, cancelled, error, state, outcome, extract(epoch FROM statement_timestamp())::float8 AS now
FROM queues JOIN {schema}.seen ON queue = queues.name AND id = $1
WHERE lapses_at IS NULL OR lapses_at > extract(epoch FROM statement_timestamp())
