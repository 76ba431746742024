//! The transaction in progress: what is known in it, what it counts, and how it ends.
//!
//! What writes takes a [`Txn`], in the file of its domain; small tables of their own need its connection
//! alone. This file and those in `txn/` import none of them.

pub(crate) mod batch_update;
pub(crate) mod claimed_rows;
pub(crate) mod counters;
pub(crate) mod marks;

use std::collections::{BTreeSet, HashMap, VecDeque};

use jobkit_core::batch::BatchRecord;
use jobkit_core::edge::{Finish, Parent};
use jobkit_core::storage::Call;
use jobkit_core::{BatchId, Clock, Error, ErrorKind, JobId, Name, Result, Timestamp};

use self::batch_update::PendingRows;
use self::claimed_rows::ClaimedRows;
use self::counters::{Counters, Tail};
use self::marks::Verdict;
use crate::codec::{int, uint};
use crate::connection::Db;
use crate::error::{SqlResult, sqlite};

/// What is pushed to listeners after the commit.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Push {
    Due(Timestamp),
    Finished(JobId),
    Cancel(JobId),
}

/// A batch that a transaction has read.
#[derive(Debug)]
pub(crate) struct TouchedBatch {
    pub(crate) record: BatchRecord,
    /// How the enclosing batch counts it.
    pub(crate) counted: Option<Finish>,
    /// It is filled, and begins with the enclosing batch.
    pub(crate) with_parent: bool,
    /// Whether it must be written.
    pub(crate) changed: bool,
}

/// What one transaction of the writer leaves to its next one. It is void when another process has written,
/// and after a rollback, since it may describe what was undone.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    /// Rows of jobs that were claimed and have not changed since.
    pub(crate) claimed: ClaimedRows,
    /// The highest sequence that any job has, or had.
    last_seq: Option<i64>,
}

/// The transaction in progress.
pub(crate) struct Txn<'d, 'c> {
    pub(crate) db: &'d Db<'c>,
    clock: &'d dyn Clock,
    /// Statistics and failures of this transaction.
    pub(crate) counters: Counters,
    /// Whether jobs became claimable.
    pub(crate) work: bool,
    /// Whether something was left to sweeps.
    pub(crate) marks: bool,
    pub(crate) pushes: Vec<Push>,
    /// Parents that ended and whose children are to be decided, in the order of their ends.
    pub(crate) ended: VecDeque<(Parent, Verdict)>,
    /// Batches that were read since they were written last.
    pub(crate) batches: HashMap<BatchId, TouchedBatch>,
    /// Limits that may have room for their waiters.
    pub(crate) dirty_limits: BTreeSet<i64>,
    /// When a sweep is to look at limits again, since room that was given will not have been used.
    pub(crate) recheck_limits_at: Option<Timestamp>,
    /// Rows that change in the same way and are written together.
    pub(crate) pending: PendingRows,
    pub(crate) carried: Carried,
    next_seq: Option<i64>,
}

/// What [`Txn::rollback_to`] goes back to.
pub(crate) struct Savepoint {
    counters: Counters,
    work: bool,
    marks: bool,
    pushes: usize,
    next_seq: Option<i64>,
}

/// What follows a commit.
pub(crate) struct Committed {
    pub(crate) work: bool,
    pub(crate) marks: bool,
    pub(crate) pushes: Vec<Push>,
    pub(crate) folded: bool,
    pub(crate) tail: Option<Tail>,
    pub(crate) carried: Carried,
}

impl<'d, 'c> Txn<'d, 'c> {
    /// State for a transaction that has begun on `db`.
    pub(crate) fn new(db: &'d Db<'c>, clock: &'d dyn Clock, carried: Carried) -> Self {
        Self {
            db,
            clock,
            counters: Counters::default(),
            work: false,
            marks: false,
            pushes: Vec::new(),
            ended: VecDeque::new(),
            batches: HashMap::new(),
            dirty_limits: BTreeSet::new(),
            recheck_limits_at: None,
            pending: PendingRows::default(),
            carried,
            next_seq: None,
        }
    }

    /// The time of a call.
    pub(crate) fn now(&self, call: &Call) -> Timestamp {
        call.time(self.clock)
    }

