-- Counts of the named queues, or of all: queue, later, ready, leased, dead, seconds the oldest ready job has waited, and
-- dead letters that have lapsed.
WITH clock AS MATERIALIZED (SELECT extract(epoch FROM statement_timestamp())::float8 AS now),
there AS (
  SELECT
    queue,
    count(*) FILTER (WHERE state = 'later' AND due > now) AS later,
    count(*) FILTER (WHERE state IN ('ready', 'parked') OR (state IN ('later', 'leased') AND due <= now)) AS ready,
    count(*) FILTER (WHERE state = 'leased' AND due > now) AS leased,
    count(*) FILTER (WHERE state = 'dead' AND (lapses_at IS NULL OR lapses_at > now)) AS dead,
    coalesce(greatest(0, max(now - coalesce(was_due, due)) FILTER (
      WHERE state IN ('ready', 'parked') OR (state IN ('later', 'leased') AND due <= now)
    )), 0)::float8 AS oldest,
    count(*) FILTER (WHERE lapses_at <= now) AS lapsed
  FROM clock, {schema}.seen WHERE $1::text[] IS NULL OR queue = ANY ($1)
  GROUP BY queue
), gone AS (
  SELECT queue, sum(jobs)::bigint AS lapsed FROM {schema}.lapsed WHERE $1::text[] IS NULL OR queue = ANY ($1)
  GROUP BY queue
)
SELECT
  queue, coalesce(later, 0) AS later, coalesce(ready, 0) AS ready, coalesce(leased, 0) AS leased,
  coalesce(dead, 0) AS dead, coalesce(oldest, 0) AS oldest, coalesce(there.lapsed, 0) + coalesce(gone.lapsed, 0) AS lapsed
FROM there FULL JOIN gone USING (queue) ORDER BY queue
