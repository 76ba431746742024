-- Queues and kinds that announced servers serve: what a limit lets go first.
CREATE TABLE jk_serves (
  name INTEGER NOT NULL,
  of_kind INTEGER NOT NULL,         -- 0: a queue, 1: a kind
  server INTEGER NOT NULL,          -- its incarnation
  PRIMARY KEY (name, of_kind, server)
) WITHOUT ROWID;
CREATE INDEX jk_serves_by ON jk_serves (server);

-- Jobs that were parked at a limit, were let go, and are not claimed yet.
CREATE TABLE jk_admitted (
  seq INTEGER PRIMARY KEY,
  lim INTEGER NOT NULL,
  queue INTEGER NOT NULL,
  kind INTEGER NOT NULL
);
CREATE INDEX jk_admitted_lane ON jk_admitted (lim, queue, kind);
-- By lane, so that what nobody serves is never walked to find what somebody does.
CREATE INDEX jk_parked_lane ON jk_job (parked, queue, kind, rank) WHERE state = 2 AND parked IS NOT NULL;
DROP INDEX jk_parked;

-- Rate limits. used: running jobs, also of these, so that an operator may change the kind.
ALTER TABLE jk_limit ADD COLUMN win INTEGER NOT NULL DEFAULT 0;      -- 0 none, 1 fixed, 2 sliding
ALTER TABLE jk_limit ADD COLUMN len INTEGER NOT NULL DEFAULT 0;      -- of the window
ALTER TABLE jk_limit ADD COLUMN started INTEGER NOT NULL DEFAULT 0;  -- sum of its rows in jk_limit_start
ALTER TABLE jk_limit ADD COLUMN room_at INTEGER;                     -- when the first of these rows ends
-- Those that a sweep looks at. Where time brings room, jk_limit_room_at finds them. (A CASE on one
-- side of the comparison says the same, but then SQLite does not see that a query asks for it.)
CREATE INDEX jk_limit_room ON jk_limit (id)
  WHERE waiting > 0 AND ((win = 0 AND used < max) OR (win > 0 AND started < max));
CREATE INDEX jk_limit_room_at ON jk_limit (room_at) WHERE waiting > 0 AND room_at IS NOT NULL;
-- Starts under a rate limit: counted until `at` + the window's length.
CREATE TABLE jk_limit_start (
  lim INTEGER NOT NULL,
  at INTEGER NOT NULL,
  n INTEGER NOT NULL,
  PRIMARY KEY (lim, at)
) WITHOUT ROWID;

-- Keys held for a period outlive their job, so they remember its id.
ALTER TABLE jk_ukey ADD COLUMN until INTEGER;
ALTER TABLE jk_ukey ADD COLUMN holder BLOB;
CREATE INDEX jk_ukey_until ON jk_ukey (until) WHERE until IS NOT NULL;
