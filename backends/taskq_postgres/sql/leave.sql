-- Nobody waits for jobs under this name any more.
DELETE FROM {schema}.waits WHERE ear = $1
