-- Jobs of a queue in one state, as an operator sees it, behind an id, by rising id: whole rows.
WITH clock AS MATERIALIZED (SELECT extract(epoch FROM statement_timestamp())::float8 AS now)
SELECT
  queue, id, task, body, priority, uniq, grp, group_limit, rest, coalesce(was_due, due) AS due, attempt, losses,
  expires_at, cancelled, error, state, outcome, now
FROM clock, {schema}.seen
WHERE queue = $1 AND id > $2 AND $3 = CASE
    WHEN state = 'dead' THEN CASE WHEN lapses_at IS NULL OR lapses_at > now THEN 'dead' END
    WHEN state IN ('later', 'leased') AND due > now THEN state
    ELSE 'ready'
  END
ORDER BY id LIMIT $4
