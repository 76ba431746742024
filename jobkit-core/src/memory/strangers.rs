//! What another transaction holds, for tests: databases with many writers lock rows, this storage has one
//! mutex. Whoever meets such a row behaves as the contract says, and nobody waits.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::model::edge::Parent;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::ids::{BatchId, JobId};
use crate::model::sync::lock;
use crate::model::unique::{KeyHash, OnConflict};
use crate::storage::{Fire, Submission};

use super::state::{Mark, Place, Tables};
use super::{MemoryStorage, Shared};

/// How soon a claim, a promotion or a sweep is to come again that left something because it was held.
pub(super) const HELD_AGAIN: Duration = Duration::from_millis(50);

/// What a stranger's transaction may hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Held {
    /// A job, whether it is stored or about to be.
    Job(JobId),
    /// A batch.
    Batch(BatchId),
    /// A unique key.
    Key(String),
    /// A limit, whether it is defined or about to be.
    Limit(String),
    /// A schedule.
    Schedule(String),
}

/// What is held, by how many.
#[derive(Debug, Default)]
pub(super) struct Strangers(BTreeMap<Held, usize>);

/// Something that a stranger holds until this is dropped; made by [`MemoryStorage::hold`].
pub struct Hold {
    shared: Weak<Shared>,
    held: Held,
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold").field("held", &self.held).finish_non_exhaustive()
    }
}

impl MemoryStorage {
    /// Holds something as the transaction of a stranger would, until the answer is dropped. For tests.
    #[doc(hidden)]
    pub fn hold(&self, held: Held) -> Hold {
        *self.lock().strangers.0.entry(held.clone()).or_default() += 1;
        Hold { shared: Arc::downgrade(&self.shared), held }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else { return };
        let held = &mut lock(&shared.tables).strangers.0;
        if let Some(times) = held.get_mut(&self.held) {
            *times -= 1;
            if *times == 0 {
                held.remove(&self.held);
            }
        }
    }
}

impl Strangers {
    pub(super) fn are_there(&self) -> bool {
        !self.0.is_empty()
    }

    fn hold(&self, held: &Held) -> bool {
        self.are_there() && self.0.contains_key(held)
    }

    pub(super) fn hold_batch(&self, id: BatchId) -> bool {
        self.hold(&Held::Batch(id))
    }

    pub(super) fn hold_limit(&self, name: &str) -> bool {
        self.are_there() && self.hold(&Held::Limit(name.to_owned()))
    }

    pub(super) fn hold_schedule(&self, id: &str) -> bool {
        self.are_there() && self.hold(&Held::Schedule(id.to_owned()))
    }

    fn hold_key(&self, hash: &KeyHash) -> bool {
        let of = |held: &Held| matches!(held, Held::Key(key) if KeyHash::of(key) == *hash);
        self.are_there() && self.0.keys().any(of)
    }

    /// Where a call that changes one thing alone meets it held.
    pub(super) fn unless_held(is_held: bool) -> Result<()> {
        match is_held {
            true => {
                Err(Error::new(ErrorKind::Unavailable, "blocked by another transaction's lock"))
            }
            false => Ok(()),
        }
    }
}

impl Tables {
    /// Whether a job itself is held.
    pub(super) fn is_job_held(&self, place: Place) -> bool {
        self.strangers.are_there() && self.strangers.hold(&Held::Job(self.job(place).record.id))
    }

    /// Whether a claim must leave a job: it is held, or one of its limits.
    pub(super) fn is_left_by_claims(&self, place: Place) -> bool {
        let limits = || self.job(place).record.limits.iter();
        self.strangers.are_there()
            && (self.is_job_held(place)
                || limits().any(|limit| self.strangers.hold_limit(&limit.name)))
    }

