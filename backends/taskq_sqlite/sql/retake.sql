-- Lease a job again that is ready because its lease was over, if its group still has a place for it.
--
-- Returns cancelled and group.
UPDATE taskq_jobs
SET state = 'leased', due = :until, was_due = NULL,
  placed = placed OR (grp IS NOT NULL AND NOT cancelled AND group_limit < 9223372036854775807)
WHERE seq = :seq AND token = :token AND state IN ('ready', 'parked') AND (
  grp IS NULL OR placed OR cancelled OR group_limit > (
    SELECT count(*) FROM taskq_jobs AS other
    WHERE other.queue = taskq_jobs.queue AND other.grp = taskq_jobs.grp AND other.placed = 1
  )
)
RETURNING cancelled, grp
