-- What has been carried out of these files, every job until it is gone, and what is kept of ended ones.
--
-- Moments are seconds since the epoch, by this server's clock.
CREATE TABLE {schema}.migrations (
  version    integer PRIMARY KEY,
  applied_at timestamptz NOT NULL DEFAULT now()
);

CREATE SEQUENCE {schema}.arrivals;

-- Half of each page is left free, so that a lease finds its new version a place beside the old one: then only the
-- change is logged, not the body (docs/explanation/decisions.md has the figures).
CREATE TABLE {schema}.jobs (
  seq         bigint NOT NULL,              -- the order of the enqueues
  due         float8 NOT NULL,              -- leased: the lease's end; dead: when it was set aside
  token       bigint,                       -- of the last fetch, until it is settled: outlives the lease
  held_until  float8,                       -- the end of a lease whose job has not left its line: see seen
  fence       bigint NOT NULL DEFAULT 0,
  priority    integer NOT NULL DEFAULT 0,
  attempt     integer NOT NULL DEFAULT 1,
  losses      integer NOT NULL DEFAULT 0,
  group_limit integer NOT NULL DEFAULT 1,
  cancelled   boolean NOT NULL DEFAULT false,
  keyed       boolean NOT NULL DEFAULT false, -- the job holds its unique key
  placed      boolean NOT NULL DEFAULT false, -- the job holds a place in its group
  state       text COLLATE "C" NOT NULL     -- 'parked' is ready, but not its turn in its group
    CHECK (state IN ('later', 'ready', 'parked', 'leased', 'dead')),
  queue       text COLLATE "C" NOT NULL,
  id          text COLLATE "C" NOT NULL,
  task        text COLLATE "C" NOT NULL,
  body        bytea NOT NULL,
  expires_at  float8,
  lapses_at   float8,                       -- dead: when nobody will look for it any more
  uniq        text COLLATE "C",             -- the unique key
  key_until   text COLLATE "C" CHECK (key_until IN ('start', 'success', 'end')),
  key_free_at float8,                       -- the key is free from this moment on, whatever became of the job
  grp         text COLLATE "C",             -- the group; of a tenant U+0001 and its name
  was_due     float8,                       -- when it was due whose due is now the moment of its tenant's turn
  rest        text COLLATE "C",             -- JSON: what else the caller said, where it is not the default
  error       bytea,
  outcome     bytea                         -- a dead letter's
) WITH (
  fillfactor = 50,
  -- Dead rows slow a queue down at once, and its number of live rows says nothing about them.
  autovacuum_vacuum_scale_factor = 0,
  autovacuum_vacuum_threshold = 5000,
  autovacuum_vacuum_cost_delay = 0,
  autovacuum_analyze_scale_factor = 0.2,
  autovacuum_analyze_threshold = 5000
);

-- The states as everybody else is to see them: a fetch may leave what it leases in the line, as 'ready', because a new
-- version of the row that changes no index costs half. Extending the lease takes the job out of the line.
CREATE VIEW {schema}.seen AS
SELECT
  queue, id, CASE WHEN held_until IS NULL THEN state ELSE 'leased' END AS state, coalesce(held_until, due) AS due, was_due,
  task, body, priority, uniq, grp, group_limit, rest, attempt, losses, expires_at, lapses_at, cancelled, error, outcome
FROM {schema}.jobs;

CREATE UNIQUE INDEX jobs_id ON {schema}.jobs (queue, id);

-- The line of each queue, in the order of delivery: a fetch reads its front.
CREATE INDEX jobs_ready ON {schema}.jobs (queue, priority DESC, due, seq) WHERE state = 'ready';

-- What time alone moves: later jobs to their due moment, leased ones to their lease's end.
CREATE INDEX jobs_timed ON {schema}.jobs (queue, due) WHERE state IN ('later', 'leased');

CREATE INDEX jobs_lapses ON {schema}.jobs (lapses_at) WHERE lapses_at IS NOT NULL;

CREATE UNIQUE INDEX jobs_key ON {schema}.jobs (queue, uniq) WHERE keyed;

-- Whether a queue has groups at all, who holds a place, who waits for one, and the one member that the line shows.
-- By group_limit first, so that the best member that may go is found without passing over those that may not.
CREATE INDEX jobs_grouped ON {schema}.jobs (queue) WHERE grp IS NOT NULL AND state <> 'dead';
CREATE INDEX jobs_placed ON {schema}.jobs (queue, grp) WHERE placed;
CREATE INDEX jobs_waiting ON {schema}.jobs (queue, grp, group_limit DESC, priority DESC, due, seq)
  WHERE grp IS NOT NULL AND state IN ('parked', 'ready') AND NOT placed AND NOT cancelled;
CREATE UNIQUE INDEX jobs_shown ON {schema}.jobs (queue, grp)
  WHERE grp IS NOT NULL AND state = 'ready' AND NOT placed AND NOT cancelled;

CREATE TABLE {schema}.ended (
  queue         text COLLATE "C" NOT NULL,
  id            text COLLATE "C" NOT NULL,
  outcome       bytea,
  outcome_until float8 NOT NULL,            -- the outcome can be read until then
  id_until      float8 NOT NULL,            -- the id is not added again until then
  lapses_at     float8 NOT NULL,            -- the later of the two
  PRIMARY KEY (queue, id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

CREATE INDEX ended_lapses ON {schema}.ended (lapses_at);

-- How many dead letters have lapsed and are gone; a queue has several rows until the next sweep adds them up, so that
-- nobody waits for anybody to count.
CREATE TABLE {schema}.lapsed (
  queue text COLLATE "C" NOT NULL,
  jobs  bigint NOT NULL
);

-- Fetches that wait, so that whoever adds a job may lease it to one of them and send it along: see hand. It is not logged:
-- a crash of the server ends those who wait, too.
CREATE UNLOGGED TABLE {schema}.waits (
  ear     bigint NOT NULL,                  -- who waits: a secret, as it names its channel
  lines   text[] COLLATE "C" NOT NULL,      -- the queues
  seconds float8 NOT NULL,                  -- for which a job is leased
  token   bigint,                           -- for that lease, once; NULL: nothing may be handed over
  until   float8 NOT NULL,                  -- who has not looked since then may hang
  handed  bigint,                           -- the last token that was used
  queue   text COLLATE "C",                 -- and the job that was handed over with it
  id      text COLLATE "C",
  PRIMARY KEY (ear, lines)
) WITH (
  fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
  autovacuum_vacuum_cost_delay = 0
);

-- What an open transaction keeps of waits that are over lies before the live ones.
CREATE INDEX waits_until ON {schema}.waits (until);
