-- Note that another dead letter of a queue has lapsed and is gone.
INSERT INTO taskq_lapsed (queue, jobs) VALUES (?, 1) ON CONFLICT (queue) DO UPDATE SET jobs = jobs + 1
