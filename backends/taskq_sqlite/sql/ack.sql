-- Remove the jobs of these numbers, a JSON array, that one fetch has leased.
--
-- Returns number, queue, id and group of each.
DELETE FROM taskq_jobs WHERE seq IN (SELECT value FROM json_each(:seqs)) AND token = :token
RETURNING seq, queue, id, grp
