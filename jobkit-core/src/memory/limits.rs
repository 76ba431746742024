//! `impl LimitStore`, and who is let go when a limit has room.

use std::collections::BTreeSet;
use std::ops::Bound;

use async_trait::async_trait;

use crate::memory::MemoryStorage;
use crate::model::clock::Timestamp;
use crate::model::error::Result;
use crate::model::limit::Limit;
use crate::model::state::State;
use crate::model::state_machine::Event;
use crate::storage::{Call, LimitHolder, LimitStore, LimitUsage, ReleaseStuck};

use super::limit_row::{LimitRow, SKEW, note_room_at};
use super::state::{Admitted, Place, Rank, Tables, Work};
use super::strangers::{HELD_AGAIN, Strangers};

/// The most waiters of a limit that one step makes claimable; the rest is left to sweeps.
pub(super) const ADMITTED_AT_ONCE: usize = 500;
/// The most limits that one step of a sweep looks at.
const LIMITS_SWEPT: usize = 100;
/// What is let go of a lane that nobody serves: enough to be found by a server that comes.
const UNSERVED: usize = 1;
/// Two polls: a server that has not claimed by then what was let go for it has no room itself, and
/// the room is for others, too.
const UNCLAIMED: std::time::Duration = std::time::Duration::from_secs(10);

#[async_trait]
impl LimitStore for MemoryStorage {
    async fn define_limit(&self, call: &Call, limit: &Limit) -> Result<()> {
        limit.check()?;
        self.write(call, |tables, work| {
            Strangers::unless_held(tables.strangers.hold_limit(&limit.name))?;
            let row = tables.limits.entry(limit.name.clone());
            let row = row.or_insert_with(|| LimitRow::new(limit, true));
            row.max = limit.max;
            row.change_window(limit.window, work.now);
            row.by_operator = true;
            note_room_at(&mut tables.room_at, &limit.name, row);
            if let Some(at) = row.room_at {
                work.due_at(at);
            }
            work.limits.insert(limit.name.clone());
            Ok(())
        })
    }

