-- What is kept of an ended job: the moment until which its id is not added again.
SELECT id_until FROM taskq_ended WHERE queue = ? AND id = ?
