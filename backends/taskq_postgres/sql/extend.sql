-- Extend leases; the place of each that is held, and whether it is cancelled.
SELECT place, cancelled FROM {schema}.extend($1, $2, $3, $4, $5)
