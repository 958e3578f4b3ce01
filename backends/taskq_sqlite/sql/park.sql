-- Take the member that a group shows in its queue's line out of it again.
UPDATE taskq_jobs SET state = 'parked'
WHERE queue = ? AND grp = ? AND grp IS NOT NULL AND state = 'ready' AND placed = 0 AND cancelled = 0
