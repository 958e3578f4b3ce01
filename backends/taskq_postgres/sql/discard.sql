-- Remove members for good; how many are left.
SELECT {schema}.discard($1, $2)
