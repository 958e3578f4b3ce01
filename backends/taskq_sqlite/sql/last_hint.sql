-- The number of the newest hint there ever was.
SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'taskq_hints'), 0)
