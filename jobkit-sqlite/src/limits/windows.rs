//! Rate limits: the starts of a window, counted exactly and forgotten in bounded steps.

use std::collections::BTreeMap;
use std::time::Duration;

use jobkit_core::Timestamp;
use jobkit_core::limit::Window;
use rusqlite::params;

use super::limit_row::LimitRow;
use crate::codec::{at, index, size};
use crate::error::SqlResult;
use crate::txn::{Push, Txn};

/// The most starts that one look forgets, counted by their instants.
const FORGOTTEN_AT_ONCE: usize = 1_000;
/// How much the clocks of processes may differ.
pub(super) const SKEW: Duration = Duration::from_secs(1);

pub(crate) fn count_start(
    txn: &mut Txn<'_, '_>,
    row: &LimitRow,
    window: Window,
    now: Timestamp,
) -> SqlResult {
    let from = window.counts_from(now);
    let end = from.plus(window.length());
    add_starts(txn, row.id, from, 1)?;
    txn.db.run(
        "UPDATE jk_limit SET used = used + 1, started = started + 1, \
         room_at = min(COALESCE(room_at, ?2), ?2) WHERE id = ?1",
        [row.id, end.as_micros()],
    )?;
    if row.room_at.is_none() && row.waiting > 0 {
        txn.pushes.push(Push::Due(end));
    }
    Ok(())
}

/// How many more may start now. Starts that do not count any more are forgotten on the way.
pub(crate) fn room(txn: &Txn<'_, '_>, row: &mut LimitRow, now: Timestamp) -> SqlResult<usize> {
    let Some(window) = row.window else {
        return Ok(index(row.max.saturating_sub(row.used).max(0)));
    };
    if row.room_at.is_some_and(|at| at <= now.as_micros()) {
        let over = txn.db.all(
            "SELECT at, n FROM jk_limit_start WHERE lim = ?1 AND at <= ?2 ORDER BY at LIMIT ?3",
            [row.id, now.minus(window.length()).as_micros(), size(FORGOTTEN_AT_ONCE)],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
        )?;
        if let Some((last, _)) = over.last() {
            txn.db
                .run("DELETE FROM jk_limit_start WHERE lim = ?1 AND at <= ?2", [row.id, *last])?;
        }
        row.started = over.iter().fold(row.started, |left, (_, n)| left.saturating_sub(*n)).max(0);
        note_starts(txn, row, window)?;
    }
    Ok(index(row.max.saturating_sub(row.started).max(0)))
}

/// Stores how many starts count, and when the first of them ceases to: at once, if more are to be
/// forgotten than one look does.
fn note_starts(txn: &Txn<'_, '_>, row: &mut LimitRow, window: Window) -> SqlResult {
    let first =
        txn.db.one("SELECT min(at) FROM jk_limit_start WHERE lim = ?1", [row.id], |row| {
            row.get::<_, Option<i64>>(0)
        })?;
    row.room_at = first.flatten().map(|from| at(from).plus(window.length()).as_micros());
    txn.db.run(
        "UPDATE jk_limit SET started = ?2, room_at = ?3 WHERE id = ?1",
        params![row.id, row.started, row.room_at],
    )?;
    Ok(())
}

/// Starts in the future, because the clock went back, count from now on, so that none counts longer
/// than one window.
pub(crate) fn pull_back(txn: &Txn<'_, '_>, row: &mut LimitRow, now: Timestamp) -> SqlResult {
    let Some(window) = row.window else { return Ok(()) };
    let soon = now.plus(SKEW).as_micros();
    let last =
        txn.db.one("SELECT max(at) FROM jk_limit_start WHERE lim = ?1", [row.id], |row| {
            row.get::<_, Option<i64>>(0)
        })?;
    if last.flatten().is_none_or(|last| last <= soon) {
        return Ok(());
    }
    let ahead = txn.db.one(
        "SELECT sum(n) FROM jk_limit_start WHERE lim = ?1 AND at > ?2",
        [row.id, soon],
        |row| row.get::<_, i64>(0),
    )?;
    txn.db.run("DELETE FROM jk_limit_start WHERE lim = ?1 AND at > ?2", [row.id, soon])?;
    add_starts(txn, row.id, window.counts_from(now), ahead.unwrap_or(0))?;
    note_starts(txn, row, window)
}

fn add_starts(txn: &Txn<'_, '_>, limit: i64, from: Timestamp, count: i64) -> SqlResult {
    txn.db.run(
        "INSERT INTO jk_limit_start (lim, at, n) VALUES (?1, ?2, ?3) \
         ON CONFLICT (lim, at) DO UPDATE SET n = n + excluded.n",
        [limit, from.as_micros(), count],
    )?;
    Ok(())
}

/// Stores the sum of the starts that are kept.
pub(crate) fn recount_starts(txn: &Txn<'_, '_>, row: &mut LimitRow) -> SqlResult {
    let kept = txn.db.one(
        "SELECT sum(n), min(at) FROM jk_limit_start WHERE lim = ?1",
        [row.id],
        |row| Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, Option<i64>>(1)?)),
    )?;
    let (started, first) = kept.unwrap_or_default();
    row.started = started.unwrap_or(0);
    row.room_at = match (row.window, first) {
        (Some(window), Some(first)) => Some(at(first).plus(window.length()).as_micros()),
        _ => None,
    };
    txn.db.run(
        "UPDATE jk_limit SET started = ?2, room_at = ?3 WHERE id = ?1",
        params![row.id, row.started, row.room_at],
    )?;
    Ok(())
}

/// Converts the starts for another window. The instants of starts in a fixed window are unknown: they
/// count as if they were now, so that none is lost.
pub(crate) fn change_window(
    txn: &Txn<'_, '_>,
    limit: i64,
    from: Window,
    to: Window,
    now: Timestamp,
) -> SqlResult {
    txn.db.run(
        "DELETE FROM jk_limit_start WHERE lim = ?1 AND at <= ?2",
        [limit, now.minus(from.length()).as_micros()],
    )?;
    if let (Window::Sliding(_), Window::Sliding(_)) = (from, to) {
        // Their instants are known.
        txn.db.run(
            "DELETE FROM jk_limit_start WHERE lim = ?1 AND at <= ?2",
            [limit, now.minus(to.length()).as_micros()],
        )?;
        return Ok(());
    }
    let starts = txn.db.all(
        "SELECT at, n FROM jk_limit_start WHERE lim = ?1 ORDER BY at",
        [limit],
        |row| Ok((at(row.get(0)?), row.get::<_, i64>(1)?)),
    )?;
    txn.db.run("DELETE FROM jk_limit_start WHERE lim = ?1", [limit])?;
    let mut counted: BTreeMap<Timestamp, i64> = BTreeMap::new();
    for (start, count) in starts {
        let start = if matches!(from, Window::Fixed(_)) { now } else { start };
        *counted.entry(to.counts_from(start)).or_default() += count;
    }
    for (from, count) in counted {
        if from.plus(to.length()) > now {
            add_starts(txn, limit, from, count)?;
        }
    }
    Ok(())
}
