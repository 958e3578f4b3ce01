-- Add all members or none.
SELECT {schema}.add($1, $2, $3, $4)
