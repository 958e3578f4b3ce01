-- End leases; one row with the places of those that were settled.
-- The types are said for drivers that guess them from the values.
SELECT {schema}.settle(
  $1::text[], $2::text[], $3::bigint[], $4::text[], $5::bytea[], $6::float8[], $7::boolean[], $8::text[], $9::float8,
  $10::boolean
) AS places
