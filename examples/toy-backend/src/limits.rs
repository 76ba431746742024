//! Limits: who may start, who waits, and who is let go when there is room.
//!
//! Slots are index keys of the jobs that hold them (`slot/`), and so are those who wait (`waiting/`) and those
//! who were let go and are not claimed yet (`let-go/`). Starts under a rate limit are rows (`start/`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use jobkit_core::limit::{Limit, Window};
use jobkit_core::record::NewRecord;
use jobkit_core::state::{State, StateName};
use jobkit_core::storage::{LimitHolder, LimitStore, LimitUsage};
use jobkit_core::{Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::ToyStorage;
use crate::call::Call;
use crate::keys::{Key, instant, last_number, table, texts};
use crate::record::{Admitted, Job};

/// The most waiters of a limit that one step makes claimable; the rest is left to sweeps.
pub(crate) const ADMITTED_AT_ONCE: usize = 500;
/// The most limits that one step looks at.
const LIMITS_SWEPT: usize = 100;
/// What is let go of a lane that nobody serves: enough to be found by a server that comes.
const UNSERVED: usize = 1;
/// Two polls: room that was given and is not used by then is for others, too.
const UNCLAIMED: Duration = Duration::from_secs(10);
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
    async fn define_limit(&self, limit: &Limit) -> Result<()> {
        limit.check()?;
        self.write(None, |call| {
            if call.limit_row(&limit.name)?.is_none() {
                call.define(limit, true)?;
            }
            call.change_window(&limit.name, limit.window)?;
            if let Some(mut row) = call.limit_row(&limit.name)? {
                row.limit.max = limit.max;
                row.by_operator = true;
                call.put(row_key(&limit.name), &row)?;
            }
            call.note_room(&limit.name)?;
            call.due_for_room(&limit.name)?;
            call.limits.insert(limit.name.clone());
            Ok(())
        })
    }

    async fn limits(&self, after: Option<&str>, limit: usize) -> Result<Vec<LimitUsage>> {
        self.read(None, |call| {
            let rows = table("limit");
            let from = after.map_or(rows.to_vec(), |after| row_key(after).end());
            let rows = call.keys_from(&rows, &from, limit);
            let usage =
                rows.iter().map(|key| call.get(key)?.map(|row| call.usage(row)).transpose());
            usage.filter_map(Result::transpose).collect()
        })
    }

    async fn limit(&self, name: &str) -> Result<Option<LimitUsage>> {
        self.read(None, |call| call.limit_row(name)?.map(|row| call.usage(row)).transpose())
    }

    async fn limit_holders(&self, name: &str, limit: usize) -> Result<Vec<LimitHolder>> {
        self.read(None, |call| {
            if call.limit_row(name)?.is_none_or(|row| row.limit.window.is_some()) {
                return Ok(Vec::new());
            }
            let mut holders = Vec::new();
            for key in call.keys(&table("slot").text(name), limit) {
                let record = call.job(last_number(&key))?.record;
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
impl Call<'_> {
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

/// Who is let go.
impl Call<'_> {
    /// The lanes of a line, and where each begins.
    fn lanes(&self, line: &Key) -> Vec<([String; 2], Key)> {
        let mut lanes: Vec<([String; 2], Key)> = Vec::new();
        let mut from = line.to_vec();
        while let Some(key) = self.keys_from(line, &from, 1).pop() {
            let [queue, kind] = texts(line.len(), &key);
            let lane = line.clone().lane(&queue, &kind);
            // Behind all of the lane, without walking over it.
            from = lane.end();
            lanes.push(([queue, kind], lane));
        }
        lanes
    }

    /// Makes the next waiters of a limit claimable, as many as have room; answers how many.
    ///
    /// Those that a live server would take, in the order of claims, less those that were let go a moment
    /// before and are not claimed yet. What no live server takes holds no slot while it stands in line, so
    /// it takes nothing of that room, and of each such lane one is let go, so that a server that comes finds
    /// it. A lane whose servers leave unclaimed what was let go does not keep that room from others either.
    pub(crate) fn admit(&mut self, limit: &str, max: usize) -> Result<usize> {
        let waiting = table("waiting").text(limit);
        if self.first(&waiting).is_none() {
            return Ok(0);
        }
        self.forget_starts(limit)?;
        let Some(row) = self.limit_row(limit)? else { return Ok(0) };
        let room = self.room(&row);
        if room == 0 {
            return Ok(0);
        }
        let servers = self.servers()?;
        let is_live = |[queue, kind]: &[String; 2]| {
            let serves =
                |names: &[jobkit_core::Name], name: &str| names.iter().any(|it| *it == name);
            servers.iter().any(|it| serves(&it.info.queues, queue) && serves(&it.info.kinds, kind))
        };
        let (since, soon) = (self.now.minus(UNCLAIMED), self.now.plus(SKEW));
        let (mut recent, mut oldest) = (0, None);
        // Of each lane: how many were let go and are not claimed, and whether one is so for long.
        let mut let_go: BTreeMap<[String; 2], (usize, bool)> = BTreeMap::new();
        for (lane, keys) in self.lanes(&table("let-go").text(limit)) {
            let (mut number, mut unclaimed) = (0, false);
            for key in self.keys(&keys, usize::MAX) {
                number += 1;
                let Some(admitted) = self.job(last_number(&key))?.admitted else { continue };
                let at = admitted.at;
                unclaimed |= at <= since;
                if admitted.live && is_live(&lane) && at > since && at <= soon {
                    recent += 1;
                    oldest = Some(oldest.map_or(at, |oldest: Timestamp| oldest.min(at)));
                }
            }
            let_go.insert(lane, (number, unclaimed));
        }
        let live_room = room.saturating_sub(recent);
        let mut live = BTreeSet::new();
        let mut others = Vec::new();
        let mut any_live = false;
        for (lane, keys) in self.lanes(&waiting) {
            let is_live = is_live(&lane);
            any_live |= is_live;
            let (before, unclaimed) = let_go.get(&lane).copied().unwrap_or_default();
            let ranks =
                |max| self.keys(&keys, max).into_iter().map(|key| key[keys.len()..].to_vec());
            if is_live && !unclaimed {
                live.extend(ranks(live_room));
            } else {
                let alone = if is_live { room } else { UNSERVED };
                others.extend(ranks(alone.saturating_sub(before)));
            }
        }
        let live = live.into_iter().take(live_room).map(|rank| (rank, true));
        let next = live.chain(others.into_iter().map(|rank| (rank, false))).take(max);
        let next: Vec<(Vec<u8>, bool)> = next.collect();
        if any_live && self.count(&waiting, next.len() + 1) > next.len() {
            // Others may have what is not claimed by then.
            let again = oldest.map(|at| at.plus(UNCLAIMED));
            self.told.look_again = self.told.look_again.into_iter().chain(again).min();
        }
        for (rank, live) in &next {
            let mut job = self.job(last_number(rank))?;
            let (at, live) = (self.now, *live);
            job.admitted = job.record.parked_at.take().map(|limit| Admitted { limit, at, live });
            self.save(&job)?;
        }
        self.told.work |= !next.is_empty();
        Ok(next.len())
    }

    /// The limits that have waiters, behind the one named, at most `max`.
    fn limits_with_waiters(&self, after: Option<&str>, max: usize) -> Vec<String> {
        let waiting = table("waiting");
        let line = |limit: &str| waiting.clone().text(limit);
        let mut from = after.map_or(waiting.to_vec(), |after| line(after).end());
        let mut limits = Vec::new();
        while limits.len() < max
            && let Some(key) = self.keys_from(&waiting, &from, 1).pop()
        {
            let [limit] = texts(waiting.len(), &key);
            from = line(&limit).end();
            limits.push(limit);
        }
        limits
    }

    /// Lets the limits that have waiters be looked at before the call ends, since other lanes are live now;
    /// those beyond a bound by the next sweep.
    pub(crate) fn refill_limits(&mut self) {
        let mut limits = self.limits_with_waiters(None, LIMITS_SWEPT + 1);
        self.told.work |= limits.len() > LIMITS_SWEPT;
        limits.truncate(LIMITS_SWEPT);
        self.limits.extend(limits);
    }

    /// Looks at the next limits that have waiters, and goes on with the next step where this one stopped;
    /// how many waiters were let go, and whether limits are left.
    pub(crate) fn fill_limits(&mut self, max: usize) -> Result<(usize, bool)> {
        let before: Option<String> = self.get(&table("swept"))?;
        let mut swept = before.clone();
        let mut done = 0;
        let mut more = true;
        for _ in 0..LIMITS_SWEPT {
            let Some(limit) = self.limits_with_waiters(swept.as_deref(), 1).pop() else {
                swept = None;
                more = false;
                break;
            };
            if done >= max {
                break;
            }
            done += self.admit(&limit, max - done)?;
            if done < max {
                swept = Some(limit);
            }
        }
        match swept {
            swept if swept == before => {}
            Some(swept) => self.put(table("swept"), &swept)?,
            None => self.tx.delete(table("swept")),
        }
        Ok((done, more))
    }
}

/// Rate limits.
impl Call<'_> {
    fn add_starts(&mut self, limit: &str, from: Timestamp, count: u64) -> Result<()> {
        let Some(mut row) = self.limit_row(limit)? else { return Ok(()) };
        let key = starts(limit).at(from);
        let before = self.tx.get(&key).map_or(0, last_number);
        self.tx.put(key, (before + count).to_be_bytes());
        row.started += count;
        self.put(row_key(limit), &row)
    }

    /// Takes away starts from a range of keys; each with its count.
    fn take_starts(
        &mut self,
        limit: &str,
        from: &[u8],
        to: &[u8],
    ) -> Result<Vec<(Timestamp, u64)>> {
        let Some(mut row) = self.limit_row(limit)? else { return Ok(Vec::new()) };
        let keys: Vec<Vec<u8>> = self.tx.keys(from, to).map(<[u8]>::to_vec).collect();
        let mut taken = Vec::with_capacity(keys.len());
        for key in keys {
            let count = self.tx.get(&key).map_or(0, last_number);
            row.started = row.started.saturating_sub(count);
            taken.push((instant(&starts(limit), &key), count));
            self.tx.delete(key);
        }
        if !taken.is_empty() {
            self.put(row_key(limit), &row)?;
        }
        Ok(taken)
    }

    /// Forgets the starts that do not count any more.
    fn forget_starts(&mut self, limit: &str) -> Result<()> {
        let Some(row) = self.limit_row(limit)? else { return Ok(()) };
        let Some(window) = row.limit.window else { return Ok(()) };
        let end = starts(limit).at(self.now.minus(window.length())).end();
        self.take_starts(limit, &starts(limit), &end)?;
        self.note_room(limit)
    }

    /// Starts that are yet to come, since the clock went back, count from now on: so none counts longer than
    /// one length.
    fn pull_back(&mut self, limit: &str) -> Result<()> {
        let Some(row) = self.limit_row(limit)? else { return Ok(()) };
        let Some(window) = row.limit.window else { return Ok(()) };
        let soon = starts(limit).at(self.now.plus(SKEW)).end();
        let ahead = self.take_starts(limit, &soon, &starts(limit).end())?;
        let ahead: u64 = ahead.into_iter().map(|(_, count)| count).sum();
        if ahead > 0 {
            self.add_starts(limit, window.counts_from(self.now), ahead)?;
        }
        self.note_room(limit)
    }

    /// Notes the starts that count for another window. Of those in a fixed one nobody knows the instant: they
    /// count as if they were now, so that none is lost.
    fn change_window(&mut self, limit: &str, to: Option<Window>) -> Result<()> {
        self.forget_starts(limit)?;
        let Some(mut row) = self.limit_row(limit)? else { return Ok(()) };
        let from = std::mem::replace(&mut row.limit.window, to);
        if from == to {
            return Ok(());
        }
        self.put(row_key(limit), &row)?;
        let kept = self.take_starts(limit, &starts(limit), &starts(limit).end())?;
        let (Some(from), Some(to)) = (from, to) else { return Ok(()) };
        for (start, count) in kept {
            let start = if matches!(from, Window::Fixed(_)) { self.now } else { start };
            let from = to.counts_from(start);
            if from.plus(to.length()) > self.now {
                self.add_starts(limit, from, count)?;
            }
        }
        Ok(())
    }

    /// Enters when a rate limit at which jobs are parked has room again.
    pub(crate) fn note_room(&mut self, limit: &str) -> Result<()> {
        let Some(mut row) = self.limit_row(limit)? else { return Ok(()) };
        let waits = self.first(&table("waiting").text(limit)).is_some();
        let first = self.first(&starts(limit)).filter(|_| waits);
        let first = first.map(|key| instant(&starts(limit), &key));
        let at = row.limit.window.and_then(|window| first.map(|first| first.plus(window.length())));
        if at == row.room_at {
            return Ok(());
        }
        if let Some(before) = std::mem::replace(&mut row.room_at, at) {
            self.tx.delete(room_key(before, limit));
        }
        if let Some(at) = at {
            self.tx.put(room_key(at, limit), []);
        }
        self.put(row_key(limit), &row)
    }

    fn due_for_room(&mut self, limit: &str) -> Result<()> {
        if let Some(at) = self.limit_row(limit)?.and_then(|row| row.room_at) {
            self.due_at(at);
        }
        Ok(())
    }

    /// Lets go who waits at rate limits to which time has brought room; how many.
    pub(crate) fn fill_due_limits(&mut self, max: usize) -> Result<usize> {
        let room = table("room");
        if self.first(&room).is_none() {
            return Ok(0);
        }
        let limit_of = |key: &Vec<u8>| texts::<1>(room.len() + 8, key).concat();
        let before: Option<Timestamp> = self.get(&table("started"))?;
        if before != Some(self.now) {
            let now = self.now;
            self.put(table("started"), &now)?;
        }
        if before.is_some_and(|before| before > self.now) {
            // The clock went back.
            for key in self.keys(&room, usize::MAX) {
                self.pull_back(&limit_of(&key))?;
            }
        }
        let mut done = 0;
        for _ in 0..LIMITS_SWEPT {
            let due = self.tx.keys(&room, &room.clone().at(self.now).end()).next();
            let Some(due) = due.map(<[u8]>::to_vec).filter(|_| done < max) else { break };
            done += self.admit(&limit_of(&due), max - done)?;
        }
        Ok(done)
    }

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
