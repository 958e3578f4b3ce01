-- Those of these numbers, a JSON array, that one fetch has leased and nobody since: number, queue, id and group of each,
-- as one JSON array.
SELECT json_group_array(json_array(seq, queue, id, grp)) FROM taskq_jobs
WHERE seq IN (SELECT value FROM json_each(:seqs)) AND token = :token
