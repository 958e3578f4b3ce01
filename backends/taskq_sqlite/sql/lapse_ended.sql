-- Forget some ended jobs whose time is over.
DELETE FROM taskq_ended WHERE rowid IN (SELECT rowid FROM taskq_ended WHERE lapses_at <= :now LIMIT :limit)
