-- Let a job run again, by its receipt; returns its queue, id and group.
UPDATE taskq_jobs
SET state = CASE
    WHEN :due > :now THEN 'later'
    WHEN grp IS NULL OR cancelled OR (placed AND group_limit = 1) THEN 'ready'
    ELSE 'parked'
  END,
  due = :due, was_due = NULL, attempt = attempt + :counted, token = NULL, placed = placed AND group_limit = 1,
  error = coalesce(:error, error)
WHERE seq = :seq AND token = :token
RETURNING queue, id, grp
