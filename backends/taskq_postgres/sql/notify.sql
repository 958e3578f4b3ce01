-- Send messages to all listeners, where the server's queue of them is not filling up. Nothing is lost with them, so nobody
-- waits for the disk.
SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, message) FROM unnest($2::text[]) AS message
WHERE pg_notification_queue_usage() < 0.5
