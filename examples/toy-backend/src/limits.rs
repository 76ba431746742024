//! Limits: who may start, who waits, and who is let go when there is room.
//!
//! Slots are index keys of the jobs that hold them (`slot/`), and so are those who wait (`waiting/`) and those
//! who were let go and are not claimed yet (`let-go/`). Starts under a rate limit are rows (`start/`).

mod waiters;
mod windows;

use std::time::Duration;

use async_trait::async_trait;
use jobkit_core::limit::Limit;
use jobkit_core::record::NewRecord;
use jobkit_core::state::{State, StateName};
use jobkit_core::storage::{Call, LimitHolder, LimitStore, LimitUsage};
use jobkit_core::{Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::ToyStorage;
use crate::fault::Fault;
use crate::keys::{Key, instant, last_number, table};
use crate::record::Job;
use crate::txn::Txn;

/// The most waiters of a limit that one step makes claimable; the rest is left to sweeps.
pub(crate) const ADMITTED_AT_ONCE: usize = 500;
/// The most limits that one step looks at.
const LIMITS_SWEPT: usize = 100;
/// By so much may the clock go back before it is noticed.
const SKEW: Duration = Duration::from_secs(1);

/// A limit.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Row {
    limit: Limit,
    by_operator: bool,
    /// The sum of the starts that are kept.
    started: u64,
    /// When the first of them does not count any more, while jobs are parked; `room/` leads to it.
    room_at: Option<Timestamp>,
}

fn row_key(limit: &str) -> Key {
    table("limit").text(limit)
}

fn starts(limit: &str) -> Key {
    table("start").text(limit)
}

fn room_key(at: Timestamp, limit: &str) -> Key {
    table("room").at(at).text(limit)
}

#[async_trait]
impl LimitStore for ToyStorage {
    async fn define_limit(&self, call: &Call, limit: &Limit) -> Result<()> {
        limit.check()?;
        self.write(call, |txn| {
            if txn.limit_row(&limit.name)?.is_none() {
                txn.define(limit, true)?;
            }
            txn.change_window(&limit.name, limit.window)?;
            if let Some(mut row) = txn.limit_row(&limit.name)? {
                row.limit.max = limit.max;
                row.by_operator = true;
                txn.put(row_key(&limit.name), &row)?;
            }
            txn.note_room(&limit.name)?;
            txn.due_for_room(&limit.name)?;
            txn.limits.insert(limit.name.clone());
            Ok(())
        })
    }

    async fn limits(
        &self,
        call: &Call,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<LimitUsage>> {
        self.read_at(call, |txn| {
            let rows = table("limit");
            let from = after.map_or(rows.to_vec(), |after| row_key(after).end());
            let rows = txn.keys_from(&rows, &from, limit);
            let usage = rows.iter().map(|key| txn.get(key)?.map(|row| txn.usage(row)).transpose());
            usage.filter_map(Result::transpose).collect()
        })
    }

    async fn limit(&self, call: &Call, name: &str) -> Result<Option<LimitUsage>> {
        self.read_at(call, |txn| txn.limit_row(name)?.map(|row| txn.usage(row)).transpose())
    }

    async fn limit_holders(&self, name: &str, limit: usize) -> Result<Vec<LimitHolder>> {
        self.read(|txn| {
            if txn.limit_row(name)?.is_none_or(|row| row.limit.window.is_some()) {
                return Ok(Vec::new());
            }
            let mut holders = Vec::new();
            for key in txn.keys(&table("slot").text(name), limit) {
                let record = txn.job(last_number(&key))?.record;
                if let State::Processing(hold) = record.head.state {
                    let (job, fence) = (record.id, record.head.fence);
                    let (claimed_at, expires_at) = (hold.claimed_at, hold.expires_at);
                    holders.push(LimitHolder { job, fence, claimed_at, expires_at });
                }
            }
            Ok(holders)
        })
    }
}

/// What a claim asks.
impl Txn<'_> {
    fn limit_row(&self, limit: &str) -> Result<Option<Row>> {
        self.get(&row_key(limit))
    }

    fn define(&mut self, limit: &Limit, by_operator: bool) -> Result<()> {
        let row = Row { limit: limit.clone(), by_operator, started: 0, room_at: None };
        self.put(row_key(&limit.name), &row)
    }

    /// The first submit that names a limit defines it.
    pub(crate) fn define_limits(&mut self, job: &NewRecord) -> Result<()> {
        for limit in &job.limits {
            if self.limit_row(&limit.name)?.is_none() {
                self.define(limit, false)?;
            }
        }
        Ok(())
    }