    /// The next sequence. None is given twice, also when the last jobs were purged.
    pub(crate) fn next_seq(&mut self) -> SqlResult<i64> {
        let next = match (self.next_seq, self.carried.last_seq) {
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

    /// The highest sequence that any job has, or had before it was purged.
    pub(crate) fn last_seq(&self) -> SqlResult<i64> {
        let last = self.db.one("SELECT max(seq) FROM jk_job", [], |row| row.get(0))?.flatten();
        let floor =
            self.db.one("SELECT value FROM jk_meta WHERE key = 'floor'", [], |row| row.get(0))?;
        Ok(last.unwrap_or(0).max(floor.unwrap_or(0)))
    }

    /// The names of a lane.
    pub(crate) fn lane(&self, queue: i64, kind: i64) -> SqlResult<(Name, Name)> {
        Ok((self.db.name(queue)?, self.db.name(kind)?))
    }

    /// Reads a number of `jk_meta`.
    pub(crate) fn meta(&self, key: &str) -> SqlResult<u64> {
        let value =
            self.db.one("SELECT value FROM jk_meta WHERE key = ?1", [key], |row| row.get(0))?;
        Ok(uint(value.unwrap_or(0)))
    }

    /// Sets a number of `jk_meta`.
    pub(crate) fn set_meta(&self, key: &str, value: u64) -> SqlResult {
        self.db.run(
            "INSERT INTO jk_meta (key, value) VALUES (?1, ?2) \
             ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (key, int(value)),
        )?;
        Ok(())
    }

    /// Begins a part that may be undone alone.
    pub(crate) fn savepoint(&mut self) -> SqlResult<Savepoint> {
        debug_assert!(
            self.pending.is_empty(),
            "buffered rows would be undone, or written, by halves"
        );
        self.db.run("SAVEPOINT part", [])?;
        Ok(Savepoint {
            counters: self.counters.clone(),
            work: self.work,
            marks: self.marks,
            pushes: self.pushes.len(),
            next_seq: self.next_seq,
        })
    }

    /// Undoes what was done since the savepoint.
    pub(crate) fn rollback_to(&mut self, savepoint: Savepoint) -> SqlResult {
        self.db.run("ROLLBACK TO part", [])?;
        self.counters = savepoint.counters;
        self.work = savepoint.work;
        self.marks = savepoint.marks;
        self.pushes.truncate(savepoint.pushes);
        self.next_seq = savepoint.next_seq;
        self.ended.clear();
        self.batches.clear();
        self.dirty_limits.clear();
        self.release()
    }

    /// Keeps what was done since the savepoint.
    pub(crate) fn release(&mut self) -> SqlResult {
        self.db.run("RELEASE part", [])?;
        Ok(())
    }

    /// Writes what a commit of the writer would add, where the application commits.
    pub(crate) fn finish_nested(&mut self) -> SqlResult {
        self.counters.write(self.db, None)?;
        self.signal()
    }

    /// Commits. `tail` is the row that this process counts in; with `fold` all that was counted is added
    /// up.
    pub(crate) fn commit(mut self, tail: Option<&Tail>, fold: bool) -> Result<Committed> {
        let mut tail = self.counters.write(self.db, tail)?;
        if fold && counters::fold_apart(self.db)? {
            tail = None;
        }
        self.signal()?;
        match self.db.run("COMMIT", []) {
            Ok(_) => {
                if let Some(next) = self.next_seq {
                    self.carried.last_seq = Some(next - 1);
                }
                Ok(Committed {
                    work: self.work,
                    marks: self.leaves_marks(),
                    pushes: self.pushes,
                    folded: fold,
                    tail,
                    carried: self.carried,
                })
            }
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

    /// Whether sweeps have something to do that they do not know of.
    fn leaves_marks(&self) -> bool {
        self.marks || self.recheck_limits_at.is_some()
    }

    /// Signals other processes, which read it when they see that something was written.
    fn signal(&self) -> SqlResult {
        let others = !self.pushes.is_empty() || self.leaves_marks();
        if self.work || others {
            self.db.run(
                "UPDATE jk_delta SET work = work + ?1, others = others + ?2 WHERE id = 0",
                [i64::from(self.work), i64::from(others)],
            )?;
        }
        Ok(())
    }
}
