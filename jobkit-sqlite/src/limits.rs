//! `LimitStore`.

pub(crate) mod admission;
pub(crate) mod limit_row;
pub(crate) mod slots;
mod windows;

use async_trait::async_trait;
use jobkit_core::limit::{Limit, Window};
use jobkit_core::state::State;
use jobkit_core::state_machine::Event;
use jobkit_core::storage::{Call, LimitHolder, LimitStore, LimitUsage, ReleaseStuck};
use jobkit_core::{JobId, Result, Timestamp, bounds};
use rusqlite::params;

use self::limit_row::{window_at, window_numbers};
use crate::codec::job_row::{Job, column, select_job};
use crate::codec::{at, size, small, uint};
use crate::connection::Db;
use crate::error::{SqlResult, warn_corrupt_row};
use crate::jobs::finish::finish_step;
use crate::jobs::read;
use crate::jobs::transition::{TransitionContext, transition};
use crate::storage::SqliteStorage;
use crate::txn::marks::Budget;
use crate::txn::{Push, Txn};

/// Sets what an operator decided: maximum and window.
fn redefine(txn: &mut Txn<'_, '_>, limit: &Limit, now: Timestamp) -> SqlResult {
    let (win, len) = window_numbers(limit.window);
    let before = limit_row::load(txn.db, &limit.name)?.and_then(|row| row.window);
    txn.db.run(
        "INSERT INTO jk_limit (name, max, win, len, by_operator) VALUES (?1, ?2, ?3, ?4, 1) \
         ON CONFLICT (name) DO UPDATE SET max = excluded.max, win = excluded.win, \
         len = excluded.len, by_operator = 1",
        params![limit.name, limit.max, win, len],
    )?;
    let Some(mut row) = limit_row::load(txn.db, &limit.name)? else { return Ok(()) };
    match (before, row.window) {
        (_, None) => {
            txn.db.run("DELETE FROM jk_limit_start WHERE lim = ?1", [row.id])?;
        }
        (Some(before), Some(window)) if before != window => {
            windows::change_window(txn, row.id, before, window, now)?;
        }
        _ => {}
    }
    windows::recount_starts(txn, &mut row)?;
    if let Some(room_at) = row.room_at.filter(|_| row.waiting > 0) {
        txn.pushes.push(Push::Due(at(room_at)));
    }
    txn.dirty_limits.insert(row.id);
    admission::admit_waiters(txn, now)
}

/// Rescues a job that holds a limit under an expired lease.
fn release_stuck(
    txn: &mut Txn<'_, '_>,
    limit: &str,
    id: JobId,
    crash_limit: u32,
    now: Timestamp,
) -> SqlResult<bool> {
    let Some(mut job) = read::find(txn.db, id)? else { return Ok(false) };
    let expired = matches!(&job.head.state, State::Processing(hold) if hold.expires_at <= now);
    let slots =
        txn.db.one("SELECT 1 FROM jk_limit WHERE name = ?1 AND win = 0", [limit], |_| Ok(()))?;
    let holds = slots.is_some() && job.limits()?.iter().any(|it| it.name == limit);
    if !expired || !holds {
        return Ok(false);
    }
    // An expired lease can always be rescued.
    let _ = transition(txn, &mut job, &Event::Rescue { crash_limit }, &TransitionContext::at(now))?;
    finish_step(txn, now, &mut Budget(bounds::CHILDREN_IN_SETTLE))?;
    Ok(true)
}

/// The columns that [`usage`] reads.
macro_rules! select_usage {
    ($rest:literal) => {
        concat!("SELECT id, name, max, used, waiting, by_operator, win, len FROM jk_limit ", $rest)
    };
}

fn usage(
    db: &Db<'_>,
    text: &'static str,
    params: impl rusqlite::Params,
    now: Timestamp,
) -> SqlResult<Vec<LimitUsage>> {
    let rows = db.all(text, params, |row| {
        let window = window_at(row.get(6)?, row.get(7)?);
        let limit = Limit { name: row.get(1)?, max: small(row.get(2)?), window };
        let usage = LimitUsage {
            limit,
            used: small(row.get(3)?),
            room_at: None,
            waiting: uint(row.get(4)?),
            defined_by_operator: row.get::<_, i64>(5)? != 0,
        };
        Ok((row.get::<_, i64>(0)?, usage))
    })?;
    let with_starts = |(id, mut usage): (i64, LimitUsage)| {
        if let Some(window) = usage.limit.window {
            (usage.used, usage.room_at) = starts(db, id, usage.limit.max, window, now)?;
        }
        Ok(usage)
    };
    rows.into_iter().map(with_starts).collect()
}

