-- Send messages to all listeners. Nothing is lost with them, so nobody waits for the disk.
SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, message) FROM unnest($2::text[]) AS message
