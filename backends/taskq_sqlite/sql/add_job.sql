-- Add one job; no row is changed where its id or its unique key is taken.
INSERT INTO taskq_jobs
  (queue, id, task, body, priority, state, due, expires_at, uniq, keyed, key_until, grp, group_limit, rest)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING
