-- Move the end of a lease that is not over; returns cancelled, queue.
UPDATE taskq_jobs SET due = :until WHERE seq = :seq AND token = :token AND state = 'leased' AND due > :now
RETURNING cancelled, queue
