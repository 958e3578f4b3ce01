-- Remove a job by its receipt; returns its queue, id and group.
DELETE FROM taskq_jobs WHERE seq = ? AND token = ? RETURNING queue, id, grp
