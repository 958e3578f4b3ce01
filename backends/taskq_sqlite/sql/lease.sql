-- Lease the jobs of these numbers, a JSON array. A token still there is a lease that ended unsettled.
UPDATE taskq_jobs
SET state = 'leased', due = :until, was_due = NULL, fence = fence + 1, losses = losses + (token IS NOT NULL),
  token = :token, placed = placed OR (grp IS NOT NULL AND NOT cancelled AND group_limit < 9223372036854775807),
  keyed = keyed AND key_until IS NOT 'start'
WHERE seq IN (SELECT value FROM json_each(:seqs))
