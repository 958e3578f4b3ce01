-- Remove the jobs of these numbers, a JSON array, that one fetch has leased.
DELETE FROM taskq_jobs WHERE seq IN (SELECT value FROM json_each(:seqs)) AND token = :token
