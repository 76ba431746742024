-- Queues and kinds that announced servers serve: what a limit lets go first.
CREATE TABLE jk_serves (
  name INTEGER NOT NULL,
  of_kind INTEGER NOT NULL,         -- 0: a queue, 1: a kind
  server INTEGER NOT NULL,          -- its incarnation
  PRIMARY KEY (name, of_kind, server)
) WITHOUT ROWID;
CREATE INDEX jk_serves_by ON jk_serves (server);
CREATE INDEX jk_serves_of ON jk_serves (of_kind, name);

-- Jobs that were parked at a limit, were let go, and are not claimed yet.
CREATE TABLE jk_admitted (
  seq INTEGER PRIMARY KEY,
  lim INTEGER NOT NULL,
  queue INTEGER NOT NULL,
  kind INTEGER NOT NULL,
  at INTEGER NOT NULL,              -- when it was let go
  live INTEGER NOT NULL             -- 1: its lane was served, so that it takes room from others
);
CREATE INDEX jk_admitted_lane ON jk_admitted (lim, queue, kind, at);
CREATE INDEX jk_admitted_recent ON jk_admitted (lim, at, queue, kind) WHERE live = 1;
-- By lane, so that what nobody serves is never walked to find what somebody does.
CREATE INDEX jk_parked_lane ON jk_job (parked, queue, kind, rank) WHERE state = 2 AND parked IS NOT NULL;
DROP INDEX jk_parked;

-- Rate limits. used: running jobs, also of these, so that an operator may change the kind.
ALTER TABLE jk_limit ADD COLUMN win INTEGER NOT NULL DEFAULT 0;      -- 0 none, 1 fixed, 2 sliding
ALTER TABLE jk_limit ADD COLUMN len INTEGER NOT NULL DEFAULT 0;      -- of the window
ALTER TABLE jk_limit ADD COLUMN started INTEGER NOT NULL DEFAULT 0;  -- sum of its rows in jk_limit_start
ALTER TABLE jk_limit ADD COLUMN room_at INTEGER;                     -- when the first of these rows ends
-- Where the next look at the lanes goes on, if one look did not reach the last.
ALTER TABLE jk_limit ADD COLUMN lane_queue INTEGER;
ALTER TABLE jk_limit ADD COLUMN lane_kind INTEGER;
-- 1: nobody serves any of its lanes, and each has been given something to be found with; so nobody
-- looks at it until servers or pauses change, or somebody joins or leaves a lane. 2: so far.
ALTER TABLE jk_limit ADD COLUMN asleep INTEGER NOT NULL DEFAULT 0;
CREATE INDEX jk_limit_asleep ON jk_limit (id) WHERE asleep > 0;
-- Those that a sweep looks at. Where time brings room, jk_limit_room_at finds them. (A CASE on one
-- side of the comparison says the same, but then SQLite does not see that a query asks for it.)
CREATE INDEX jk_limit_room ON jk_limit (id)
  WHERE waiting > 0 AND asleep <> 1 AND ((win = 0 AND used < max) OR (win > 0 AND started < max));
CREATE INDEX jk_limit_room_at ON jk_limit (room_at) WHERE waiting > 0 AND room_at IS NOT NULL;
-- By the first start that counts: one that is yet to come shows that the clock went back.
CREATE INDEX jk_limit_first ON jk_limit (room_at - len) WHERE waiting > 0 AND room_at IS NOT NULL;
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
