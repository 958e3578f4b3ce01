-- Let the member that a tenant shows in its queue's line wait again, for one of larger priority.
UPDATE taskq_jobs SET state = 'parked', due = was_due, was_due = NULL
WHERE queue = :queue AND grp = :grp AND grp IS NOT NULL AND state = 'ready' AND placed = 0 AND cancelled = 0
  AND priority < (
    SELECT priority FROM taskq_jobs AS best INDEXED BY taskq_jobs_waiting
    WHERE best.queue = :queue AND best.grp = :grp AND best.grp IS NOT NULL AND best.state = 'parked'
      AND best.group_limit = 9223372036854775807
    ORDER BY best.priority DESC, best.due LIMIT 1
  )
