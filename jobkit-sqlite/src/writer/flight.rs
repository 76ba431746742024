//! One transaction: what is known in it, what it counts, and how it ends.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use jobkit_core::edge::Parent;
use jobkit_core::error_group::ErrorGroup;
use jobkit_core::failure::Fingerprint;
use jobkit_core::stats::{Delta, Step};
use jobkit_core::{BatchId, Clock, Error, ErrorKind, Incarnation, JobId, Name, Result, Timestamp};
use rusqlite::params;

use crate::batches::Touched;
use crate::codec::{int, uint};
use crate::connection::Db;
use crate::error::{Done, sqlite};
use crate::jobs::alike::Alike;
use crate::sweep::Verdict;

/// A row of deltas with more lanes than this is left as it is.
const TAIL_LANES: usize = 16;

/// What is pushed to listeners after the commit.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Push {
    Due(Timestamp),
    Finished(JobId),
    Cancel(JobId),
}

/// One transaction, and what is known in it.
pub(crate) struct Flight<'d, 'c> {
    pub(crate) db: &'d Db<'c>,
    clock: &'d dyn Clock,
    deltas: Vec<Delta>,
    pub(crate) work: bool,
    pub(crate) pushes: Vec<Push>,
    /// Parents that ended and whose children are to be decided, in the order of their ends.
    pub(crate) ended: VecDeque<(Parent, Verdict)>,
    /// Batches that were looked at since the last [`settle_batches`](Self::settle_batches).
    pub(crate) batches: HashMap<BatchId, Touched>,
    /// Limits that may have room for those who wait at them.
    pub(crate) refills: BTreeSet<i64>,
    /// When sweeps are to look at limits again, since room that was given will not have been used.
    pub(crate) look_again: Option<Timestamp>,
    /// Failures of this flight, by fingerprint.
    failures: BTreeMap<Fingerprint, ErrorGroup>,
    next_seq: Option<i64>,
    /// Rows that change alike and are written together.
    pub(crate) alike: Alike,
}

/// The row of what this process has counted since the last fold.
#[derive(Clone, Debug)]
pub(super) struct Tail {
    id: i64,
    delta: Delta,
}

impl Tail {
    /// Whether another delta may be added: of the same minute, and while the row is small.
    fn takes(&self, delta: &Delta) -> bool {
        self.delta.at == delta.at && self.delta.lanes.len() <= TAIL_LANES
    }
}

/// What [`Flight::restore`] goes back to.
pub(crate) struct Saved {
    deltas: Vec<Delta>,
    work: bool,
    pushes: usize,
    failures: BTreeMap<Fingerprint, ErrorGroup>,
    next_seq: Option<i64>,
}

impl<'d, 'c> Flight<'d, 'c> {
    pub(crate) fn new(db: &'d Db<'c>, clock: &'d dyn Clock) -> Self {
        Self {
            db,
            clock,
            deltas: Vec::new(),
            work: false,
            pushes: Vec::new(),
            ended: VecDeque::new(),
            batches: HashMap::new(),
            refills: BTreeSet::new(),
            look_again: None,
            failures: BTreeMap::new(),
            next_seq: None,
            alike: Alike::default(),
        }
    }

    /// The storage's clock, or what a test puts in its place.
    pub(crate) fn now(&self, instead: Option<Timestamp>) -> Timestamp {
        instead.unwrap_or_else(|| self.clock.now())
    }

    /// Where this call's transitions are counted. Calls of one minute share a delta: no bucket is
    /// shorter.
    pub(crate) fn delta(&mut self, now: Timestamp) -> &mut Delta {
        let bucket = Step::Minute.bucket(now);
        let found = self.deltas.iter().position(|delta| delta.at == bucket.as_micros());
        let index = found.unwrap_or_else(|| {
            self.deltas.push(Delta::at(bucket));
            self.deltas.len() - 1
        });
        &mut self.deltas[index]
    }

    /// The next place in line. Places are never given twice, also when the last jobs were purged.
    pub(crate) fn next_seq(&mut self) -> Done<i64> {
        let next = match (self.next_seq, self.db.last_seq()) {
            (Some(next), _) => next,
            (None, Some(last)) => {
                debug_assert!(
                    !matches!(self.last_seq(), Ok(stored) if stored > last),
                    "{last} is taken"
                );
                last.saturating_add(1)
            }
            (None, None) => self.last_seq()?.saturating_add(1),
        };
        let after = next.checked_add(1);
        self.next_seq =
            Some(after.ok_or_else(|| Error::corrupt("the last place in line is taken"))?);
        Ok(next)
    }

    /// The highest place that any job has, or had before it was purged.
    pub(crate) fn last_seq(&self) -> Done<i64> {
        let last = self.db.one("SELECT max(seq) FROM jk_job", [], |row| row.get(0))?.flatten();
        let floor =
            self.db.one("SELECT value FROM jk_meta WHERE key = 'floor'", [], |row| row.get(0))?;
        Ok(last.unwrap_or(0).max(floor.unwrap_or(0)))
    }

    /// Begins a part that may be undone alone.
    pub(crate) fn save(&mut self) -> Done<Saved> {
        self.db.run("SAVEPOINT part", [])?;
        Ok(Saved {
            deltas: self.deltas.clone(),
            work: self.work,
            pushes: self.pushes.len(),
            failures: self.failures.clone(),
            next_seq: self.next_seq,
        })
    }

    /// Undoes what was done since.
    pub(crate) fn restore(&mut self, saved: Saved) -> Done {
        self.db.run("ROLLBACK TO part", [])?;
        self.deltas = saved.deltas;
        self.work = saved.work;
        self.pushes.truncate(saved.pushes);
        self.failures = saved.failures;
        self.next_seq = saved.next_seq;
        self.ended.clear();
        self.batches.clear();
        self.refills.clear();
        self.release()
    }

