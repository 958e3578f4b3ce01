-- Make a dead letter ready again, as if new.
UPDATE taskq_jobs
SET state = CASE WHEN grp IS NULL THEN 'ready' ELSE 'parked' END, due = :now, attempt = 1, losses = 0, cancelled = 0,
  outcome = NULL, lapses_at = NULL, expires_at = :expires_at, keyed = :keyed
WHERE seq = :seq
