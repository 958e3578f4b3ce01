-- Make due jobs of a queue ready, and those whose lease is over; returns the group of each.
UPDATE taskq_jobs
SET state = CASE WHEN grp IS NULL OR cancelled OR (placed AND group_limit = 1) THEN 'ready' ELSE 'parked' END,
  placed = placed AND group_limit = 1
WHERE queue = :queue AND state IN ('later', 'leased') AND due <= :now
RETURNING grp
