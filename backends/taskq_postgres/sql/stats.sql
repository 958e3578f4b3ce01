-- Counts of the named queues, or of all: queue, later, ready, leased, dead, seconds the oldest ready job has waited.
WITH clock AS MATERIALIZED (SELECT extract(epoch FROM statement_timestamp())::float8 AS now)
SELECT
  queue,
  count(*) FILTER (WHERE state = 'later' AND due > now) AS later,
  count(*) FILTER (WHERE state IN ('ready', 'parked') OR (state IN ('later', 'leased') AND due <= now)) AS ready,
  count(*) FILTER (WHERE state = 'leased' AND due > now) AS leased,
  count(*) FILTER (WHERE state = 'dead') AS dead,
  coalesce(greatest(0, max(now - coalesce(was_due, due)) FILTER (
    WHERE state IN ('ready', 'parked') OR (state IN ('later', 'leased') AND due <= now)
  )), 0)::float8 AS oldest
FROM clock, {schema}.jobs
WHERE (lapses_at IS NULL OR lapses_at > now) AND ($1::text[] IS NULL OR queue = ANY ($1))
GROUP BY queue ORDER BY queue
