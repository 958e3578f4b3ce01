-- Remove members for good; how many are left. It is on disk when anything that is committed later is.
SELECT {schema}.discard($1, $2) FROM set_config('synchronous_commit', 'off', true)
