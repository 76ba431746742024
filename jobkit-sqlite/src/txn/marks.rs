//! Durable marks of work that a step has left to sweeps, and the bounds of a step.

use jobkit_core::edge::{Decision, On, Parent};
use jobkit_core::{BatchId, JobId};
use rusqlite::params;

use crate::codec::parent_columns;
use crate::connection::Db;
use crate::error::SqlResult;
use crate::txn::Txn;

/// The most members or children that one step handles.
pub(crate) const STEP: usize = 500;

/// How many members or children a step may still handle.
#[derive(Debug)]
pub(crate) struct Budget(pub(crate) usize);

/// What the end of a parent means for edges of each condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict([Decision; 3]);

impl Verdict {
    pub(crate) fn of(decide: impl Fn(On) -> Decision) -> Self {
        Self([On::Success, On::Failed, On::Any].map(decide))
    }

    pub(crate) const fn decide(self, on: On) -> Decision {
        let [success, failed, any] = self.0;
        match on {
            On::Success => success,
            On::Failed => failed,
            On::Any => any,
        }
    }

    /// Two bits each.
    fn number(self) -> i64 {
        self.0.iter().rev().fold(0, |number, decision| {
            number << 2
                | match decision {
                    Decision::Open => 0,
                    Decision::Met => 1,
                    Decision::Unmeetable => 2,
                }
        })
    }

    fn at(number: i64) -> Self {
        Self([0, 2, 4].map(|shift| match number >> shift & 3 {
            1 => Decision::Met,
            2 => Decision::Unmeetable,
            _ => Decision::Open,
        }))
    }
}

/// A durable note of work that is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Edges from a parent that ended, with what its end meant at that time.
    Decide { parent: Parent, verdict: Verdict },
    /// Members of a batch that was started.
    Start { batch: BatchId },
    /// Members of a batch that was cancelled.
    Cancel { batch: BatchId },
    /// Members of a batch that was never started.
    Discard { batch: BatchId },
    /// Batches inside a batch that was started; here places are numbers of batches.
    StartNested { batch: BatchId },
    /// Batches inside a batch that was cancelled.
    CancelNested { batch: BatchId },
    /// Batches inside a batch that was never started.
    DiscardNested { batch: BatchId },
}

impl Mark {
    fn row(&self) -> (i64, [u8; 16], i64) {
        match self {
            // 0 or 1.
            Self::Decide { parent, verdict } => {
                let (subject, what) = parent_columns(parent);
                (what, *subject, verdict.number())
            }
            Self::Start { batch } => (2, *batch.as_bytes(), 0),
            Self::Cancel { batch } => (3, *batch.as_bytes(), 0),
            Self::Discard { batch } => (4, *batch.as_bytes(), 0),
            Self::StartNested { batch } => (5, *batch.as_bytes(), 0),
            Self::CancelNested { batch } => (6, *batch.as_bytes(), 0),
            Self::DiscardNested { batch } => (7, *batch.as_bytes(), 0),
        }
    }

    pub(crate) fn of(what: i64, subject: [u8; 16], arg: i64) -> Self {
        let batch = BatchId::from_bytes(subject);
        let verdict = Verdict::at(arg);
        match what {
            0 => Self::Decide { parent: Parent::Job(JobId::from_bytes(subject)), verdict },
            1 => Self::Decide { parent: Parent::Batch(batch), verdict },
            2 => Self::Start { batch },
            3 => Self::Cancel { batch },
            4 => Self::Discard { batch },
            5 => Self::StartNested { batch },
            6 => Self::CancelNested { batch },
            _ => Self::DiscardNested { batch },
        }
    }

    /// The batch whose members or batches it is about.
    pub(crate) const fn batch(&self) -> Option<BatchId> {
        match self {
            Self::Decide { .. } => None,
            Self::Start { batch }
            | Self::Cancel { batch }
            | Self::Discard { batch }
            | Self::StartNested { batch }
            | Self::CancelNested { batch }
            | Self::DiscardNested { batch } => Some(*batch),
        }
    }

    /// The mark for the batches inside.
    pub(crate) const fn of_nested(self) -> Self {
        match self {
            Self::Start { batch } => Self::StartNested { batch },
            Self::Cancel { batch } => Self::CancelNested { batch },
            Self::Discard { batch } => Self::DiscardNested { batch },
            other => other,
        }
    }
}

pub(crate) fn insert(txn: &mut Txn<'_, '_>, mark: &Mark, done: i64, until: i64) -> SqlResult {
    let (what, subject, arg) = mark.row();
    txn.marks = true;
    txn.db.run(
        "INSERT INTO jk_mark (what, subject, arg, done, until) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![what, &subject[..], arg, done, until],
    )?;
    Ok(())
}

/// Whether edges from a parent are left to sweeps.
pub(crate) fn is_marked(db: &Db<'_>, parent: Parent) -> SqlResult<bool> {
    let (subject, what) = parent_columns(&parent);
    let marked = db.one(
        "SELECT 1 FROM jk_mark WHERE subject = ?1 AND what = ?2 LIMIT 1",
        params![&subject[..], what],
        |_| Ok(()),
    )?;
    Ok(marked.is_some())
}
