-- Show the best member of a group that a free place allows in its queue's line; returns its whole row.
--
-- The best of each group_limit stands at the head of its own range of the index, so those that wait cost nothing.
WITH RECURSIVE
  places (taken) AS MATERIALIZED (
    SELECT count(*) FROM taskq_jobs WHERE queue = :queue AND grp = :grp AND placed = 1
  ),
  limits (value) AS (
    SELECT (
      SELECT group_limit FROM taskq_jobs INDEXED BY taskq_jobs_waiting
      WHERE queue = :queue AND grp = :grp AND grp IS NOT NULL AND state = 'parked'
      ORDER BY group_limit DESC LIMIT 1
    )
    UNION ALL
    SELECT (
      SELECT group_limit FROM taskq_jobs INDEXED BY taskq_jobs_waiting
      WHERE queue = :queue AND grp = :grp AND grp IS NOT NULL AND state = 'parked' AND group_limit < limits.value
      ORDER BY group_limit DESC LIMIT 1
    )
    FROM limits WHERE limits.value > (SELECT taken FROM places)
  ),
  heads (seq) AS (
    SELECT (
      SELECT seq FROM taskq_jobs INDEXED BY taskq_jobs_waiting
      WHERE queue = :queue AND grp = :grp AND grp IS NOT NULL AND state = 'parked' AND group_limit = limits.value
      ORDER BY priority DESC, due, seq LIMIT 1
    )
    FROM limits WHERE limits.value > (SELECT taken FROM places)
  )
UPDATE taskq_jobs SET state = 'ready'
WHERE seq = (
  SELECT seq FROM taskq_jobs WHERE seq IN (SELECT seq FROM heads) ORDER BY priority DESC, due, seq LIMIT 1
)
RETURNING
  queue, id, task, body, priority, uniq, grp, group_limit, rest, due, attempt, losses, expires_at, cancelled, error,
  seq, fence, token, state, outcome, placed
