-- Remove a job, whatever its state.
DELETE FROM taskq_jobs WHERE seq = ?
