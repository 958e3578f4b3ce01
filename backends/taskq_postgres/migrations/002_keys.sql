-- The store: keys that hold a value, members, or both.
CREATE TABLE {schema}.keys (
  key     text COLLATE "C" PRIMARY KEY,
  value   bytea,
  until   float8,                           -- when the whole key ends; NULL: never by itself
  lasting bigint NOT NULL DEFAULT 0         -- live members that never lapse: counting them would cost their number
) WITH (
  fillfactor = 70,
  autovacuum_vacuum_scale_factor = 0.05,
  autovacuum_vacuum_threshold = 1000,
  autovacuum_vacuum_cost_delay = 0
);

CREATE INDEX keys_until ON {schema}.keys (until) WHERE until IS NOT NULL;

CREATE TABLE {schema}.members (
  key    text COLLATE "C" NOT NULL,
  member text COLLATE "C" NOT NULL,
  until  float8,                            -- when it, or the memory of it, lapses; NULL: with its key
  gone   boolean NOT NULL DEFAULT false,    -- discarded before it has lapsed, and not to come back until then
  PRIMARY KEY (key, member)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

CREATE INDEX members_lapsing ON {schema}.members (key, gone, until) WHERE until IS NOT NULL;
CREATE INDEX members_until ON {schema}.members (until) WHERE until IS NOT NULL;

-- Members that would never have lapsed and were discarded: not to come back while their key lives. One row for each call,
-- because one for each member, kept and marked, costs the server 7 µs instead of 4.
CREATE TABLE {schema}.discarded (
  key     text COLLATE "C" NOT NULL,
  members text[] COLLATE "C" NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

CREATE INDEX discarded_key ON {schema}.discarded (key);
