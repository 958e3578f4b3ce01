-- Add jobs, seen by others before they are on disk and answered when they are; one row with what enqueue answers, as arrays.
CALL {schema}.enqueue_ahead(
  $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, NULL, NULL, NULL
)
