-- Write a member of a key.
INSERT OR REPLACE INTO taskq_members (key, member, until, gone) VALUES (?, ?, ?, ?)
