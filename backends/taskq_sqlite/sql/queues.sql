-- Every queue that holds a job, one index look-up each.
WITH RECURSIVE queues (queue) AS (
  SELECT (SELECT queue FROM taskq_jobs ORDER BY queue LIMIT 1)
  UNION ALL
  SELECT (SELECT queue FROM taskq_jobs WHERE taskq_jobs.queue > queues.queue ORDER BY queue LIMIT 1)
  FROM queues WHERE queues.queue IS NOT NULL
)
SELECT queue FROM queues WHERE queue IS NOT NULL
