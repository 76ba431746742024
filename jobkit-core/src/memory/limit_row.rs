//! A limit: who holds its slots, who is parked at it, and the starts that count in its window.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::clock::Timestamp;
use crate::model::limit::{Limit, Window};
use crate::model::name::Name;

use super::state::{Place, Rank};

/// By so much may the clock go back before it is noticed.
pub(super) const SKEW: std::time::Duration = std::time::Duration::from_secs(1);

/// A limit.
#[derive(Debug)]
pub(super) struct LimitRow {
    pub(super) max: u32,
    pub(super) window: Option<Window>,
    pub(super) by_operator: bool,
    /// Starts under a rate limit, by the instant from which they count.
    starts: BTreeMap<Timestamp, u32>,
    /// Their sum.
    started: usize,
    /// When the first of these starts does not count any more, while jobs are parked.
    pub(super) room_at: Option<Timestamp>,
    /// Jobs that hold a slot, by the time of their claim.
    pub(super) holders: BTreeSet<(Timestamp, Place)>,
    /// Jobs that are parked at it.
    pub(super) waiting: Lines,
    /// Jobs that were parked at it, were let go, and are not claimed yet.
    pub(super) admitted: Lines,
}

/// Jobs of several lanes, each in the order of claims.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub(super) lanes: BTreeMap<(Name, Name), BTreeSet<Rank>>,
    len: usize,
}

impl Lines {
    pub(super) fn set(&mut self, queue: &Name, kind: &Name, rank: Rank, enter: bool) {
        let lane = (queue.clone(), kind.clone());
        if enter {
            let added = self.lanes.entry(lane).or_default().insert(rank);
            self.len += usize::from(added);
        } else if let Some(line) = self.lanes.get_mut(&lane) {
            self.len -= usize::from(line.remove(&rank));
            if line.is_empty() {
                self.lanes.remove(&lane);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl LimitRow {
    pub(super) fn new(limit: &Limit, by_operator: bool) -> Self {
        Self {
            max: limit.max,
            window: limit.window,
            by_operator,
            starts: BTreeMap::new(),
            started: 0,
            room_at: None,
            holders: BTreeSet::new(),
            waiting: Lines::default(),
            admitted: Lines::default(),
        }
    }

    /// Slots taken, or starts that count at an instant.
    pub(super) fn used(&self, now: Timestamp) -> usize {
        let Some(window) = self.window else { return self.holders.len() };
        let over = self.starts.range(..=now.minus(window.length()));
        self.started - over.map(|(_, starts)| *starts as usize).sum::<usize>()
    }

    /// When a rate limit that is full has room again.
    pub(super) fn next_room_at(&self, now: Timestamp) -> Option<Timestamp> {
        let window = self.window?;
        let mut left = self.used(now);
        let mut room_at = None;
        for (at, starts) in self.starts.range(now.minus(window.length())..) {
            let end = at.plus(window.length());
            if left < self.max as usize {
                break;
            }
            if end > now {
                left = left.saturating_sub(*starts as usize);
                room_at = Some(end);
            }
        }
        room_at
    }

    pub(super) fn room(&self, now: Timestamp) -> usize {
        (self.max as usize).saturating_sub(self.used(now))
    }

    /// Forgets the starts that do not count any more.
    pub(super) fn forget_starts(&mut self, now: Timestamp) {
        let Some(window) = self.window else { return };
        while let Some(first) = self.starts.first_entry()
            && first.key().plus(window.length()) <= now
        {
            self.started -= first.remove() as usize;
        }
    }

    pub(super) fn add_starts(&mut self, from: Timestamp, count: u32) {
        *self.starts.entry(from).or_default() += count;
        self.started += count as usize;
    }

    /// Starts that are yet to come, since the clock went back, count from now on: so none counts longer
    /// than one length.
    pub(super) fn pull_back(&mut self, now: Timestamp) {
        let Some(window) = self.window else { return };
        let soon = now.plus(SKEW);
        let mut ahead = 0;
        while let Some(last) = self.starts.last_entry()
            && *last.key() > soon
        {
            ahead += last.remove();
        }
        if ahead > 0 {
            self.started -= ahead as usize;
            self.add_starts(window.counts_from(now), ahead);
        }
    }

    /// Notes the starts that count for another window. Of those in a fixed one nobody knows the instant:
    /// they count as if they were now, so that none is lost.
    pub(super) fn change_window(&mut self, to: Option<Window>, now: Timestamp) {
        let from = self.window;
        if from == to {
            return;
        }
        self.forget_starts(now);
        self.window = to;
        let starts = std::mem::take(&mut self.starts);
        self.started = 0;
        let (Some(from), Some(to)) = (from, to) else { return };
        for (start, count) in starts {
            let start = if matches!(from, Window::Fixed(_)) { now } else { start };
            let from = to.counts_from(start);
            if from.plus(to.length()) > now {
                self.add_starts(from, count);
            }
        }
    }
}

/// Enters when a rate limit at which jobs are parked has room again.
pub(super) fn note_room_at(
    index: &mut BTreeSet<(Timestamp, String)>,
    name: &str,
    row: &mut LimitRow,
) {
    let first = row.starts.keys().next().filter(|_| !row.waiting.is_empty());
    let at = row.window.and_then(|window| first.map(|first| first.plus(window.length())));
    if at == row.room_at {
        return;
    }
    if let Some(before) = std::mem::replace(&mut row.room_at, at) {
        index.remove(&(before, name.to_owned()));
    }
    index.extend(at.map(|at| (at, name.to_owned())));
}
