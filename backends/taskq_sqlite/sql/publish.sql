-- Leave a hint for every listener.
INSERT INTO taskq_hints (channel, data, lapses_at) VALUES (?, ?, ?)
