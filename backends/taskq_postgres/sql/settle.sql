-- End leases; the place of each that was settled, and its group.
SELECT place, grp FROM {schema}.settle($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
