CREATE TABLE taskq_ended (
  queue         TEXT NOT NULL,
  id            TEXT NOT NULL,
  outcome       BLOB,
  outcome_until REAL NOT NULL,              -- the outcome can be read until then
  id_until      REAL NOT NULL,              -- the id is not added again until then
  lapses_at     REAL NOT NULL,              -- the later of the two
  PRIMARY KEY (queue, id)
) STRICT;
CREATE INDEX taskq_ended_lapses ON taskq_ended (lapses_at);
CREATE TABLE taskq_hints (
  seq       INTEGER PRIMARY KEY AUTOINCREMENT, -- never used twice: listeners remember the last they saw
  channel   TEXT NOT NULL,
  data      TEXT NOT NULL,
  lapses_at REAL NOT NULL
) STRICT;
CREATE TABLE taskq_jobs (
  seq         INTEGER PRIMARY KEY,          -- the order of the enqueues
  queue       TEXT NOT NULL,
  id          TEXT NOT NULL,
  task        TEXT NOT NULL,
  priority    INTEGER NOT NULL DEFAULT 0,
  state       TEXT NOT NULL DEFAULT 'later' -- 'parked' is ready, but not its turn in its group
    CHECK (state IN ('later', 'ready', 'parked', 'leased', 'dead')),
  due         REAL NOT NULL,                -- leased: the lease's end; dead: when it was set aside
  attempt     INTEGER NOT NULL DEFAULT 1,
  losses      INTEGER NOT NULL DEFAULT 0,
  fence       INTEGER NOT NULL DEFAULT 0,
  token       INTEGER,                      -- of the last fetch, until it is settled: outlives the lease
  cancelled   INTEGER NOT NULL DEFAULT 0,
  expires_at  REAL,
  lapses_at   REAL,                         -- dead: when nobody will look for it any more
  uniq        TEXT,                         -- the unique key
  keyed       INTEGER NOT NULL DEFAULT 0,   -- the job holds its unique key
  key_until   ANY,                          -- 'start', 'success', 'end', or the moment at which the key is free
  grp         TEXT,                         -- the group; of a tenant U+0001 and its name
  group_limit INTEGER NOT NULL DEFAULT 1,
  placed      INTEGER NOT NULL DEFAULT 0,   -- the job holds a place in its group
  was_due     REAL,                         -- when it was due whose due moment is now that of its tenant's turn
  rest        TEXT,                         -- JSON: what else the caller said, where it is not the default
  error       BLOB,
  outcome     BLOB,                         -- a dead letter's
  body        BLOB NOT NULL
) STRICT;
CREATE INDEX taskq_jobs_dead ON taskq_jobs (queue, id, lapses_at) WHERE state = 'dead';
CREATE UNIQUE INDEX taskq_jobs_id ON taskq_jobs (queue, id);
CREATE UNIQUE INDEX taskq_jobs_key ON taskq_jobs (queue, uniq) WHERE keyed = 1;
CREATE INDEX taskq_jobs_lapses ON taskq_jobs (lapses_at) WHERE lapses_at IS NOT NULL;
CREATE INDEX taskq_jobs_placed ON taskq_jobs (queue, grp) WHERE placed = 1;
CREATE INDEX taskq_jobs_ready ON taskq_jobs (queue, priority DESC, due) WHERE state = 'ready';
CREATE UNIQUE INDEX taskq_jobs_shown ON taskq_jobs (queue, grp)
  WHERE grp IS NOT NULL AND state = 'ready' AND placed = 0 AND cancelled = 0;
CREATE INDEX taskq_jobs_timed ON taskq_jobs (queue, state, due) WHERE state IN ('later', 'leased');
CREATE INDEX taskq_jobs_waiting ON taskq_jobs (queue, grp, group_limit, priority DESC, due)
  WHERE grp IS NOT NULL AND state = 'parked';
CREATE TABLE taskq_keys (
  key     TEXT NOT NULL PRIMARY KEY,
  value   BLOB,
  until   REAL,                             -- when the whole key ends; NULL: never by itself
  lasting INTEGER NOT NULL DEFAULT 0        -- live members that never lapse: counting them would cost their number
) STRICT;
CREATE INDEX taskq_keys_until ON taskq_keys (until) WHERE until IS NOT NULL;
CREATE TABLE taskq_lapsed (
  queue TEXT PRIMARY KEY,
  jobs  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE taskq_members (
  key    TEXT NOT NULL,
  member TEXT NOT NULL,
  until  REAL,                              -- when it, or the memory of it, lapses; NULL: with its key
  gone   INTEGER NOT NULL DEFAULT 0,        -- discarded, and not to come back
  PRIMARY KEY (key, member)
) STRICT, WITHOUT ROWID;
CREATE INDEX taskq_members_lapsing ON taskq_members (key, gone, until) WHERE until IS NOT NULL;
CREATE INDEX taskq_members_until ON taskq_members (until) WHERE until IS NOT NULL;
CREATE TABLE taskq_migrations (
  version INTEGER PRIMARY KEY
) STRICT;