/// The starts that count now, and when there is capacity again if they use all of it.
fn starts(
    db: &Db<'_>,
    limit: i64,
    max: u32,
    window: Window,
    now: Timestamp,
) -> SqlResult<(u32, Option<Timestamp>)> {
    let starts = db.all(
        "SELECT at, n FROM jk_limit_start WHERE lim = ?1 AND at > ?2 ORDER BY at",
        [limit, now.minus(window.length()).as_micros()],
        |row| Ok((at(row.get(0)?), row.get::<_, i64>(1)?)),
    )?;
    let used: i64 = starts.iter().map(|(_, count)| count).sum();
    let (mut left, mut room_at) = (used, None);
    for (from, count) in starts {
        if left < i64::from(max) {
            break;
        }
        left -= count;
        room_at = Some(from.plus(window.length()));
    }
    Ok((small(used), room_at))
}

fn holders(db: &Db<'_>, name: &str, limit: usize) -> SqlResult<Vec<LimitHolder>> {
    let slots = db.one("SELECT 1 FROM jk_limit WHERE name = ?1 AND win = 0", [name], |_| Ok(()))?;
    if slots.is_none() {
        return Ok(Vec::new());
    }
    let mut statement = db.prepare(select_job!(
        "INDEXED BY jk_held WHERE state = {processing} AND limits IS NOT NULL ORDER BY claimed_at, seq"
    ))?;
    let mut rows = statement.query([])?;
    let mut holders = Vec::new();
    while let Some(row) = rows.next()? {
        if holders.len() >= limit {
            break;
        }
        let read = Job::read(db, row).and_then(|job| Ok((job.limits()?, job)));
        let (limits, job) = match read {
            Err(fault) if fault.is_corrupt_row() => {
                warn_corrupt_row(row.get(column::SEQ)?, &fault);
                continue;
            }
            read => read?,
        };
        if limits.iter().any(|limit| limit.name == name) {
            holders.push(LimitHolder {
                job: job.id,
                fence: job.head.fence,
                claimed_at: job.claimed_at.unwrap_or(job.head.entered_at),
                expires_at: at(row.get(column::LEASE_UNTIL)?),
            });
        }
    }
    Ok(holders)
}

#[async_trait]
impl LimitStore for SqliteStorage {
    async fn define_limit(&self, call: &Call, limit: &Limit) -> Result<()> {
        limit.check()?;
        let limit = limit.clone();
        self.writer()
            .call_at("define_limit", call, move |txn, now| redefine(txn, &limit, now))
            .await
    }

    async fn limits(
        &self,
        call: &Call,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<LimitUsage>> {
        let after = after.unwrap_or_default().to_owned();
        let now = call.time(self.clock());
        self.read("limits", move |db| {
            let text = select_usage!("WHERE name > ?1 ORDER BY name LIMIT ?2");
            usage(db, text, params![after, size(limit)], now)
        })
        .await
    }

    async fn limit(&self, call: &Call, name: &str) -> Result<Option<LimitUsage>> {
        let name = name.to_owned();
        let now = call.time(self.clock());
        self.read("limit", move |db| {
            Ok(usage(db, select_usage!("WHERE name = ?1"), [name], now)?.pop())
        })
        .await
    }

    async fn limit_holders(&self, name: &str, limit: usize) -> Result<Vec<LimitHolder>> {
        let name = name.to_owned();
        self.read("limit_holders", move |db| holders(db, &name, limit)).await
    }

    async fn release_stuck(&self, call: &Call, request: ReleaseStuck<'_>) -> Result<bool> {
        let ReleaseStuck { limit, job, crash_limit } = request;
        let limit = limit.to_owned();
        self.writer()
            .call_at("release_stuck", call, move |txn, now| {
                release_stuck(txn, &limit, job, crash_limit, now)
            })
            .await
    }
}
