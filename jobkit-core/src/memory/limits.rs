//! `impl LimitStore`, and who is let go when a limit has room.

use std::collections::BTreeSet;
use std::ops::Bound;

use async_trait::async_trait;

use crate::clock::Timestamp;
use crate::error::Result;
use crate::limit::Limit;
use crate::memory::MemoryStorage;
use crate::state::State;
use crate::storage::{LimitHolder, LimitStore, LimitUsage};

use super::state::{LimitRow, Rank, Tables, Work, note_room_at};

/// The most waiters of a limit that one step makes claimable; the rest is left to sweeps.
pub(super) const ADMITTED_AT_ONCE: usize = 500;
/// The most limits that one step of a sweep looks at.
const LIMITS_SWEPT: usize = 100;

#[async_trait]
impl LimitStore for MemoryStorage {
    async fn define_limit(&self, limit: &Limit) -> Result<()> {
        limit.check()?;
        self.write(None, |tables, work| {
            let row = tables.limits.entry(limit.name.clone());
            let row = row.or_insert_with(|| LimitRow::new(limit, true));
            row.max = limit.max;
            row.window = limit.window;
            row.by_operator = true;
            if row.window.is_none() {
                row.starts.clear();
            }
            note_room_at(&mut tables.room_at, &limit.name, row);
            if let Some(at) = row.room_at {
                work.due_at(at);
            }
            work.limits.insert(limit.name.clone());
        });
        Ok(())
    }

    async fn limits(&self, after: Option<&str>, limit: usize) -> Result<Vec<LimitUsage>> {
        Ok(self.read(None, |tables, now| {
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let rows = tables.limits.range::<str, _>((from, Bound::Unbounded));
            rows.take(limit).map(|(name, row)| usage(name, row, now)).collect()
        }))
    }

    async fn limit(&self, name: &str) -> Result<Option<LimitUsage>> {
        Ok(self.read(None, |tables, now| tables.limits.get(name).map(|row| usage(name, row, now))))
    }

    async fn limit_holders(&self, name: &str, limit: usize) -> Result<Vec<LimitHolder>> {
        Ok(self.read(None, |tables, _| {
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
}

fn usage(name: &str, row: &LimitRow, now: Timestamp) -> LimitUsage {
    let used = row.used(now);
    // Each instant at which starts cease to count, until fewer than the number do.
    let ends = row.window.map(|window| row.starts.keys().map(move |at| at.plus(window.length())));
    let room_at = ends.and_then(|mut ends| ends.find(|end| *end > now && row.room(*end) > 0));
    LimitUsage {
        limit: Limit { name: name.to_owned(), max: row.max, window: row.window },
        used: u32::try_from(used).unwrap_or(u32::MAX),
        room_at: room_at.filter(|_| row.room(now) == 0),
        waiting: row.waiting.len() as u64,
        defined_by_operator: row.by_operator,
    }
}

impl Tables {
    /// Makes the next waiters of a limit claimable, as many as have room; answers how many.
    ///
    /// Those that a live server would take, in the order of claims, less those that were let go before
    /// and are not claimed yet. What no live server takes, since nobody serves it or it is paused,
    /// holds no slot while it stands in line: it takes nothing of that room, and each such lane is let
    /// go as far as there is room for it alone, so that a server that comes finds it claimable.
    pub(super) fn admit(&mut self, work: &mut Work, limit: &str, max: usize) -> usize {
        if self.limits.get(limit).is_none_or(|row| row.waiting.is_empty()) {
            return 0;
        }
        self.forget_starts(limit, work.now);
        let row = &self.limits[limit];
        let room = row.room(work.now);
        if room == 0 {
            return 0;
        }
        let is_live = |lane: &(crate::Name, crate::Name)| self.is_live(&lane.0, &lane.1, work.now);
        let admitted = row.admitted.lanes.iter().filter(|(lane, _)| is_live(lane));
        let live_room = room.saturating_sub(admitted.map(|(_, line)| line.len()).sum());
        let mut live: BTreeSet<Rank> = BTreeSet::new();
        let mut others: Vec<Rank> = Vec::new();
        for (lane, line) in &row.waiting.lanes {
            if is_live(lane) {
                live.extend(line.iter().take(live_room));
            } else {
                let before = row.admitted.lanes.get(lane).map_or(0, BTreeSet::len);
                others.extend(line.iter().take(room.saturating_sub(before)));
            }
        }
        let next = live.into_iter().take(live_room).chain(others).take(max);
        let next: Vec<Rank> = next.collect();
        for (_, place) in &next {
            self.unindex(*place);
            let job = self.job_mut(*place);
            job.admitted = job.record.parked_at.take();
            self.index(*place);
        }
        work.claimable |= !next.is_empty();
        next.len()
    }

    /// Whether a limit has no room for a claim.
    pub(super) fn is_full(&mut self, work: &mut Work, limit: &str) -> bool {
        let before = self.limits.get(limit).and_then(|row| row.room_at);
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
        *row.starts.entry(window.counts_from(work.now)).or_default() += 1;
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

    /// Lets go who waits at rate limits to which time has brought room; how many.
    pub(super) fn fill_due_limits(&mut self, work: &mut Work, max: usize) -> usize {
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
        work.claimable |= self.full_limits.len() > LIMITS_SWEPT;
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
