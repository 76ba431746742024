//! Removing the oldest finished jobs of each state beyond the number.
//!
//! The statistics say how many there are, so that nobody counts them; an index holds those of each lane in
//! the order in which they finished, and the lanes are merged.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use jobkit_core::state::StateName;
use jobkit_core::{Error, Timestamp};

use super::{BatchAnswers, remove_unless_needed};
use crate::codec::sql_text::sql;
use crate::codec::{at, int, size, uint};
use crate::connection::Db;
use crate::error::{SqlResult, warn_corrupt_row};
use crate::jobs::read::load;
use crate::monitoring::{lanes_of_finished, statistics};
use crate::txn::Txn;
use crate::txn::marks::Budget;

/// How soon jobs that are beyond the number, but had to stay, are looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Places of a lane that are read at once.
const PLACES: usize = 128;

/// When a job finished, and its sequence.
type Place = (i64, i64);

/// What a step did.
#[derive(Debug, Default)]
pub(super) struct Beyond {
    pub(super) removed: usize,
    /// The highest sequence of those that went.
    pub(super) highest: i64,
    pub(super) more: bool,
    pub(super) next_in: Option<Duration>,
}

/// The oldest finished jobs of a state, as far as each was beyond the number and had to stay: they must not
/// be walked by every step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Passed {
    count: u64,
    /// The last of them.
    last: Place,
    /// When the first of them was passed.
    since: i64,
}

/// The keys in `jk_meta` for a state: count, the last one's instant and sequence, since.
const KEYS: [(StateName, [&str; 4]); 3] = [
    (StateName::Succeeded, ["passed4", "passed4_at", "passed4_seq", "passed4_since"]),
    (StateName::Failed, ["passed5", "passed5_at", "passed5_seq", "passed5_since"]),
    (StateName::Deleted, ["passed6", "passed6_at", "passed6_seq", "passed6_since"]),
];

impl Passed {
    fn read(txn: &Txn<'_, '_>, keys: [&str; 4], now: Timestamp) -> SqlResult<Self> {
        let count = txn.meta(keys[0])?;
        if count == 0 {
            return Ok(Self::default());
        }
        let number = |key| -> SqlResult<i64> { Ok(int(txn.meta(key)?)) };
        let last = (number(keys[1])?, number(keys[2])?);
        let since = number(keys[3])?;
        let again = at(since).plus(LOOK_AGAIN);
        let over = again <= now || now < at(since);
        Ok(if over { Self::default() } else { Self { count, last, since } })
    }

    fn write(self, txn: &Txn<'_, '_>, keys: [&str; 4]) -> SqlResult {
        if self.count == 0 {
            return match txn.meta(keys[0])? {
                0 => Ok(()),
                _ => txn.set_meta(keys[0], 0),
            };
        }
        txn.set_meta(keys[0], self.count)?;
        txn.set_meta(keys[1], uint(self.last.0))?;
        txn.set_meta(keys[2], uint(self.last.1))?;
        txn.set_meta(keys[3], uint(self.since))
    }
}

