-- What a key holds: value, live members, and the clock.
WITH clock AS MATERIALIZED (SELECT extract(epoch FROM statement_timestamp())::float8 AS now)
SELECT
  k.value,
  ARRAY(
    SELECT m.member FROM {schema}.members AS m
    WHERE m.key = k.key AND NOT m.gone AND (m.until IS NULL OR m.until > now)
  ),
  now
FROM clock LEFT JOIN {schema}.keys AS k ON k.key = $1 AND (k.until IS NULL OR k.until > now)
