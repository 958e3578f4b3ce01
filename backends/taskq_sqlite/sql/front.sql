-- The front of a queue's line, in the order of delivery: a JSON array of rows, all bodies, all errors.
--
-- One row, as each row of an answer waits for the interpreter, which is busy running jobs. Moments are in two parts:
-- SQLite writes JSON numbers with 15 digits, which are exact for each part and not for both.
SELECT
  json_group_array(json_array(
    queue, id, task, length(body), priority, uniq, grp, group_limit, rest,
    CAST(due AS INTEGER), due - CAST(due AS INTEGER), attempt, losses,
    CAST(expires_at AS INTEGER), expires_at - CAST(expires_at AS INTEGER), cancelled, length(error),
    seq, fence, token, placed, CAST(was_due AS INTEGER), was_due - CAST(was_due AS INTEGER)
  )),
  CAST(group_concat(body, '') AS BLOB),
  CAST(group_concat(error, '') AS BLOB)
FROM (
  SELECT * FROM taskq_jobs INDEXED BY taskq_jobs_ready
  WHERE queue = ? AND state = 'ready' ORDER BY priority DESC, due, seq LIMIT ?
)
