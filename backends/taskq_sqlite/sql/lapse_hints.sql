-- Remove some hints that every listener has had time to see.
DELETE FROM taskq_hints WHERE seq IN (SELECT seq FROM taskq_hints WHERE lapses_at <= :now LIMIT :limit)
