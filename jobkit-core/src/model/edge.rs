//! Continuations: edges from a parent, a job or a batch, to a child.

use serde::{Deserialize, Serialize};

use crate::model::ids::{BatchId, JobId};
use crate::model::state::StateName;

/// When a child is released by its parent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum On {
    /// The parent is Succeeded; a Failed one leaves it open, since a requeue may still succeed.
    #[default]
    Success,
    /// The parent is Failed.
    Failed,
    /// The parent's first finish, whatever it is.
    Any,
}

/// How a run finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// Succeeded.
    Succeeded,
    /// Failed.
    Failed,
    /// Deleted.
    Deleted,
}

impl Finish {
    /// The finish that a state is, if it is one.
    pub const fn of(state: StateName) -> Option<Self> {
        match state {
            StateName::Succeeded => Some(Self::Succeeded),
            StateName::Failed => Some(Self::Failed),
            StateName::Deleted => Some(Self::Deleted),
            _ => None,
        }
    }
}

/// What the end of a parent means for an edge (G8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The child waits for one thing less.
    Met,
    /// The child can never be released and becomes Deleted.
    Unmeetable,
    /// Undecided: the parent may still be requeued.
    Open,
}

impl On {
    /// What a parent job that finished so means for this edge.
    pub const fn decide(self, finish: Finish) -> Decision {
        match (self, finish) {
            (Self::Any, _)
            | (Self::Success, Finish::Succeeded)
            | (Self::Failed, Finish::Failed) => Decision::Met,
            (Self::Success, Finish::Failed) => Decision::Open,
            (Self::Success, Finish::Deleted)
            | (Self::Failed, Finish::Succeeded | Finish::Deleted) => Decision::Unmeetable,
        }
    }

    /// What a parent job that is in this state now means for a new edge.
    pub fn decide_now(self, state: StateName) -> Decision {
        Finish::of(state).map_or(Decision::Open, |finish| self.decide(finish))
    }

    /// What the removal of a parent means for an edge that is still open.
    pub const fn decide_removed(self) -> Decision {
        match self {
            // Cannot be open any more: the first finish decided it.
            Self::Any => Decision::Met,
            Self::Success | Self::Failed => Decision::Unmeetable,
        }
    }

    /// What a batch with these counts means for this edge; `completed` once every member has
    /// finished, and it stays so.
    pub const fn decide_batch(self, completed: bool, counts: &BatchCounts) -> Decision {
        if !completed {
            return Decision::Open;
        }
        match self {
            Self::Any => Decision::Met,
            Self::Failed if counts.failed > 0 => Decision::Met,
            Self::Failed => Decision::Unmeetable,
            Self::Success if counts.succeeded == counts.total => Decision::Met,
            Self::Success if counts.deleted > 0 || counts.lost => Decision::Unmeetable,
            Self::Success => Decision::Open,
        }
    }
}

/// The members of a batch, by how they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchCounts {
    /// All members.
    pub total: u64,
    /// Members that are Succeeded.
    pub succeeded: u64,
    /// Members that are Failed.
    pub failed: u64,
    /// Members that are Deleted.
    pub deleted: u64,
    /// Whether a Failed member was removed, which cannot succeed any more.
    #[serde(default)]
    pub lost: bool,
}

impl BatchCounts {
    /// Members that have not finished.
    pub const fn open(&self) -> u64 {
        self.total
            .saturating_sub(self.succeeded)
            .saturating_sub(self.failed)
            .saturating_sub(self.deleted)
    }

    /// Counts a member that finished (`by` 1) or came back (`by` −1).
    pub fn count(&mut self, finish: Finish, by: i64) {
        let count = match finish {
            Finish::Succeeded => &mut self.succeeded,
            Finish::Failed => &mut self.failed,
            Finish::Deleted => &mut self.deleted,
        };
        *count = count.saturating_add_signed(by);
    }
}

/// How a parent ended, for its edges that are still open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// A job that finished so.
    Finished(Finish),
    /// A completed batch, with these counts.
    Batch(BatchCounts),
    /// It is removed, or its success is not waited for any longer.
    Gone,
}

impl Verdict {
    /// What it means for an edge with this condition.
    pub const fn decide(&self, on: On) -> Decision {
        match self {
            Self::Finished(finish) => on.decide(*finish),
            Self::Batch(counts) => on.decide_batch(true, counts),
            Self::Gone => on.decide_removed(),
        }
    }
}

/// What a child waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Parent {
    /// Another job.
    Job(JobId),
    /// A batch, as a whole.
    Batch(BatchId),
}

/// One condition of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Edge {
    /// What it waits for.
    pub parent: Parent,
    /// Which end of it.
    pub on: On,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_parent_decides_as_g8_says() {
        use Decision::{Met, Open, Unmeetable};
        for (on, by_success, by_failure, by_deletion) in [
            (On::Success, Met, Open, Unmeetable),
            (On::Failed, Unmeetable, Met, Unmeetable),
            (On::Any, Met, Met, Met),
        ] {
            assert_eq!(on.decide(Finish::Succeeded), by_success);
            assert_eq!(on.decide(Finish::Failed), by_failure);
            assert_eq!(on.decide(Finish::Deleted), by_deletion);
        }
    }

    #[test]
    fn a_batch_succeeds_only_when_every_member_did() {
        let counts = |succeeded, failed, deleted| BatchCounts {
            total: 3,
            succeeded,
            failed,
            deleted,
            lost: false,
        };
        assert_eq!(On::Success.decide_batch(true, &counts(3, 0, 0)), Decision::Met);
        assert_eq!(On::Success.decide_batch(true, &counts(2, 1, 0)), Decision::Open);
        assert_eq!(On::Success.decide_batch(true, &counts(1, 1, 1)), Decision::Unmeetable);
        let lost = BatchCounts { lost: true, ..counts(2, 1, 0) };
        assert_eq!(On::Success.decide_batch(true, &lost), Decision::Unmeetable);
        assert_eq!(On::Failed.decide_batch(true, &counts(2, 1, 0)), Decision::Met);
        assert_eq!(On::Failed.decide_batch(true, &counts(3, 0, 0)), Decision::Unmeetable);
        assert_eq!(On::Any.decide_batch(true, &counts(0, 0, 3)), Decision::Met);
        assert_eq!(On::Any.decide_batch(false, &counts(2, 0, 0)), Decision::Open);
        assert_eq!(On::Success.decide_batch(true, &BatchCounts::default()), Decision::Met);
    }
}
