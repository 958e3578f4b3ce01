-- Let a job give up its unique key.
UPDATE taskq_jobs SET keyed = 0 WHERE seq = ?
