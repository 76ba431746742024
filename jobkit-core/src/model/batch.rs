//! Batches: many jobs with one end (G9).

use serde::{Deserialize, Serialize};

use crate::model::clock::Timestamp;
use crate::model::edge::{BatchCounts, Finish};
use crate::model::error::Result;
use crate::model::ids::BatchId;
use crate::model::name::check_label;
use crate::model::refusal::Refusal;

/// A batch to be opened by a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBatch {
    /// Its id, from creation.
    pub id: BatchId,
    /// For people: 1 to 200 bytes of any text.
    pub name: String,
    /// The batch it is a member of; batches nest up to
    /// [`BATCH_NESTING`](crate::model::bounds::BATCH_NESTING) deep.
    pub parent: Option<BatchId>,
    /// Whether it is complete with this submission and starts at once, or with the batch around it; otherwise more is attached,
    /// and [`start_batch`](crate::storage::BatchStore::start_batch) starts it.
    pub starts: Starts,
}

/// When the members of a new batch may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Starts {
    /// With the submission that opens it.
    AtOnce,
    /// When it is started; until then members wait.
    WhenStarted,
}

impl NewBatch {
    /// A batch that starts with its submission.
    pub fn new(id: BatchId, name: impl Into<String>) -> Self {
        Self { id, name: name.into(), parent: None, starts: Starts::AtOnce }
    }

    /// Checks the name (G20).
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput).
    pub fn check(&self) -> Result<()> {
        check_label("batch", &self.name)
    }
}

/// Why a batch is not opened inside another one.
pub fn too_deep() -> Refusal {
    let reason = format!("is nested deeper than {}", crate::model::bounds::BATCH_NESTING);
    Refusal::Invalid { field: "batch", reason }
}

/// A batch as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchRecord {
    /// Its id.
    pub id: BatchId,
    /// For people.
    pub name: String,
    /// The batch it is a member of.
    pub parent: Option<BatchId>,
    /// The members, by how they stand.
    pub counts: BatchCounts,
    /// When it was opened.
    pub created_at: Timestamp,
    /// When something was last attached.
    pub attached_at: Timestamp,
    /// When it was started.
    pub started_at: Option<Timestamp>,
    /// When every member had finished, once.
    pub completed_at: Option<Timestamp>,
    /// When every member was Succeeded, at most once.
    pub succeeded_at: Option<Timestamp>,
    /// When it was cancelled.
    pub cancelled_at: Option<Timestamp>,
}

/// Where a batch stands, for filters and people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchState {
    /// Being filled; nothing of it runs.
    Open,
    /// Started, not every member has finished.
    Started,
    /// Every member has finished, not all of them Succeeded.
    Completed,
    /// Every member is Succeeded.
    Succeeded,
    /// Cancelled.
    Cancelled,
}

impl BatchRecord {
    /// Where it stands.
    pub fn state(&self) -> BatchState {
        if self.cancelled_at.is_some() {
            BatchState::Cancelled
        } else if self.succeeded_at.is_some() {
            BatchState::Succeeded
        } else if self.completed_at.is_some() {
            BatchState::Completed
        } else if self.started_at.is_some() {
            BatchState::Started
        } else {
            BatchState::Open
        }
    }

    /// How it counts in the batch around it; `None` as long as it has not completed.
    ///
    /// It may go from Failed, or from Deleted, to Succeeded, when members that were requeued succeed.
    pub fn as_member(&self) -> Option<Finish> {
        self.completed_at?;
        Some(if self.succeeded_at.is_some() {
            Finish::Succeeded
        } else if self.cancelled_at.is_some() {
            Finish::Deleted
        } else if self.counts.failed > 0 || self.counts.open() > 0 {
            Finish::Failed
        } else {
            Finish::Deleted
        })
    }

    /// How many of these batches, which go from the inside out, cannot succeed any more once a Failed
    /// member of the first is removed: up to one that has succeeded before and that one too, since it
    /// counts as Succeeded in those around it for good. Pure.
    pub fn lost_with_a_member<'a>(around: impl IntoIterator<Item = &'a Self>) -> usize {
        let mut lost = 0;
        for batch in around {
            lost += 1;
            if batch.succeeded_at.is_some() {
                break;
            }
        }
        lost
    }

    /// Whether a batch waits for a job in the innermost of these batches, which go from the inside out:
    /// it is the job's own, or it counts that one, which has yet to complete, as a member. Pure.
    pub fn waits_for<'a>(batch: BatchId, around: impl IntoIterator<Item = &'a Self>) -> bool {
        let mut around = around.into_iter();
        let end = around.find(|it| it.id == batch || it.completed_at.is_some());
        end.is_some_and(|it| it.id == batch)
    }

    /// Sets `completed_at` and `succeeded_at` as the counts demand, and tells whether anything
    /// changed, so that edges must be decided. Pure; each is set once.
    pub fn advance(&mut self, now: Timestamp) -> bool {
        let before = (self.completed_at, self.succeeded_at);
        if self.started_at.is_some() && self.counts.open() == 0 {
            self.completed_at.get_or_insert(now);
        }
        // Only after completion: until then a member can still be attached.
        if self.completed_at.is_some() && self.counts.succeeded == self.counts.total {
            self.succeeded_at.get_or_insert(now);
        }
        before != (self.completed_at, self.succeeded_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_completes_once_and_may_succeed_later() {
        let at = Timestamp::from_micros(1);
        let later = Timestamp::from_micros(2);
        let mut batch = BatchRecord {
            id: BatchId::new(),
            name: "b".into(),
            parent: None,
            counts: BatchCounts { total: 2, ..BatchCounts::default() },
            created_at: at,
            attached_at: at,
            started_at: None,
            completed_at: None,
            succeeded_at: None,
            cancelled_at: None,
        };
        batch.counts.count(Finish::Succeeded, 1);
        batch.counts.count(Finish::Failed, 1);
        assert!(!batch.advance(at), "it was never started");
        batch.started_at = Some(at);
        assert!(batch.advance(at));
        assert_eq!((batch.state(), batch.completed_at), (BatchState::Completed, Some(at)));
        batch.counts.count(Finish::Failed, -1);
        assert!(!batch.advance(later), "a requeue changes counts only");
        batch.counts.count(Finish::Succeeded, 1);
        assert!(batch.advance(later));
        assert_eq!((batch.completed_at, batch.succeeded_at), (Some(at), Some(later)));
        assert_eq!(batch.as_member(), Some(Finish::Succeeded));
    }

    #[test]
    fn a_nested_batch_counts_as_its_members_ended() {
        let at = Timestamp::from_micros(1);
        let with = |succeeded, failed, deleted, cancelled_at| {
            let mut batch = BatchRecord {
                id: BatchId::new(),
                name: "b".into(),
                parent: None,
                counts: BatchCounts { total: 2, succeeded, failed, deleted, lost: false },
                created_at: at,
                attached_at: at,
                started_at: Some(at),
                completed_at: None,
                succeeded_at: None,
                cancelled_at,
            };
            batch.advance(at);
            batch.as_member()
        };
        assert_eq!(with(1, 0, 0, None), None, "one is open");
        assert_eq!(with(2, 0, 0, None), Some(Finish::Succeeded));
        assert_eq!(with(1, 1, 0, None), Some(Finish::Failed));
        assert_eq!(with(0, 1, 1, None), Some(Finish::Failed));
        assert_eq!(with(1, 0, 1, None), Some(Finish::Deleted));
        assert_eq!(with(0, 1, 1, Some(at)), Some(Finish::Deleted));
    }
}
