//! The storage's own limit: the smallest possible program that moves rows of the same size in
//! transactions of the same size. As fast as it can be, since a slow yardstick proves nothing.

use std::time::Instant;

use anyhow::Result;
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
}

impl Limit {
    /// What it reaches on two cores; below 70 % of it the yardstick is not trusted.
    const fn expected(self) -> f64 {
        match self {
            Self::SingleInsert => 25_000.0,
            Self::BulkInsert => 570_000.0,
            Self::ClaimAndUpdate => 260_000.0,
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
    db.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous}; PRAGMA cache_size = -65536;
         PRAGMA temp_store = MEMORY;
         CREATE TABLE job (seq INTEGER PRIMARY KEY, state INTEGER NOT NULL, claim INTEGER, args BLOB NOT NULL);"
    ))?;
    Ok(db)
}

fn once(target: &Target, limit: Limit) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let mut db = open(target, &folder)?;
    let args = [b'x'; 100];
    let rows = match (limit, target.kind) {
        (Limit::SingleInsert, Kind::SqliteFull) => target.jobs(10_000),
        (Limit::SingleInsert, _) => target.jobs(100_000),
        _ => target.jobs(500_000),
    };
    let per_transaction = match limit {
        Limit::SingleInsert => 1,
        Limit::BulkInsert | Limit::ClaimAndUpdate => 1_000,
    };
    let begun = Instant::now();
    for _ in 0..rows / per_transaction {
        let tx = db.transaction()?;
        {
            let mut insert = tx.prepare_cached("INSERT INTO job (state, args) VALUES (2, ?1)")?;
            for _ in 0..per_transaction {
                insert.execute([&args[..]])?;
            }
        }
        tx.commit()?;
    }
    let inserted = begun.elapsed();
    if limit != Limit::ClaimAndUpdate {
        return Ok(rows as f64 / inserted.as_secs_f64());
    }
    let begun = Instant::now();
    for step in 0..rows / 100 {
        let tx = db.transaction()?;
        {
            let mut claim =
                tx.prepare_cached("UPDATE job SET state = 3, claim = ?2 WHERE seq = ?1")?;
            let mut settle = tx.prepare_cached("UPDATE job SET state = 4 WHERE seq = ?1")?;
            for row in step * 100 + 1..=(step + 1) * 100 {
                claim.execute(params![row as i64, step as i64])?;
                settle.execute([row as i64])?;
            }
        }
        tx.commit()?;
    }
    Ok(rows as f64 / begun.elapsed().as_secs_f64())
}
