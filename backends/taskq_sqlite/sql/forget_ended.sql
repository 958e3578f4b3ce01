-- Forget an ended job, because its id lives again.
DELETE FROM taskq_ended WHERE queue = ? AND id = ?
