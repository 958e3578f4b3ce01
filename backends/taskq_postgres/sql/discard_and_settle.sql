-- Remove members and end leases, as one; the places of those that were settled, NULL when no member is left.
SELECT {schema}.discard_and_settle(
  $1, $2, $3::text[], $4::text[], $5::bigint[], $6::text[], $7::bytea[], $8::float8[], $9::boolean[], $10::text[], $11::float8
) AS places
