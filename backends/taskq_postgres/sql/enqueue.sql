-- Add jobs; a row for each that was not added: its place, who holds its id or key, whether that is a conflict.
SELECT place, holder, conflict FROM {schema}.enqueue(
  $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16
)
