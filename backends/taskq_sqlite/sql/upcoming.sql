-- The moment at which a queue next has a job to fetch: 0 for now, NULL for not in sight.
SELECT CASE
  WHEN EXISTS (SELECT 1 FROM taskq_jobs INDEXED BY taskq_jobs_ready WHERE queue = :queue AND state = 'ready') THEN 0.0
  ELSE (
    SELECT min(due) FROM (
      SELECT min(due) AS due FROM taskq_jobs INDEXED BY taskq_jobs_timed
      WHERE queue = :queue AND state IN ('later', 'leased') AND state = 'later'
      UNION ALL
      SELECT min(due) FROM taskq_jobs INDEXED BY taskq_jobs_timed
      WHERE queue = :queue AND state IN ('later', 'leased') AND state = 'leased'
    )
  )
END
