//! Why one item of a set was refused. Nothing changed for it, and its neighbours are not disturbed.

use std::fmt;

use crate::model::clock::Timestamp;
use crate::model::edge::Parent;
use crate::model::error::{Error, ErrorKind};
use crate::model::ids::{BatchId, JobId};
use crate::model::state::StateName;

/// A typed refusal of one item.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// A field is outside what is documented.
    Invalid {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The id's time is over an hour old, so it may have been used and forgotten (G2).
    IdTooOld {
        /// The job.
        job: JobId,
        /// The time in the id.
        created_at: Timestamp,
        /// The storage's clock.
        storage_now: Timestamp,
    },
    /// The id's time lies over ten minutes ahead of the storage's clock (G2).
    IdTooFarAhead {
        /// The job.
        job: JobId,
        /// The time in the id.
        created_at: Timestamp,
        /// The storage's clock.
        storage_now: Timestamp,
    },
    /// The id is stored already, with other content (G2).
    IdConflict {
        /// The job.
        job: JobId,
    },
    /// The unique key is held by another job (G11).
    UniqueConflict {
        /// The job that holds it.
        holder: JobId,
    },
    /// The unique key of a new member is held by a job that its batch would not wait for (G9, G11).
    KeyHeldOutside {
        /// The new member.
        job: JobId,
        /// Its batch.
        batch: BatchId,
        /// The job that holds the key.
        holder: JobId,
    },
    /// The parent does not exist, or not any more (G8).
    ParentGone {
        /// The parent.
        parent: Parent,
    },
    /// The batch does not exist, or not any more.
    BatchGone {
        /// The batch.
        batch: BatchId,
    },
    /// The batch has completed, so that nothing can be attached (G9).
    BatchFinished {
        /// The batch.
        batch: BatchId,
    },
    /// The batch was cancelled (G9).
    BatchCancelled {
        /// The batch.
        batch: BatchId,
    },
    /// The job does not exist, or not any more.
    JobGone {
        /// The job.
        job: JobId,
    },
    /// The job is in a state that does not allow this.
    State {
        /// The state.
        state: StateName,
    },
    /// The job has changed since it was looked at.
    Changed {
        /// Its state now.
        state: StateName,
        /// Its version now.
        version: u64,
    },
    /// The job is already being cancelled.
    AlreadyCancelling,
    /// The storage does not offer this.
    Unsupported {
        /// What.
        what: &'static str,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid { field, reason } => write!(f, "{field}: {reason}"),
            Self::IdTooOld { job, created_at, storage_now } => write!(
                f,
                "job id {job} is too old: it says {created_at}, the storage's clock {storage_now}, and ids are remembered for an hour"
            ),
            Self::IdTooFarAhead { job, created_at, storage_now } => write!(
                f,
                "job id {job} lies ahead: it says {created_at}, the storage's clock {storage_now}; correct the clocks"
            ),
            Self::IdConflict { job } => {
                write!(f, "job id {job} is stored already with other content")
            }
            Self::UniqueConflict { holder } => write!(f, "the unique key is held by job {holder}"),
            Self::KeyHeldOutside { job, batch, holder } => write!(
                f,
                "job {job} cannot be a member of batch {batch}: its unique key is held by job {holder}, \
                 for which the batch would not wait; enqueue the batch once that job has succeeded, or \
                 let what follows the batch wait for it too, and leave the member out"
            ),
            Self::ParentGone { parent: Parent::Job(job) } => {
                write!(f, "parent job {job} does not exist, or was removed")
            }
            Self::ParentGone { parent: Parent::Batch(batch) } => {
                write!(f, "parent batch {batch} does not exist, or was removed")
            }
            Self::BatchGone { batch } => write!(f, "batch {batch} does not exist, or was removed"),
            Self::BatchFinished { batch } => {
                write!(f, "batch {batch} has completed, nothing can be attached")
            }
            Self::BatchCancelled { batch } => write!(f, "batch {batch} was cancelled"),
            Self::JobGone { job } => write!(f, "job {job} does not exist, or was removed"),
            Self::State { state } => write!(f, "the job is {state}, which does not allow this"),
            Self::Changed { state, version } => {
                write!(f, "the job has changed meanwhile: it is {state}, version {version}")
            }
            Self::AlreadyCancelling => f.write_str("the job is already being cancelled"),
            Self::Unsupported { what } => write!(f, "this storage does not support {what}"),
        }
    }
}

impl Refusal {
    /// The kind a caller sees when the refusal becomes an error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid { .. } | Self::IdTooOld { .. } | Self::IdTooFarAhead { .. } => {
                ErrorKind::InvalidInput
            }
            Self::ParentGone { .. } | Self::BatchGone { .. } | Self::JobGone { .. } => {
                ErrorKind::NotFound
            }
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            _ => ErrorKind::Conflict,
        }
    }
}

impl std::error::Error for Refusal {}

/// Invalid input, as found by a `check` method, is a refusal of the item it was found in.
impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let field = error.field().unwrap_or("job");
        let message = error.message();
        let reason = message.strip_prefix(field).and_then(|rest| rest.strip_prefix(": "));
        Self::Invalid { field, reason: reason.unwrap_or(message).to_owned() }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        if let Refusal::Invalid { field, reason } = &refusal {
            return Self::invalid(field, reason);
        }
        Self::new(refusal.kind(), refusal.to_string()).caused_by(refusal)
    }
}
