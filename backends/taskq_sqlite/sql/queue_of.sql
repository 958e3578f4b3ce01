-- The queue of a job by its receipt.
SELECT queue FROM taskq_jobs WHERE seq = :seq AND token = :token