    /// Whether a change of a job meets something held: the job, its key, a child that its end decides, or
    /// a batch that counts it.
    pub(super) fn is_change_blocked(&self, place: Place) -> bool {
        if !self.strangers.are_there() {
            return false;
        }
        let record = &self.job(place).record;
        let key = record.unique.as_ref().is_some_and(|key| self.strangers.hold_key(&key.hash()));
        let children = self.children.get(&Parent::Job(record.id));
        let mut children = children.into_iter().flat_map(|children| children.all.iter());
        key || self.is_job_held(place)
            || children.any(|(child, _)| self.is_job_held(*child))
            || record.batch.is_some_and(|batch| self.is_batch_blocked(batch))
    }

    /// Whether a batch or one around it is held.
    pub(super) fn is_batch_blocked(&self, batch: BatchId) -> bool {
        let mut next = Some(batch).filter(|_| self.strangers.are_there());
        while let Some(id) = next {
            if self.strangers.hold_batch(id) {
                return true;
            }
            next = self.batches.get(&id).and_then(|batch| batch.record.parent);
        }
        false
    }

    /// Whether starting or cancelling a batch meets something held: it, one around it, or a member.
    pub(super) fn is_batch_change_blocked(&self, id: BatchId) -> bool {
        let members = || self.batches.get(&id).into_iter().flat_map(|batch| batch.members.iter());
        self.strangers.are_there()
            && (self.is_batch_blocked(id) || members().any(|place| self.is_job_held(*place)))
    }

    /// Whether what a mark asks for meets something held.
    pub(super) fn is_mark_blocked(&self, mark: &Mark) -> bool {
        match mark {
            _ if !self.strangers.are_there() => false,
            Mark::Decide(ended) => {
                let children = self.children.get(&ended.parent).into_iter();
                let mut children = children.flat_map(|children| children.all.iter());
                children.any(|(child, _)| self.is_job_held(*child))
            }
            Mark::Release(batch)
            | Mark::Cancel { batch, .. }
            | Mark::StartNested { batch, .. }
            | Mark::CancelNested { batch, .. } => self.is_batch_change_blocked(*batch),
        }
    }

    /// Whether firing an occurrence meets something held: the schedule, its last job, or what the new job
    /// meets.
    pub(super) fn is_fire_blocked(&self, fire: &Fire) -> bool {
        let last_job = || self.schedules.get(&fire.id).and_then(|row| row.record.last_job);
        self.strangers.are_there()
            && (self.strangers.hold_schedule(&fire.id)
                || last_job().is_some_and(|job| self.strangers.hold(&Held::Job(job)))
                || fire.job.as_ref().is_some_and(|job| {
                    self.is_submission_blocked(&Submission::one(job.job.clone()))
                }))
    }

    /// Whether a submission meets something held: one of its ids, a parent, a key or its holder, a batch,
    /// or a limit that it would define.
    pub(super) fn is_submission_blocked(&self, submission: &Submission) -> bool {
        if !self.strangers.are_there() {
            return false;
        }
        let opens = submission.batch.as_ref();
        let around = opens.and_then(|batch| batch.parent);
        let batches = opens.map(|batch| batch.id).into_iter().chain(around);
        batches.into_iter().any(|batch| self.is_batch_blocked(batch))
            || submission.jobs.iter().any(|job| {
                let parent = |parent| match parent {
                    Parent::Job(id) => self.strangers.hold(&Held::Job(id)),
                    Parent::Batch(id) => self.strangers.hold_batch(id),
                };
                let key = job.unique.as_ref().is_some_and(|unique| {
                    let hash = unique.hash();
                    let replaced = unique.on_conflict == OnConflict::Replace;
                    let holder = self.keys.holder_at_any_time(&hash).filter(|_| replaced);
                    self.strangers.hold_key(&hash)
                        || holder.is_some_and(|holder| self.strangers.hold(&Held::Job(holder)))
                });
                let mut limits = job.limits.iter();
                key || self.strangers.hold(&Held::Job(job.id))
                    || job.edges.iter().any(|edge| parent(edge.parent))
                    || job.batch.is_some_and(|batch| self.is_batch_blocked(batch))
                    || limits.any(|limit| {
                        !self.limits.contains_key(&limit.name)
                            && self.strangers.hold_limit(&limit.name)
                    })
            })
    }
}
