-- The job or dead letter that holds this unique key: seq, id, grp, state, token, cancelled, rest, key_until, lapses_at.
SELECT seq, id, grp, state, token, cancelled, rest, key_until, lapses_at
FROM taskq_jobs WHERE queue = ? AND uniq = ? AND keyed = 1
