//! How slots and starts are taken and freed, and which jobs wait for them.

use jobkit_core::limit::Limit;
use jobkit_core::state::StateName;
use jobkit_core::{Error, Timestamp};
use rusqlite::params;

use super::limit_row::{self, window_numbers};
use super::windows;
use crate::codec::at;
use crate::codec::job_row::Job;
use crate::error::SqlResult;
use crate::txn::{Push, Txn};

/// The first submit that names a limit defines it.
pub(crate) fn define_default(txn: &Txn<'_, '_>, limit: &Limit) -> SqlResult {
    let (win, len) = window_numbers(limit.window);
    txn.db.run(
        "INSERT INTO jk_limit (name, max, win, len) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (name) DO NOTHING",
        params![limit.name, limit.max, win, len],
    )?;
    Ok(())
}

/// Takes a slot or start of every limit, or of none; then returns the number of the first full one.
pub(crate) fn take(
    txn: &mut Txn<'_, '_>,
    limits: &[Limit],
    now: Timestamp,
) -> SqlResult<Option<i64>> {
    let mut taken = Vec::with_capacity(limits.len());
    for limit in limits {
        let mut row = match limit_row::load(txn.db, &limit.name)? {
            Some(row) => row,
            None => {
                define_default(txn, limit)?;
                limit_row::load(txn.db, &limit.name)?
                    .ok_or_else(|| Error::corrupt("a limit was not kept"))?
            }
        };
        let before = row.room_at;
        windows::pull_back(txn, &mut row, now)?;
        let room = windows::room(txn, &mut row, now)?;
        if row.room_at != before && row.waiting > 0 {
            // Time has brought capacity for the waiters, too.
            txn.dirty_limits.insert(row.id);
        }
        if room == 0 {
            return Ok(Some(row.id));
        }
        taken.push(row);
    }
    for row in taken {
        match row.window {
            None => {
                txn.db.run("UPDATE jk_limit SET used = used + 1 WHERE id = ?1", [row.id])?;
            }
            Some(window) => windows::count_start(txn, &row, window, now)?,
        }
    }
    Ok(None)
}

/// Frees a slot. Waiters for it are admitted when the step finishes. Only time gives back a start.
pub(crate) fn free(txn: &mut Txn<'_, '_>, name: &str) -> SqlResult {
    let waited_for = txn.db.one(
        "UPDATE jk_limit SET used = max(used - 1, 0) WHERE name = ?1 \
         RETURNING id, waiting > 0 AND win = 0 AND asleep <> 1",
        [name],
        |row| Ok((row.get::<_, i64>(0)?, row.get::<_, bool>(1)?)),
    )?;
    txn.dirty_limits.extend(waited_for.filter(|(_, waited_for)| *waited_for).map(|(id, _)| id));
    Ok(())
}

pub(crate) fn count_waiting(txn: &Txn<'_, '_>, limit: i64, by: i64) -> SqlResult {
    txn.db.run("UPDATE jk_limit SET waiting = max(waiting + ?2, 0) WHERE id = ?1", [limit, by])?;
    Ok(())
}

pub(crate) fn park(txn: &mut Txn<'_, '_>, job: &Job, limit: i64) -> SqlResult {
    txn.db.run("UPDATE jk_job SET parked = ?2 WHERE seq = ?1", [job.seq, limit])?;
    let first = txn.db.one(
        "UPDATE jk_limit SET waiting = waiting + 1, asleep = 0 WHERE id = ?1 \
         RETURNING waiting, room_at",
        [limit],
        |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?)),
    )?;
    if let Some((1, Some(room_at))) = first {
        txn.pushes.push(Push::Due(at(room_at)));
    }
    unadmit(txn, job.seq)
}

/// Takes back the admission of a job that does not use it: another job may.
pub(crate) fn unadmit(txn: &mut Txn<'_, '_>, seq: i64) -> SqlResult {
    let admitted =
        txn.db.one("DELETE FROM jk_admitted WHERE seq = ?1 RETURNING lim", [seq], |row| {
            row.get::<_, i64>(0)
        })?;
    if let Some(limit) = admitted {
        mark_dirty(txn, limit)?;
    }
    Ok(())
}

/// The waiters of a limit have changed: it is looked at when the step finishes.
fn mark_dirty(txn: &mut Txn<'_, '_>, limit: i64) -> SqlResult {
    clear_idle(txn, limit)?;
    txn.dirty_limits.insert(limit);
    Ok(())
}

/// The same, but it is looked at when something else causes that.
fn clear_idle(txn: &Txn<'_, '_>, limit: i64) -> SqlResult {
    txn.db.run("UPDATE jk_limit SET asleep = 0 WHERE id = ?1 AND asleep > 0", [limit])?;
    Ok(())
}

/// Updates the limits of an Enqueued job when its state or queue changes.
pub(crate) fn on_state_change(
    txn: &mut Txn<'_, '_>,
    job: &mut Job,
    to: StateName,
    now: Timestamp,
) -> SqlResult {
    match (to, job.parked) {
        // The job was moved: its new lane may have capacity, or its old one may leave capacity to
        // others.
        (StateName::Enqueued, Some(limit)) => mark_dirty(txn, limit)?,
        (StateName::Enqueued, None) => {
            let admitted = txn.db.one(
                "UPDATE jk_admitted SET queue = ?2, at = ?3, live = 1 WHERE seq = ?1 RETURNING lim",
                [job.seq, job.queue, now.as_micros()],
                |row| row.get::<_, i64>(0),
            )?;
            if let Some(limit) = admitted {
                mark_dirty(txn, limit)?;
            }
        }
        (_, Some(limit)) => {
            job.parked = None;
            count_waiting(txn, limit, -1)?;
        }
        // The claim has used the admission.
        (StateName::Processing, None) => {
            let of_unserved = txn.db.one(
                "DELETE FROM jk_admitted WHERE seq = ?1 RETURNING lim, live = 0",
                [job.seq],
                |row| Ok((row.get::<_, i64>(0)?, row.get::<_, bool>(1)?)),
            )?;
            if let Some((limit, true)) = of_unserved {
                // Another job of its lane may be admitted in its place.
                clear_idle(txn, limit)?;
            }
        }
        (_, None) => unadmit(txn, job.seq)?,
    }
    Ok(())
}
