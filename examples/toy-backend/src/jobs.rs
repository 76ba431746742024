//! `impl JobStore`.

use async_trait::async_trait;
use jobkit_core::record::{AttemptError, JobDetails, JobRecord, Payload};
use jobkit_core::state::Reason;
use jobkit_core::storage::{
    Call, ChangeOutcome, ChangeRequest, JobStore, Step, StepRequest, SubmitRequest, Submitted,
    check_items,
};
use jobkit_core::{JobId, Result, bounds};

use crate::ToyStorage;
use crate::keys::beside;
use crate::record::{Job, KeptError};
use crate::txn::Txn;

#[async_trait]
impl JobStore for ToyStorage {
    async fn submit(&self, call: &Call, request: SubmitRequest<'_>) -> Result<Vec<Submitted>> {
        check_items("submissions", request.submissions.len())?;
        self.write(call, |txn| {
            let submissions = request.submissions.iter();
            submissions.map(|one| txn.submit_one(one, Reason::Submitted)).collect()
        })
    }

    async fn job(&self, id: JobId) -> Result<Option<JobDetails>> {
        self.read(|txn| {
            let job = txn.job_by_id(id)?;
            job.map(|job| txn.details(job)).transpose()
        })
    }

    async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Option<JobRecord>>> {
        self.read(|txn| {
            let record = |id: &JobId| Ok(txn.job_by_id(*id)?.map(|job| job.record));
            ids.iter().map(record).collect()
        })
    }

    async fn change_state(
        &self,
        call: &Call,
        request: ChangeRequest<'_>,
    ) -> Result<Vec<ChangeOutcome>> {
        check_items("changes", request.changes.len())?;
        self.write(call, |txn| {
            let change = |change| {
                txn.budget = bounds::CHILDREN_IN_SETTLE;
                let outcome = txn.change(change, request.actor)?;
                txn.settle_down()?;
                Ok(outcome)
            };
            request.changes.iter().map(change).collect()
        })
    }

    async fn purge_expired(&self, call: &Call, request: StepRequest) -> Result<Step> {
        self.write(call, |txn| txn.purge(request.max))
    }

    async fn sweep(&self, call: &Call, request: StepRequest) -> Result<Step> {
        self.write(call, |txn| txn.sweep(request.max))
    }
}

impl Txn<'_> {
    /// A job with what is kept beside it.
    fn details(&self, job: Job) -> Result<JobDetails> {
        let place = job.record.sequence;
        let bytes = |what| self.tx.get(&beside(place, what)).map(Payload::from);
        let errors = self.keys(&beside(place, "error"), usize::MAX);
        let errors = errors.iter().filter_map(|key| self.get(key).transpose());
        let errors: Result<Vec<KeptError>> = errors.collect();
        Ok(JobDetails {
            args: bytes("args").unwrap_or_default(),
            result: bytes("result"),
            history: job.history,
            errors: errors?.into_iter().map(AttemptError::from).collect(),
            parents: job.parents.iter().map(Into::into).collect(),
            progress: job.progress,
            record: job.record,
        })
    }
}