    async fn limits(
        &self,
        call: &Call,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<LimitUsage>> {
        Ok(self.read_at(call, |tables, now| {
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let rows = tables.limits.range::<str, _>((from, Bound::Unbounded));
            rows.take(limit).map(|(name, row)| usage(name, row, now)).collect()
        }))
    }

    async fn limit(&self, call: &Call, name: &str) -> Result<Option<LimitUsage>> {
        Ok(self
            .read_at(call, |tables, now| tables.limits.get(name).map(|row| usage(name, row, now))))
    }

    async fn limit_holders(&self, name: &str, limit: usize) -> Result<Vec<LimitHolder>> {
        Ok(self.read(|tables| {
            let row = tables.limits.get(name).filter(|row| row.window.is_none());
            let Some(row) = row else { return Vec::new() };
            let holder = |place| {
                let record = &tables.job(place).record;
                match &record.head.state {
                    State::Processing(hold) => Some(LimitHolder {
                        job: record.id,
                        fence: record.head.fence,
                        claimed_at: hold.claimed_at,
                        expires_at: hold.expires_at,
                    }),
                    _ => None,
                }
            };
            row.holders.iter().take(limit).filter_map(|(_, place)| holder(*place)).collect()
        }))
    }

    async fn release_stuck(&self, call: &Call, request: ReleaseStuck<'_>) -> Result<bool> {
        self.write(call, |tables, work| {
            let Some(place) = tables.find(request.job) else { return Ok(false) };
            let limit = tables.strangers.hold_limit(request.limit);
            Strangers::unless_held(limit || tables.is_change_blocked(place))?;
            let holds = tables.limits.get(request.limit).is_some_and(|row| {
                row.window.is_none() && row.holders.iter().any(|(_, held)| *held == place)
            });
            let expired = matches!(&tables.job(place).record.head.state,
                State::Processing(hold) if hold.expires_at <= work.now);
            if holds && expired {
                let event = Event::Rescue { crash_limit: request.crash_limit };
                tables.must(work, place, &event);
            }
            Ok(holds && expired)
        })
    }
}

fn usage(name: &str, row: &LimitRow, now: Timestamp) -> LimitUsage {
    let used = row.used(now);
    LimitUsage {
        limit: Limit { name: name.to_owned(), max: row.max, window: row.window },
        used: u32::try_from(used).unwrap_or(u32::MAX),
        room_at: row.next_room_at(now),
        waiting: row.waiting.len() as u64,
        defined_by_operator: row.by_operator,
    }
}

impl Tables {
    /// Makes the next waiters of a limit claimable, as many as have room; answers how many.
    ///
    /// Those that a live server would take, in the order of claims, less those that were let go a moment
    /// before and are not claimed yet. What no live server takes, since nobody serves it or it is paused,
    /// holds no slot while it stands in line: it takes nothing of that room, and of each such lane one
    /// is let go, so that a server that comes finds it. A lane whose servers leave unclaimed what was let
    /// go for them does not keep that room from others either.
    pub(super) fn admit(&mut self, work: &mut Work, limit: &str, max: usize) -> usize {
        if self.limits.get(limit).is_none_or(|row| row.waiting.is_empty()) {
            return 0;
        }
        if self.strangers.hold_limit(limit) {
            let again = work.now.plus(HELD_AGAIN);
            work.look_again = work.look_again.into_iter().chain([again]).min();
            return 0;
        }
        self.forget_starts(limit, work.now);
        let row = &self.limits[limit];
        let room = row.room(work.now);
        if room == 0 {
            return 0;
        }
        let is_live = |lane: &(crate::model::name::Name, crate::model::name::Name)| {
            self.is_live(&lane.0, &lane.1, work.now)
        };
        let (since, soon) = (work.now.minus(UNCLAIMED), work.now.plus(SKEW));
        let when = |place: Place| self.job(place).admitted.as_ref().map(|it| (it.at, it.live));
        let is_recent =
            |rank: &&Rank| when(rank.1).is_some_and(|(at, live)| live && at > since && at <= soon);
        let admitted = row.admitted.lanes.iter().filter(|(lane, _)| is_live(lane));
        let recent = admitted.flat_map(|(_, line)| line.iter().filter(is_recent));
        let recent: Vec<&Rank> = recent.take(room + 1).collect();
        let live_room = room.saturating_sub(recent.len());
        let oldest = recent.iter().filter_map(|rank| when(rank.1)).map(|(at, _)| at).min();
        let is_unclaimed = |lane: &(crate::model::name::Name, crate::model::name::Name)| {
            let line = row.admitted.lanes.get(lane);
            line.is_some_and(|line| {
                line.iter().any(|rank| when(rank.1).is_some_and(|(at, _)| at <= since))
            })
        };
        let mut live: BTreeSet<Rank> = BTreeSet::new();
        let mut others: Vec<Rank> = Vec::new();
        let mut any_live = false;
        for (lane, line) in &row.waiting.lanes {
            let is_live = is_live(lane);
            any_live |= is_live;
            if is_live && !is_unclaimed(lane) {
                live.extend(line.iter().take(live_room));
            } else {
                let alone = if is_live { room } else { UNSERVED };
                let before = row.admitted.lanes.get(lane).map_or(0, BTreeSet::len);
                others.extend(line.iter().take(alone.saturating_sub(before)));
            }
        }
        let live = live.into_iter().take(live_room).map(|rank| (rank, true));
        let next = live.chain(others.into_iter().map(|rank| (rank, false)));
        let next = next.filter(|(rank, _)| !self.is_job_held(rank.1)).take(max);
        let next: Vec<(Rank, bool)> = next.collect();
        if any_live && row.waiting.len() > next.len() {
            // Others may have what is not claimed by then.
            let again = oldest.map(|at| at.plus(UNCLAIMED));
            work.look_again = work.look_again.into_iter().chain(again).min();
        }
        for ((_, place), live) in &next {
            self.unindex(*place);
            let job = self.job_mut(*place);
            let admitted = |limit| Admitted { limit, at: work.now, live: *live };
            job.admitted = job.record.parked_at.take().map(admitted);
            self.index(*place);
        }
        next.iter().for_each(|((_, place), _)| work.claimable(*place));
        next.len()
    }

