-- The hints behind a number: seq, channel, data.
SELECT seq, channel, data FROM taskq_hints WHERE seq > ? ORDER BY seq
