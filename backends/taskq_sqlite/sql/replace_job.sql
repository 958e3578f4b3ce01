-- Give a waiting job another call, priority, due moment and expiry.
UPDATE taskq_jobs
SET task = :task, body = :body, priority = :priority, rest = :rest, due = :due, was_due = NULL,
  expires_at = :expires_at,
  state = CASE WHEN :due > :now THEN 'later' WHEN grp IS NULL OR placed THEN 'ready' ELSE 'parked' END
WHERE seq = :seq