    /// Whether a limit has no room for a claim.
    pub(super) fn is_full(&mut self, work: &mut Work, limit: &str) -> bool {
        let before = self.limits.get(limit).and_then(|row| row.room_at);
        self.pull_back(limit, work.now);
        self.forget_starts(limit, work.now);
        let Some(row) = self.limits.get(limit) else { return false };
        if row.room_at != before {
            // Time has brought room for those who wait, too.
            work.limits.insert(limit.to_owned());
        }
        row.room(work.now) == 0
    }

    /// Counts a start, if the limit is a rate limit.
    pub(super) fn count_start(&mut self, work: &mut Work, limit: &str) {
        let Some(row) = self.limits.get_mut(limit) else { return };
        let Some(window) = row.window else { return };
        row.add_starts(window.counts_from(work.now), 1);
        self.started_at = self.started_at.max(Some(work.now));
        note_room_at(&mut self.room_at, limit, row);
        if let Some(at) = row.room_at {
            work.due_at(at);
        }
    }

    fn forget_starts(&mut self, limit: &str, now: Timestamp) {
        if let Some(row) = self.limits.get_mut(limit) {
            row.forget_starts(now);
            note_room_at(&mut self.room_at, limit, row);
        }
    }

    fn pull_back(&mut self, limit: &str, now: Timestamp) {
        if let Some(row) = self.limits.get_mut(limit) {
            row.pull_back(now);
            note_room_at(&mut self.room_at, limit, row);
        }
    }

    /// Lets go who waits at rate limits to which time has brought room; how many.
    pub(super) fn fill_due_limits(&mut self, work: &mut Work, max: usize) -> usize {
        let before = self.started_at.replace(work.now);
        if before.is_some_and(|before| before > work.now) {
            // The clock went back.
            let limits: Vec<String> = self.room_at.iter().map(|(_, limit)| limit.clone()).collect();
            for limit in limits {
                self.pull_back(&limit, work.now);
            }
        }
        let mut done = 0;
        for _ in 0..LIMITS_SWEPT {
            let due = self.room_at.first().filter(|(at, _)| *at <= work.now && done < max);
            let Some((_, limit)) = due.cloned() else { break };
            done += self.admit(work, &limit, max - done);
        }
        done
    }

    /// Lets the limits that have waiters be looked at before the call ends, since other lanes are live
    /// now; those beyond a bound by the next sweep.
    pub(super) fn refill_limits(&self, work: &mut Work) {
        work.limits.extend(self.full_limits.iter().take(LIMITS_SWEPT).cloned());
        work.marks |= self.full_limits.len() > LIMITS_SWEPT;
    }

    /// Looks at the next limits that have waiters, and goes on with the next step where this one
    /// stopped; how many waiters were let go, and whether limits are left.
    pub(super) fn fill_limits(&mut self, work: &mut Work, max: usize) -> (usize, bool) {
        let mut done = 0;
        for _ in 0..LIMITS_SWEPT {
            let from = match &self.swept_limit {
                Some(name) => Bound::Excluded(name.clone()),
                None => Bound::Unbounded,
            };
            let Some(name) = self.full_limits.range((from, Bound::Unbounded)).next().cloned()
            else {
                self.swept_limit = None;
                return (done, false);
            };
            if done >= max {
                break;
            }
            done += self.admit(work, &name, max - done);
            if done < max {
                self.swept_limit = Some(name);
            }
        }
        (done, true)
    }
}
