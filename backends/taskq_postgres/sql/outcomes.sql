-- The outcomes of ended jobs: queue, id and outcome of each that has one.
SELECT j.queue, j.id, j.outcome FROM unnest($1::text[], $2::text[]) AS given (queue, id)
JOIN {schema}.jobs AS j ON j.queue = given.queue AND j.id = given.id
WHERE j.state = 'dead' AND (j.lapses_at IS NULL OR j.lapses_at > extract(epoch FROM statement_timestamp()))
UNION ALL
SELECT e.queue, e.id, e.outcome FROM unnest($1::text[], $2::text[]) AS given (queue, id)
JOIN {schema}.ended AS e ON e.queue = given.queue AND e.id = given.id
WHERE e.outcome_until > extract(epoch FROM statement_timestamp()) AND e.outcome IS NOT NULL
  AND NOT EXISTS (SELECT FROM {schema}.jobs AS j WHERE j.queue = e.queue AND j.id = e.id)
