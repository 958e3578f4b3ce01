-- Add jobs; a row for each that was not added: its place, who holds its id or key, whether that is a conflict.
-- The types are said for drivers that guess them from the values.
SELECT place, holder, conflict FROM {schema}.enqueue(
  $1::text[], $2::text[], $3::text[], $4::bytea[], $5::integer[], $6::float8[], $7::float8[], $8::float8[], $9::text[],
  $10::text[], $11::text[], $12::float8[], $13::text[], $14::integer[], $15::text[], $16::boolean
)
