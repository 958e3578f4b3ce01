-- How many dead letters of each queue have lapsed and are gone.
CREATE TABLE taskq_lapsed (
  queue TEXT PRIMARY KEY,
  jobs  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
