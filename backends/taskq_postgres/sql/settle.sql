-- End leases; the place of each that was settled, and its group.
-- The types are said for drivers that guess them from the values.
SELECT place, grp FROM {schema}.settle(
  $1::text[], $2::text[], $3::bigint[], $4::text[], $5::bytea[], $6::float8[], $7::boolean[], $8::text[], $9::float8,
  $10::boolean
)
