//! Rows of log lines and of progress.

use jobkit_core::bounds;
use jobkit_core::record::Progress;
use jobkit_core::storage::{LogLevel, LogLine};
use rusqlite::params;

use crate::codec::{at, int, size};
use crate::connection::Db;
use crate::error::SqlResult;
use crate::txn::Txn;

fn level_number(level: LogLevel) -> i64 {
    match level {
        LogLevel::Trace => 0,
        LogLevel::Debug => 1,
        LogLevel::Info => 2,
        LogLevel::Warn => 3,
        LogLevel::Error => 4,
    }
}

pub(crate) fn level_at(number: i64) -> LogLevel {
    match number {
        0 => LogLevel::Trace,
        1 => LogLevel::Debug,
        3 => LogLevel::Warn,
        4 => LogLevel::Error,
        _ => LogLevel::Info,
    }
}

/// All lines of an attempt.
pub(crate) fn lines_of(db: &Db<'_>, seq: i64, fence: i64) -> SqlResult<Vec<LogLine>> {
    Ok(db.all(
        "SELECT at, level, text FROM jk_log WHERE seq = ?1 AND fence = ?2 ORDER BY n",
        [seq, fence],
        |row| Ok(LogLine { at: at(row.get(0)?), level: level_at(row.get(1)?), text: row.get(2)? }),
    )?)
}

pub(crate) fn append(
    txn: &Txn<'_, '_>,
    seq: i64,
    fence: u64,
    lines: &[LogLine],
    dropped: u64,
) -> SqlResult {
    if lines.is_empty() && dropped == 0 {
        return Ok(());
    }
    let fence = int(fence);
    let (first, mut dropped_before) = txn
        .db
        .one(
            "SELECT last, dropped FROM jk_log_tail WHERE seq = ?1 AND fence = ?2",
            [seq, fence],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
        )?
        .unwrap_or((0, 0));
    let mut last = first;
    for line in lines {
        last = last.saturating_add(1);
        txn.db.run(
            "INSERT INTO jk_log (seq, fence, n, at, level, text) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![seq, fence, last, line.at.as_micros(), level_number(line.level), line.text],
        )?;
    }
    if last > size(bounds::LOG_LINES) {
        let gone = txn.db.run(
            "DELETE FROM jk_log WHERE seq = ?1 AND fence = ?2 AND n <= ?3",
            [seq, fence, last - size(bounds::LOG_LINES)],
        )?;
        dropped_before = dropped_before.saturating_add(size(gone));
    }
    txn.db.run(
        "INSERT INTO jk_log_tail (seq, fence, last, dropped) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (seq, fence) DO UPDATE SET last = excluded.last, dropped = excluded.dropped",
        [seq, fence, last, dropped_before.saturating_add(int(dropped))],
    )?;
    Ok(())
}

pub(crate) fn set_progress(txn: &Txn<'_, '_>, seq: i64, progress: &[Progress]) -> SqlResult {
    for bar in progress {
        txn.db.run(
            "INSERT INTO jk_progress (seq, name, done, total, message) \
             VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (seq, name) DO UPDATE SET \
             done = excluded.done, total = excluded.total, message = excluded.message",
            params![seq, bar.name, int(bar.done), int(bar.total), bar.message],
        )?;
    }
    Ok(())
}
