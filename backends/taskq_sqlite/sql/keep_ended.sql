-- Keep an ended job's outcome and id, each until its moment.
INSERT OR REPLACE INTO taskq_ended (queue, id, outcome, outcome_until, id_until, lapses_at) VALUES (?, ?, ?, ?, ?, ?)
