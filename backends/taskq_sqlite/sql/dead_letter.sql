-- Set a job aside with its outcome, by its receipt; returns its queue, id and group.
UPDATE taskq_jobs
SET state = 'dead', due = :now, was_due = NULL, outcome = :outcome, lapses_at = :lapses_at, token = NULL, placed = 0,
  keyed = keyed AND key_until IS 'success'
WHERE seq = :seq AND token = :token
RETURNING queue, id, grp
