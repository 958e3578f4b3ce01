-- Remove some of what has lapsed; returns how much.
SELECT {schema}.sweep($1)
