-- What a server was told, by whom, why and until when. (`command` was never written.)
ALTER TABLE jk_server ADD COLUMN orders TEXT;

-- Operations on everything that matches a filter.
CREATE TABLE jk_bulk (
  id BLOB PRIMARY KEY,
  version INTEGER NOT NULL,
  ended_at INTEGER,
  body TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX jk_bulk_open ON jk_bulk (id) WHERE ended_at IS NULL;
CREATE INDEX jk_bulk_ended ON jk_bulk (ended_at) WHERE ended_at IS NOT NULL;

-- Failures by fingerprint. The mute stands apart, so that counting never overwrites it.
CREATE TABLE jk_failure (
  fingerprint INTEGER PRIMARY KEY,
  last_seen INTEGER NOT NULL,
  body TEXT NOT NULL,
  mute TEXT
);
CREATE INDEX jk_failure_seen ON jk_failure (last_seen);

CREATE TABLE jk_audit (
  n INTEGER PRIMARY KEY,
  operation BLOB NOT NULL UNIQUE,
  at INTEGER NOT NULL,
  body TEXT NOT NULL
);
CREATE INDEX jk_audit_at ON jk_audit (at);

CREATE TABLE jk_secret (name TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
