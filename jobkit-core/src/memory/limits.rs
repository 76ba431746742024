//! `impl LimitStore`, and who is let go when a limit has room.

use std::collections::BTreeSet;
use std::ops::Bound;

use async_trait::async_trait;

use crate::error::Result;
use crate::limit::Limit;
use crate::memory::MemoryStorage;
use crate::state::State;
use crate::storage::{LimitHolder, LimitStore, LimitUsage};

use super::state::{LimitRow, Rank, Tables, Work};

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
            row.by_operator = true;
            work.limits.insert(limit.name.clone());
        });
        Ok(())
    }

    async fn limits(&self, after: Option<&str>, limit: usize) -> Result<Vec<LimitUsage>> {
        Ok(self.read(None, |tables, _| {
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let rows = tables.limits.range::<str, _>((from, Bound::Unbounded));
            rows.take(limit).map(|(name, row)| usage(name, row)).collect()
        }))
    }

    async fn limit(&self, name: &str) -> Result<Option<LimitUsage>> {
        Ok(self.read(None, |tables, _| tables.limits.get(name).map(|row| usage(name, row))))
    }

    async fn limit_holders(&self, name: &str, limit: usize) -> Result<Vec<LimitHolder>> {
        Ok(self.read(None, |tables, _| {
            let Some(row) = tables.limits.get(name) else { return Vec::new() };
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

fn usage(name: &str, row: &LimitRow) -> LimitUsage {
    LimitUsage {
        limit: Limit::new(name, row.max),
        used: row.used(),
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
        let Some(row) = self.limits.get(limit) else { return 0 };
        let room = row.room();
        if room == 0 || row.waiting.is_empty() {
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
