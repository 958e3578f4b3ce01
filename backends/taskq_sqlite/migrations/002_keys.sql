-- The store: keys that hold a value, members, or both.
CREATE TABLE taskq_keys (
  key     TEXT NOT NULL PRIMARY KEY,
  value   BLOB,
  until   REAL,                             -- when the whole key ends; NULL: never by itself
  lasting INTEGER NOT NULL DEFAULT 0        -- live members that never lapse: counting them would cost their number
) STRICT;

CREATE INDEX taskq_keys_until ON taskq_keys (until) WHERE until IS NOT NULL;

CREATE TABLE taskq_members (
  key    TEXT NOT NULL,
  member TEXT NOT NULL,
  until  REAL,                              -- when it, or the memory of it, lapses; NULL: with its key
  gone   INTEGER NOT NULL DEFAULT 0,        -- discarded, and not to come back
  PRIMARY KEY (key, member)
) STRICT, WITHOUT ROWID;

CREATE INDEX taskq_members_lapsing ON taskq_members (key, gone, until) WHERE until IS NOT NULL;
CREATE INDEX taskq_members_until ON taskq_members (until) WHERE until IS NOT NULL;