/// Removes at most `max` jobs.
pub(super) fn purge_beyond_number(
    txn: &mut Txn<'_, '_>,
    number: u64,
    max: usize,
    now: Timestamp,
    budget: &mut Budget,
    answers: &mut BatchAnswers,
) -> SqlResult<Beyond> {
    let mut step = Beyond::default();
    // Statistics that cannot be read must not stop retention by time.
    let finished = match statistics::finished_now(txn) {
        Ok(finished) => finished,
        Err(fault) => {
            let error = Error::from(fault);
            tracing::warn!(%error, "finished jobs cannot be counted, so their number is not bounded");
            return Ok(step);
        }
    };
    for ((state, keys), there) in KEYS.into_iter().zip(finished) {
        if there <= number {
            continue;
        }
        let before = Passed::read(txn, keys, now)?;
        let mut passed = before;
        let mut over = there.saturating_sub(number.saturating_add(passed.count));
        let most = (max - step.removed).min(usize::try_from(over).unwrap_or(usize::MAX));
        let after = if passed.count == 0 { (i64::MIN, 0) } else { passed.last };
        let oldest = oldest(txn.db, state, after, most)?;
        // Fewer than were counted: there is no more.
        let all = oldest.len() < most;
        for place in oldest {
            if budget.0 == 0 {
                break;
            }
            let job = match load(txn.db, place.1) {
                Ok(job) => job,
                Err(fault) if fault.is_corrupt_row() => {
                    warn_corrupt_row(place.1, &fault);
                    None
                }
                Err(fault) => return Err(fault),
            };
            let goes = match &job {
                Some(job) => remove_unless_needed(txn, job, now, budget, answers)?,
                // What belongs to it is unknown, so it stays for an operator to look at.
                None => false,
            };
            if goes {
                step.removed += 1;
                step.highest = step.highest.max(place.1);
            } else if budget.0 == 0 {
                // Some of what waits for it was decided, and the next step goes on.
                break;
            } else {
                let since = if passed.count == 0 { now.as_micros() } else { passed.since };
                passed = Passed { count: passed.count + 1, last: place, since };
            }
            over -= 1;
        }
        if passed != before {
            passed.write(txn, keys)?;
        }
        step.more |= over > 0 && !all;
        if passed.count > 0 {
            let again = at(passed.since).plus(LOOK_AGAIN).since(now);
            step.next_in = Some(step.next_in.map_or(again, |next| next.min(again)));
        }
    }
    Ok(step)
}

/// The jobs of a state that finished first, after a place.
fn oldest(db: &Db<'_>, state: StateName, after: Place, most: usize) -> SqlResult<Vec<Place>> {
    let mut oldest = Vec::new();
    if most == 0 {
        return Ok(oldest);
    }
    let lanes = lanes_of_finished(db, None, None)?;
    let at_first = (most * 3 / (2 * lanes.len().max(1)) + 2).min(most);
    let mut lanes: Vec<Lane> = lanes
        .into_iter()
        .map(|lane| Lane { lane, places: VecDeque::new(), after: Some(after), at_once: at_first })
        .collect();
    let mut heads = BinaryHeap::new();
    for (index, lane) in lanes.iter_mut().enumerate() {
        heads.extend(lane.next(db, state)?.map(|place| Reverse((place, index))));
    }
    while oldest.len() < most
        && let Some(Reverse((place, index))) = heads.pop()
    {
        oldest.push(place);
        heads.extend(lanes[index].next(db, state)?.map(|place| Reverse((place, index))));
    }
    Ok(oldest)
}

/// The finished jobs of a queue and kind, the oldest first.
struct Lane {
    lane: (i64, i64),
    /// What was read and not returned yet.
    places: VecDeque<Place>,
    /// The place after which more is to be read, if there may be any.
    after: Option<Place>,
    /// How many are read next.
    at_once: usize,
}

impl Lane {
    /// The next place. Only index entries are read, and one with a corrupt instant is skipped.
    fn next(&mut self, db: &Db<'_>, state: StateName) -> SqlResult<Option<Place>> {
        if self.places.is_empty()
            && let Some((finished_at, seq)) = self.after.take()
        {
            let (queue, kind) = self.lane;
            self.places = db
                .all(
                    sql!(
                        "SELECT entered_at, seq FROM jk_job INDEXED BY jk_done_lane \
                         WHERE state >= {finished} AND queue = ?1 AND kind = ?2 AND state = ?3 \
                         AND (entered_at, seq) > (?4, ?5) AND typeof(entered_at) = 'integer' \
                         ORDER BY entered_at, seq LIMIT ?6"
                    ),
                    [queue, kind, size(state.index()), finished_at, seq, size(self.at_once)],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )?
                .into();
            self.after = self.places.back().copied().filter(|_| self.places.len() == self.at_once);
            self.at_once = (self.at_once * 2).min(PLACES);
        }
        Ok(self.places.pop_front())
    }
}
