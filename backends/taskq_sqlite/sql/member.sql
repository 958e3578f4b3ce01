-- One member of a key, or what is remembered of it: until, gone.
SELECT until, gone FROM taskq_members WHERE key = ? AND member = ?
