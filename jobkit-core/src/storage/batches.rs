//! `BatchStore`: batches as wholes. Opening and attaching are part of
//! [`submit`](crate::storage::JobStore::submit).

use async_trait::async_trait;

use crate::model::batch::{BatchRecord, BatchState};
use crate::model::error::{Error, Result};
use crate::model::ids::BatchId;
use crate::model::refusal::Refusal;
use crate::storage::call::Call;

/// Batches (G9).
///
/// **Contract**
/// - **BAT-1** `start` releases every member: those beyond a bounded step by sweeps; repeated it answers
///   [`BatchOutcome::AlreadyApplied`].
/// - **BAT-2** An empty batch completes and succeeds when it is started.
/// - **BAT-3** The counts equal the members' states at every commit, as `batch` reads them.
/// - **BAT-4** A batch completes once, within 2 s of its last member, and decides its edges then; it
///   succeeds at most once.
/// - **BAT-5** `cancel` deletes what waits and requests the cancellation of what runs, in bounded steps. What
///   a claim takes that was under way then counts as running. Afterwards attach, retry and requeue of members
///   are refused, and a start that sweeps have yet to complete releases nobody any more.
/// - **BAT-6** A failed member that is requeued and succeeds makes the batch succeed, and its on-success
///   children are released.
/// - **BAT-7** A nested batch is one member of the batch around it: open until it has completed, then
///   Succeeded, Failed or Deleted as [`as_member`](BatchRecord::as_member) says, counted in the same
///   step, at every depth.
/// - **BAT-8** A nested batch runs when both it and the batch around it were started; starting or
///   cancelling reaches what is nested inside, beyond a bounded step by sweeps: also members that were
///   requeued into a nested batch that has completed, which stays what it is.
/// - **BAT-9** What one step decides it decides in the order in which parents end, and a batch ends with its
///   last member, before what that member decides. Of one parent it decides the edges on any end first,
///   then those on success, then those on failure, each in the order of the children. So the versions of
///   children, and what is left to sweeps, are the same everywhere (G7, G8).
/// - **BAT-10** Starting or cancelling a batch that a stranger's transaction holds, or one of its members,
///   answers [`BatchOutcome::Busy`] after a short wait at most and changes nothing.
#[async_trait]
#[allow(unused_variables, reason = "default bodies")]
pub trait BatchStore {
    /// Marks a batch as filled: its members may run.
    async fn start_batch(&self, call: &Call, id: BatchId) -> Result<BatchOutcome> {
        Err(Error::unsupported("batches"))
    }

    /// Cancels a batch.
    async fn cancel_batch(&self, call: &Call, id: BatchId) -> Result<BatchOutcome> {
        Err(Error::unsupported("batches"))
    }

    /// One batch.
    async fn batch(&self, id: BatchId) -> Result<Option<BatchRecord>> {
        Err(Error::unsupported("batches"))
    }

    /// Batches, newest first, older than the one named, at most `limit`.
    async fn batches(
        &self,
        state: Option<BatchState>,
        before: Option<BatchId>,
        limit: usize,
    ) -> Result<Vec<BatchRecord>> {
        Err(Error::unsupported("batches"))
    }
}

/// The outcome of a change of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchOutcome {
    /// Applied.
    Changed,
    /// It was so already.
    AlreadyApplied,
    /// Nothing changed.
    Refused(Refusal),
    /// Blocked by a stranger's lock; nothing changed.
    Busy,
}