    /// Keeps what was done since.
    pub(crate) fn release(&mut self) -> Done {
        self.db.run("RELEASE part", [])?;
        Ok(())
    }

    /// What a commit of the writer would add, inside a transaction that another commits.
    pub(crate) fn end_inside(&mut self) -> Done {
        self.write_deltas(None)?;
        self.write_failures()?;
        self.signal()
    }

    /// Counts a failed attempt, once for each in a flight.
    pub(crate) fn count_failure(&mut self, failed: ErrorGroup) {
        match self.failures.get_mut(&failed.fingerprint) {
            Some(group) => group.add(&failed),
            None => {
                self.failures.insert(failed.fingerprint, failed);
            }
        }
    }

    fn write_failures(&mut self) -> Done {
        for (_, group) in std::mem::take(&mut self.failures) {
            crate::operations::failures::add(self.db, group)?;
        }
        Ok(())
    }

    /// Writes what was counted, together with what this process has counted since the last fold: one
    /// row is written again and again, so that there are few to read. Answers what it holds then.
    fn write_deltas(&mut self, tail: Option<&Tail>) -> Done<Option<Tail>> {
        let mut tail = tail.cloned();
        for delta in self.deltas.drain(..).filter(|delta| !delta.is_empty()) {
            if let Some(tail) = tail.as_mut().filter(|tail| tail.takes(&delta)) {
                let mut sum = tail.delta.clone();
                for (queue, kind, tally) in &delta.lanes {
                    sum.lane(queue, kind).add(tally);
                }
                let body = serde_json::to_string(&sum)?;
                let written = self
                    .db
                    .run("UPDATE jk_delta SET body = ?2 WHERE id = ?1", params![tail.id, body])?;
                // Otherwise another process has folded it.
                if written > 0 {
                    tail.delta = sum;
                    continue;
                }
            }
            // A number that no other process has: theirs must not be overwritten.
            let id = Incarnation::new().as_i64();
            let body = serde_json::to_string(&delta)?;
            self.db.run("INSERT INTO jk_delta (id, body) VALUES (?1, ?2)", params![id, body])?;
            tail = Some(Tail { id, delta });
        }
        Ok(tail)
    }

    /// Tells other processes, who read it when they see that something was written.
    fn signal(&self) -> Done {
        if self.work || !self.pushes.is_empty() {
            self.db.run(
                "UPDATE jk_delta SET work = work + ?1, others = others + ?2 WHERE id = 0",
                [i64::from(self.work), i64::from(!self.pushes.is_empty())],
            )?;
        }
        Ok(())
    }
}

/// What follows a commit.
pub(super) struct After {
    pub(super) work: bool,
    pub(super) pushes: Vec<Push>,
    pub(super) folded: bool,
    pub(super) tail: Option<Tail>,
    pub(super) next_seq: Option<i64>,
}

pub(super) fn finish(mut flight: Flight<'_, '_>, tail: Option<&Tail>, fold: bool) -> Result<After> {
    let mut tail = flight.write_deltas(tail)?;
    flight.write_failures()?;
    if fold && fold_apart(flight.db)? {
        tail = None;
    }
    flight.signal()?;
    match flight.db.run("COMMIT", []) {
        Ok(_) => Ok(After {
            work: flight.work,
            pushes: flight.pushes,
            folded: fold,
            tail,
            next_seq: flight.next_seq,
        }),
        Err(error) => {
            let failed = sqlite(error);
            // When the log could not be written or synced, it may yet hold the commit.
            Err(match failed.kind() {
                ErrorKind::NotWritable => failed,
                _ => failed.maybe_applied(),
            })
        }
    }
}

/// Folds as a part of its own: statistics that cannot be read must stop nobody's jobs. What was counted
/// waits until they can.
fn fold_apart(db: &Db<'_>) -> Done<bool> {
    db.run("SAVEPOINT fold", [])?;
    match fold_deltas(db) {
        Ok(folded) => {
            db.run("RELEASE fold", [])?;
            Ok(folded)
        }
        Err(fault) => {
            db.run("ROLLBACK TO fold", [])?;
            db.run("RELEASE fold", [])?;
            let error = Error::from(fault);
            tracing::warn!(%error, "statistics cannot be updated at the moment");
            Ok(false)
        }
    }
}

/// Adds up what was counted; whether there was anything.
fn fold_deltas(db: &Db<'_>) -> Done<bool> {
    let deltas = db.all("SELECT body FROM jk_delta WHERE body IS NOT NULL", [], |row| {
        row.get::<_, String>(0)
    })?;
    if deltas.is_empty() {
        return Ok(false);
    }
    crate::monitoring::fold(db, deltas.iter().map(String::as_str))?;
    db.run("DELETE FROM jk_delta WHERE body IS NOT NULL", [])?;
    Ok(true)
}

impl Flight<'_, '_> {
    /// The names of a lane.
    pub(crate) fn lane(&self, queue: i64, kind: i64) -> Done<(Name, Name)> {
        Ok((self.db.name(queue)?, self.db.name(kind)?))
    }

    /// Reads a number of `jk_meta`.
    pub(crate) fn meta(&self, key: &str) -> Done<u64> {
        let value =
            self.db.one("SELECT value FROM jk_meta WHERE key = ?1", [key], |row| row.get(0))?;
        Ok(uint(value.unwrap_or(0)))
    }

    /// Sets a number of `jk_meta`.
    pub(crate) fn set_meta(&self, key: &str, value: u64) -> Done {
        self.db.run(
            "INSERT INTO jk_meta (key, value) VALUES (?1, ?2) \
             ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (key, int(value)),
        )?;
        Ok(())
    }
}
