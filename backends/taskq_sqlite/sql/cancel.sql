-- Ask for a live job to be cancelled; a waiting one is due at once and stands in line. Returns its group.
UPDATE taskq_jobs
SET cancelled = 1,
  due = CASE WHEN state = 'leased' THEN due ELSE min(coalesce(was_due, due), :now) END, was_due = NULL,
  placed = placed AND (group_limit = 1 OR (state = 'leased' AND due > :now)),
  state = CASE WHEN state = 'leased' AND due > :now THEN 'leased' ELSE 'ready' END
WHERE queue = :queue AND id = :id AND state <> 'dead'
RETURNING grp
