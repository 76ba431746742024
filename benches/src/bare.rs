//! The storage's own limit: the smallest possible program that moves rows of the same size in
//! transactions of the same size. As fast as it can be, since a slow yardstick proves nothing.
//!
//! A row has a number, an id of 16 bytes, a state, a claim and a body that pads it to the size of a
//! job's row. It is inserted at the end and updated by its number; there is no index beside, no
//! duplicate is looked for, nothing is read, counted or handed to another thread, and all is bound to
//! statements that were prepared before. A transaction finishes the hundred rows that the one before has
//! claimed (or ten, for `drain-limit`), and claims and reads the next hundred, each by one statement for a range: a claim that is not
//! committed before its work begins, or does not tell what is to be done, is none. What a storage does
//! beside that is what the ratio shows.

use std::time::Instant;

use anyhow::{Result, ensure};
use rusqlite::{Connection, params};

use crate::target::{Kind, Target};

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Single inserts, one transaction each.
    SingleInsert,
    /// Inserts by thousands.
    BulkInsert,
    /// Claim and update by hundreds.
    ClaimAndUpdate,
    /// Claim and update by tens: no more than ten at a time may run, so no storage can take more at a time.
    ClaimAndUpdateTens,
}

impl Limit {
    /// What it reaches on two cores; below 70 % of it the yardstick is not trusted.
    const fn expected(self) -> f64 {
        match self {
            Self::SingleInsert => 25_000.0,
            Self::BulkInsert => 570_000.0,
            Self::ClaimAndUpdate => 260_000.0,
            Self::ClaimAndUpdateTens => 180_000.0,
        }
    }

    /// Rows of one transaction that claims and updates; `None` where it only inserts.
    const fn claims(self) -> Option<i64> {
        match self {
            Self::SingleInsert | Self::BulkInsert => None,
            Self::ClaimAndUpdate => Some(100),
            Self::ClaimAndUpdateTens => Some(10),
        }
    }
}

/// Rows a second, and whether the yardstick is to be trusted; `None` where there is no database.
pub fn measure(target: &Target, limit: Limit) -> Result<Option<(f64, bool)>> {
    if target.kind == Kind::Memory {
        return Ok(None);
    }
    let mut best: f64 = 0.0;
    for _ in 0..target.rounds() {
        best = best.max(once(target, limit)?);
    }
    let expected = limit.expected();
    // With FULL the disk decides, and nothing is known of it.
    let trusted = target.kind == Kind::SqliteFull || best >= 0.7 * expected;
    if !trusted {
        eprintln!(
            "warning: bare {limit:?} reached {best:.0}/s, below 70 % of {expected:.0}/s: its ratios do not count"
        );
    }
    Ok(Some((best, trusted)))
}

fn open(target: &Target, folder: &tempfile::TempDir) -> Result<Connection> {
    let db = Connection::open(folder.path().join("bare.db"))?;
    let synchronous = if target.kind == Kind::SqliteFull { "FULL" } else { "NORMAL" };
    // The log is copied back as rarely as the storage does it.
    db.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous}; PRAGMA cache_size = -65536;
         PRAGMA temp_store = MEMORY; PRAGMA wal_autocheckpoint = 8192;
         CREATE TABLE job (seq INTEGER PRIMARY KEY, id BLOB NOT NULL, state INTEGER NOT NULL,
                           claim INTEGER, body BLOB NOT NULL);"
    ))?;
    Ok(db)
}

/// The body that makes a bare row as large as a job's with 100 bytes of arguments, as it is enqueued:
/// both take 217 bytes of their table's pages.
const ENQUEUED: usize = 180;
/// The same for a row that is claimed (245 bytes) and finished (274): their mean.
const WORKED: usize = 216;

fn once(target: &Target, limit: Limit) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let db = open(target, &folder)?;
    let rows = match (limit, target.kind) {
        (Limit::SingleInsert, Kind::SqliteFull) => target.jobs(10_000),
        (Limit::SingleInsert, _) => target.jobs(100_000),
        _ => target.jobs(500_000),
    };
    let (per_transaction, body) = match limit {
        Limit::SingleInsert => (1, ENQUEUED),
        Limit::BulkInsert => (1_000, ENQUEUED),
        Limit::ClaimAndUpdate | Limit::ClaimAndUpdateTens => (1_000, WORKED),
    };
    let body = vec![b'x'; body];
    // Nothing is parsed or looked up while it is measured.
    let (mut begin, mut commit) = (db.prepare("BEGIN")?, db.prepare("COMMIT")?);
    let mut insert = db.prepare("INSERT INTO job (id, state, body) VALUES (?1, 2, ?2)")?;
    let mut id = [0; 16];
    let begun = Instant::now();
    for transaction in 0..rows / per_transaction {
        begin.execute([])?;
        for row in 0..per_transaction {
            id[8..].copy_from_slice(&(transaction * per_transaction + row).to_be_bytes());
            insert.execute(params![&id[..], &body[..]])?;
        }
        commit.execute([])?;
    }
    let inserted = begun.elapsed();
    let Some(at_once) = limit.claims() else {
        return Ok(rows as f64 / inserted.as_secs_f64());
    };
    let mut claim = db.prepare(
        "UPDATE job SET state = 3, claim = ?3 WHERE seq BETWEEN ?1 AND ?2 RETURNING id, body",
    )?;
    let mut settle = db.prepare("UPDATE job SET state = 4 WHERE seq BETWEEN ?1 AND ?2")?;
    let begun = Instant::now();
    let mut read = 0;
    for step in 0..=rows as i64 / at_once {
        begin.execute([])?;
        settle.execute([(step - 1) * at_once + 1, step * at_once])?;
        let mut claimed = claim.query([step * at_once + 1, (step + 1) * at_once, step])?;
        while let Some(row) = claimed.next()? {
            read += row.get_ref(0)?.as_blob()?.len() + row.get_ref(1)?.as_blob()?.len();
        }
        drop(claimed);
        commit.execute([])?;
    }
    let length = begun.elapsed();
    ensure!(read == rows * (id.len() + body.len()), "not every row was read");
    Ok(rows as f64 / length.as_secs_f64())
}
