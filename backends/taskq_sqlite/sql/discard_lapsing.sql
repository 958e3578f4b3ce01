-- The same of one that lapses: it is remembered until then.
UPDATE taskq_members SET gone = 1 WHERE key = ? AND member = ? AND gone = 0 AND until > ?
