-- Jobs of a queue that wait, those due or (due = 0) those not yet due, behind an id, by rising id: whole rows.
SELECT
  queue, id, task, body, priority, uniq, grp, group_limit, rest, coalesce(was_due, due), attempt, losses, expires_at,
  cancelled, error, seq, fence, token, state, outcome, placed
FROM taskq_jobs INDEXED BY taskq_jobs_id
WHERE queue = :queue AND id > :after AND CASE :due
    WHEN 1 THEN state IN ('ready', 'parked') OR (state IN ('later', 'leased') AND due <= :now)
    ELSE state = 'later' AND due > :now
  END
ORDER BY id LIMIT :limit
