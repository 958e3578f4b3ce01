-- Set a value if it is what it was.
SELECT {schema}.swap($1, $2, $3, $4)
