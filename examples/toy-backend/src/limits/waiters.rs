//! Who is let go when a limit has room.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jobkit_core::{Result, Timestamp};

use super::{LIMITS_SWEPT, SKEW};
use crate::keys::{Key, last_number, table, texts};
use crate::record::Admitted;
use crate::txn::Txn;

/// What is let go of a lane that nobody serves: enough to be found by a server that comes.
const UNSERVED: usize = 1;
/// Two polls: room that was given and is not used by then is for others, too.
const UNCLAIMED: Duration = Duration::from_secs(10);

impl Txn<'_> {
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
        self.told.marks |= limits.len() > LIMITS_SWEPT;
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
