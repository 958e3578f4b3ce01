-- Move the end of a lease that has not been found over; returns cancelled, queue.
UPDATE taskq_jobs SET due = :until WHERE seq = :seq AND token = :token AND state = 'leased' RETURNING cancelled, queue
