//! Before step 8: no job has a batch.

use jobkit_core::batch::{BatchRecord, NewBatch};
use jobkit_core::edge::Finish;
use jobkit_core::record::NewRecord;
use jobkit_core::state::{Reason, StateName};
use jobkit_core::storage::{BatchStore, Submission};
use jobkit_core::{BatchId, JobId, Result};

use crate::ToyStorage;
use crate::record::Job;
use crate::submit::{Plan, Planned};
use crate::sweep::Spread;
use crate::txn::Txn;

// All of it answers `Unsupported`.
impl BatchStore for ToyStorage {}

#[allow(clippy::unnecessary_wraps, reason = "as batches.rs has it")]
impl Txn<'_> {
    pub(crate) fn stored_batch(&self, _: BatchId) -> Result<Option<BatchRecord>> {
        Ok(None)
    }

    pub(crate) fn is_cancelled(&self, _: BatchId) -> Result<bool> {
        Ok(false)
    }

    pub(crate) fn plan_batch(&self, _: &Submission) -> Planned<(bool, bool)> {
        Ok(Ok((false, false)))
    }

    pub(crate) fn check_stand_in(
        &self,
        _: &NewRecord,
        _: JobId,
        _: Option<&NewRecord>,
        _: Option<&NewBatch>,
    ) -> Planned<()> {
        Ok(Ok(()))
    }

    pub(crate) fn waits_for_batch(
        &self,
        _: &NewRecord,
        _: Option<&NewBatch>,
        _: bool,
    ) -> Planned<bool> {
        Ok(Ok(false))
    }

    pub(crate) fn open_batch(&mut self, _: &Submission, _: &Plan) -> Result<()> {
        Ok(())
    }

    pub(crate) fn attach(&mut self, _: &Job) -> Result<()> {
        Ok(())
    }

    pub(crate) fn tell_batch(
        &mut self,
        _: &Job,
        _: Option<Finish>,
        _: Option<Finish>,
    ) -> Result<()> {
        Ok(())
    }

    pub(crate) fn advance_batch(&mut self, _: BatchId) -> Result<()> {
        Ok(())
    }

    pub(crate) fn cancel(&mut self, _: BatchId, _: Reason, _: usize) -> Result<usize> {
        Ok(0)
    }

    pub(crate) fn spread(
        &mut self,
        _: BatchId,
        _: Spread,
        _: u64,
        _: Option<BatchId>,
        _: usize,
    ) -> Result<usize> {
        Ok(0)
    }

    pub(crate) fn lets_members_go(&mut self, _: BatchId, _: StateName) -> Result<bool> {
        Ok(true)
    }

    pub(crate) fn purge_batches(&mut self, _: usize) -> Result<usize> {
        Ok(0)
    }

    pub(crate) fn member_removed(&mut self, _: BatchId) -> Result<()> {
        Ok(())
    }
}
