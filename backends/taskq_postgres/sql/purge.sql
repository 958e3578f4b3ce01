-- Remove dead letters; the queue and id of each.
DELETE FROM {schema}.jobs AS j USING unnest($1::text[], $2::text[]) AS given (queue, id)
WHERE j.queue = given.queue AND j.id = given.id AND j.state = 'dead'
  AND (j.lapses_at IS NULL OR j.lapses_at > extract(epoch FROM statement_timestamp()))
RETURNING j.queue, j.id
