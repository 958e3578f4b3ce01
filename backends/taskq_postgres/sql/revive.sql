-- Make dead letters ready again; the place of each found, and whether its unique key let it.
SELECT place, revived FROM {schema}.revive($1, $2)