    // [guide: limits]
    /// Parks a job at the first of its limits that is full: out of the ready jobs, without a version or an
    /// entry in the history.
    pub(crate) fn park_if_full(&mut self, job: &mut Job) -> Result<bool> {
        for limit in job.record.limits.clone() {
            if !self.is_full(&limit.name)? {
                continue;
            }
            job.record.parked_at = Some(limit.name.clone());
            job.record.head.version += u64::from(self.has(Fault::ParkingIsAChange));
            // Another one may use the room that it was given elsewhere.
            self.limits.extend(job.admitted.take().map(|it| it.limit));
            self.save(job)?;
            self.due_for_room(&limit.name)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn is_full(&mut self, limit: &str) -> Result<bool> {
        let before = self.limit_row(limit)?.and_then(|row| row.room_at);
        self.pull_back(limit)?;
        self.forget_starts(limit)?;
        let Some(row) = self.limit_row(limit)? else { return Ok(false) };
        if row.room_at != before {
            // Time has brought room for those who wait, too.
            self.limits.insert(limit.to_owned());
        }
        Ok(self.room(&row) == 0)
    }

    /// Slots taken, which are the index keys of who runs, or starts that count now.
    fn used(&self, row: &Row) -> usize {
        let name = &row.limit.name;
        let Some(window) = row.limit.window else {
            return self.count(&table("slot").text(name), usize::MAX);
        };
        let end = starts(name).at(self.now.minus(window.length())).end();
        let over = self.tx.keys(&starts(name), &end).filter_map(|key| self.tx.get(key));
        let over: u64 = over.map(last_number).sum();
        usize::try_from(row.started.saturating_sub(over)).unwrap_or(usize::MAX)
    }
    // [end]

    fn room(&self, row: &Row) -> usize {
        (row.limit.max as usize).saturating_sub(self.used(row))
    }

    /// Counts a start at each rate limit that a claimed job names.
    pub(crate) fn count_starts(&mut self, job: &Job) -> Result<()> {
        for limit in &job.record.limits {
            let Some(row) = self.limit_row(&limit.name)? else { continue };
            let Some(window) = row.limit.window else { continue };
            if job.record.head.fence > 0 && self.has(Fault::RetryIsNoStart) {
                continue;
            }
            self.add_starts(&limit.name, window.counts_from(self.now), 1)?;
            let started_at: Option<Timestamp> = self.get(&table("started"))?;
            self.put(table("started"), &started_at.max(Some(self.now)))?;
            self.note_room(&limit.name)?;
            self.due_for_room(&limit.name)?;
        }
        Ok(())
    }

    /// A slot is free: who waits for it is looked for before the call ends.
    pub(crate) fn freed_slots(&mut self, job: &Job) -> Result<()> {
        for limit in &job.record.limits {
            // Nothing but time gives back a start.
            if self.limit_row(&limit.name)?.is_some_and(|row| row.limit.window.is_none()) {
                self.limits.insert(limit.name.clone());
            }
        }
        Ok(())
    }

    /// A job that is not Enqueued any more stands in no line.
    pub(crate) fn leave_limit(&mut self, job: &mut Job, to: StateName) {
        if to == StateName::Enqueued {
            return;
        }
        job.record.parked_at = None;
        let admitted = job.admitted.take();
        if to != StateName::Processing {
            // Another one may use the room that it was given.
            self.limits.extend(admitted.map(|it| it.limit));
        }
    }

    /// There may be room for a moved job where it came, or for others where it went.
    pub(crate) fn moved_at_limits(&mut self, job: &mut Job) {
        if job.record.state() != StateName::Enqueued {
            return;
        }
        self.limits.extend(job.record.parked_at.clone());
        if let Some(admitted) = &mut job.admitted {
            (admitted.at, admitted.live) = (self.now, true);
            self.limits.insert(admitted.limit.clone());
        }
    }
}

/// What operators are told.
impl Txn<'_> {
    fn usage(&self, row: Row) -> Result<LimitUsage> {
        let waiting = self.count(&table("waiting").text(&row.limit.name), usize::MAX);
        Ok(LimitUsage {
            used: u32::try_from(self.used(&row)).unwrap_or(u32::MAX),
            room_at: self.next_room_at(&row),
            waiting: waiting as u64,
            defined_by_operator: row.by_operator,
            limit: row.limit,
        })
    }

    /// When a rate limit that is full has room again.
    fn next_room_at(&self, row: &Row) -> Option<Timestamp> {
        let window = row.limit.window?;
        let starts = starts(&row.limit.name);
        let mut left = self.used(row);
        let mut room_at = None;
        for key in self.tx.keys(&starts, &starts.end()) {
            if left < row.limit.max as usize {
                break;
            }
            let end = instant(&starts, key).plus(window.length());
            if end > self.now {
                let count = self.tx.get(key).map_or(0, last_number);
                left = left.saturating_sub(usize::try_from(count).unwrap_or(usize::MAX));
                room_at = Some(end);
            }
        }
        room_at
    }
}
