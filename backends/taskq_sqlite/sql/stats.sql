-- Counts of every queue: queue, later, ready, leased, dead, due moment of the oldest ready job, dead letters lapsed.
--
-- Index entries only, so of the one that a tenant shows it is the moment of its turn.
SELECT queue, sum(later), sum(ready), sum(leased), sum(dead), min(oldest), sum(lapsed) FROM (
  SELECT queue, 0 AS later, count(*) AS ready, 0 AS leased, 0 AS dead, min(due) AS oldest, 0 AS lapsed
  FROM taskq_jobs INDEXED BY taskq_jobs_ready WHERE state = 'ready' GROUP BY queue
  UNION ALL
  SELECT queue, 0, count(*), 0, 0, min(due), 0
  FROM taskq_jobs INDEXED BY taskq_jobs_waiting WHERE grp IS NOT NULL AND state = 'parked' GROUP BY queue
  UNION ALL
  SELECT queue, sum(state = 'later' AND due > :now), sum(due <= :now), sum(state = 'leased' AND due > :now), 0,
    min(CASE WHEN due <= :now THEN due END), 0
  FROM taskq_jobs INDEXED BY taskq_jobs_timed WHERE state IN ('later', 'leased') GROUP BY queue
  UNION ALL
  SELECT queue, 0, 0, 0, sum(lapses_at IS NULL OR lapses_at > :now), NULL, coalesce(sum(lapses_at <= :now), 0)
  FROM taskq_jobs INDEXED BY taskq_jobs_dead WHERE state = 'dead' GROUP BY queue
  UNION ALL
  SELECT queue, 0, 0, 0, 0, NULL, jobs FROM taskq_lapsed
)
GROUP BY queue ORDER BY queue
