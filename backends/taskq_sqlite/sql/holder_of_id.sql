-- The job or dead letter of this id: seq, id, grp, state, token, cancelled, rest, key_until, lapses_at.
SELECT seq, id, grp, state, token, cancelled, rest, key_until, lapses_at
FROM taskq_jobs WHERE queue = ? AND id = ?
