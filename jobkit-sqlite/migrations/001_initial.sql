-- `jk_` stands for the namespace: it is replaced before anything here reaches the database.

-- version, oldest_writer: see schema.rs. floor: the highest sequence that was ever purged from the
-- end, so that none is given twice. generation: of the lock that was taken last.
CREATE TABLE jk_meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;

-- Queues, kinds and servers by number. Rows are never changed or removed.
CREATE TABLE jk_name (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);

CREATE TABLE jk_job (
  seq INTEGER PRIMARY KEY,
  id BLOB NOT NULL,
  state INTEGER NOT NULL,           -- 0 awaiting, 1 scheduled, 2 enqueued, 3 processing, 4 succeeded, 5 failed, 6 deleted
  reason INTEGER NOT NULL,
  queue INTEGER NOT NULL,
  kind INTEGER NOT NULL,
  rank INTEGER NOT NULL,            -- 9 - priority
  flags INTEGER NOT NULL DEFAULT 0, -- see codec.rs
  fence INTEGER NOT NULL DEFAULT 0,
  failures INTEGER NOT NULL DEFAULT 0,
  crashes INTEGER NOT NULL DEFAULT 0,
  run INTEGER NOT NULL DEFAULT 0,
  version INTEGER NOT NULL DEFAULT 1,
  entered_at INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  enqueued_at INTEGER,
  claimed_at INTEGER,
  run_at INTEGER,
  expires_at INTEGER,
  duration INTEGER,
  start INTEGER,                    -- see codec.rs
  start_by INTEGER,
  open INTEGER,                     -- decisions that an awaiting job waits for
  parked INTEGER,                   -- the limit at which an enqueued job waits
  was INTEGER,                      -- the reason it had while enqueued, where columns hold the whole cycle
  server INTEGER,
  incarnation INTEGER,
  claim_seq INTEGER,
  lease_until INTEGER,
  cancel INTEGER,
  settled_fence INTEGER,
  settled_by INTEGER,
  batch BLOB,
  digest BLOB NOT NULL,
  parents INTEGER NOT NULL DEFAULT 0,
  last_op BLOB,
  actor TEXT,
  tags TEXT,
  uniq TEXT,
  limits TEXT,
  extras TEXT,
  args BLOB,                        -- NULL: in jk_payload
  result BLOB,
  history TEXT                      -- what the columns no longer hold
);
CREATE UNIQUE INDEX jk_job_id ON jk_job (id);
-- Every index ends with the sequence by itself, since it is the rowid.
-- What can be claimed. A line for each kind, so that a claim never walks what it does not serve.
CREATE INDEX jk_ready ON jk_job (queue, kind, rank) WHERE state = 2 AND parked IS NULL;
CREATE INDEX jk_parked ON jk_job (parked, queue, rank) WHERE state = 2 AND parked IS NOT NULL;
CREATE INDEX jk_due ON jk_job (run_at) WHERE state = 1;
CREATE INDEX jk_awaiting ON jk_job (seq) WHERE state = 0;
-- Without the expiry of the lease, so that a renewal touches no index.
CREATE INDEX jk_held ON jk_job (claimed_at, seq, incarnation, claim_seq, queue, kind) WHERE state = 3;
-- Lists of finished jobs. For finished ones alone: lists over all states cost half the throughput.
CREATE INDEX jk_done ON jk_job (state, entered_at) WHERE state >= 4;
CREATE INDEX jk_done_queue ON jk_job (queue, state, entered_at) WHERE state >= 4;
CREATE INDEX jk_done_kind ON jk_job (kind, state, entered_at) WHERE state >= 4;
CREATE INDEX jk_expires ON jk_job (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX jk_member ON jk_job (batch) WHERE batch IS NOT NULL;

-- What is too large for the row: arguments at 2 * seq, the result at 2 * seq + 1.
CREATE TABLE jk_payload (id INTEGER PRIMARY KEY, body BLOB NOT NULL);

CREATE TABLE jk_edge (
  child INTEGER NOT NULL,
  n INTEGER NOT NULL,
  parent BLOB NOT NULL,
  batch INTEGER NOT NULL,           -- 1: the parent is a batch
  cond INTEGER NOT NULL,            -- 0 success, 1 failed, 2 any
  decided INTEGER NOT NULL,         -- 0 no, 1 yes, 2 no, and it does not matter any more
  PRIMARY KEY (child, n)
) WITHOUT ROWID;
CREATE INDEX jk_edge_open ON jk_edge (parent, batch, cond, child) WHERE decided = 0;
CREATE INDEX jk_edge_parent ON jk_edge (parent, batch, child, n);

CREATE TABLE jk_ukey (hash BLOB PRIMARY KEY, job INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE jk_limit (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  max INTEGER NOT NULL,
  used INTEGER NOT NULL DEFAULT 0,
  waiting INTEGER NOT NULL DEFAULT 0,
  by_operator INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX jk_limit_waiting ON jk_limit (id) WHERE waiting > 0;

CREATE TABLE jk_batch (
  num INTEGER PRIMARY KEY,
  id BLOB NOT NULL UNIQUE,
  name TEXT NOT NULL,
  total INTEGER NOT NULL,
  succeeded INTEGER NOT NULL,
  failed INTEGER NOT NULL,
  deleted INTEGER NOT NULL,
  members INTEGER NOT NULL,         -- those not purged yet
  created_at INTEGER NOT NULL,
  attached_at INTEGER NOT NULL,
  started_at INTEGER,
  completed_at INTEGER,
  succeeded_at INTEGER,
  cancelled_at INTEGER
);
CREATE INDEX jk_batch_filling ON jk_batch (attached_at) WHERE started_at IS NULL;
CREATE INDEX jk_batch_empty ON jk_batch (completed_at) WHERE members = 0 AND completed_at IS NOT NULL;

-- Work that a bounded step left to sweeps. What has a sequence above `until` came later and is not
-- meant; what is at or below `done` is done.
CREATE TABLE jk_mark (
  id INTEGER PRIMARY KEY,
  what INTEGER NOT NULL,
  subject BLOB NOT NULL,
  arg INTEGER NOT NULL,
  done INTEGER NOT NULL,
  until INTEGER NOT NULL
);
CREATE INDEX jk_mark_subject ON jk_mark (subject, what);

CREATE TABLE jk_error (
  seq INTEGER NOT NULL,
  fence INTEGER NOT NULL,
  failures INTEGER NOT NULL,
  at INTEGER NOT NULL,
  fingerprint INTEGER NOT NULL,
  detail TEXT NOT NULL
);
CREATE UNIQUE INDEX jk_error_attempt ON jk_error (seq, fence);

CREATE TABLE jk_log (
  seq INTEGER NOT NULL,
  fence INTEGER NOT NULL,
  n INTEGER NOT NULL,
  at INTEGER NOT NULL,
  level INTEGER NOT NULL,
  text TEXT NOT NULL,
  PRIMARY KEY (seq, fence, n)
) WITHOUT ROWID;
CREATE TABLE jk_log_tail (
  seq INTEGER NOT NULL,
  fence INTEGER NOT NULL,
  last INTEGER NOT NULL,
  dropped INTEGER NOT NULL,
  PRIMARY KEY (seq, fence)
) WITHOUT ROWID;
-- In the order in which the bars appeared.
CREATE TABLE jk_progress (
  n INTEGER PRIMARY KEY,
  seq INTEGER NOT NULL,
  name TEXT NOT NULL,
  done INTEGER NOT NULL,
  total INTEGER NOT NULL,
  message TEXT NOT NULL
);
CREATE UNIQUE INDEX jk_progress_bar ON jk_progress (seq, name);
CREATE TABLE jk_memo (
  seq INTEGER NOT NULL,
  run INTEGER NOT NULL,
  key TEXT NOT NULL,
  value BLOB NOT NULL,
  PRIMARY KEY (seq, run, key)
) WITHOUT ROWID;
CREATE TABLE jk_checkpoint (seq INTEGER PRIMARY KEY, value BLOB NOT NULL);

-- What writing calls counted, until a fold adds it to jk_stat: a row for each process, which it
-- writes anew with every commit. Row 0 says what other processes want to know, who read it when
-- `data_version` moves; it stands here so that a commit writes one page for both.
CREATE TABLE jk_delta (id INTEGER PRIMARY KEY, body TEXT, work INTEGER, others INTEGER);
INSERT INTO jk_delta (id, work, others) VALUES (0, 0, 0);
CREATE TABLE jk_stat (
  scope TEXT NOT NULL,              -- '' for all, 'q:' and a queue, 'k:' and a kind
  step INTEGER NOT NULL,            -- 0 all time, 1 minute, 2 hour, 3 day
  bucket INTEGER NOT NULL,
  body TEXT NOT NULL,
  PRIMARY KEY (scope, step, bucket)
) WITHOUT ROWID;

CREATE TABLE jk_server (
  incarnation INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  info TEXT NOT NULL,
  heartbeat_at INTEGER NOT NULL,
  busy INTEGER NOT NULL DEFAULT 0,
  command TEXT,
  last_claim INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE jk_pause (
  of_kind INTEGER NOT NULL,         -- 0: a queue, 1: a kind
  name TEXT NOT NULL,
  body TEXT NOT NULL,
  PRIMARY KEY (of_kind, name)
) WITHOUT ROWID;
CREATE TABLE jk_lock (
  name TEXT PRIMARY KEY,
  owner INTEGER NOT NULL,
  generation INTEGER NOT NULL,
  expires_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX jk_lock_by_expiry ON jk_lock (expires_at);

CREATE TABLE jk_recurring (
  id TEXT PRIMARY KEY,
  spec TEXT,                        -- NULL once removed: the row remembers the last instant
  etag INTEGER NOT NULL,
  next_nominal INTEGER,
  next_due INTEGER,
  last_nominal INTEGER,
  last_job BLOB,
  pause TEXT,
  created_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX jk_recurring_by_due ON jk_recurring (next_due, id) WHERE next_due IS NOT NULL;
CREATE TABLE jk_recurring_run (
  recurring TEXT NOT NULL,
  n INTEGER NOT NULL,
  body TEXT NOT NULL,
  PRIMARY KEY (recurring, n)
) WITHOUT ROWID;
