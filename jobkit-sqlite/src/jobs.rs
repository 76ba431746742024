//! `JobStore`.

mod change;
pub(crate) mod edit;
pub(crate) mod finish;
mod purge;
pub(crate) mod read;
pub(crate) mod submit;
pub(crate) mod transition;
pub(crate) mod unique_keys;
pub(crate) mod unreadable;

use async_trait::async_trait;
use jobkit_core::record::{JobDetails, JobRecord};
use jobkit_core::storage::{
    Call, ChangeOutcome, ChangeRequest, JobStore, Step, StepRequest, SubmitRequest, Submitted,
    check_items,
};
use jobkit_core::{JobId, Result};

use self::purge::purge;
use self::submit::prepared::PreparedSubmission;
use crate::storage::SqliteStorage;
use crate::sweep::sweep;
use crate::txn::Txn;
use crate::writer::CallOptions;

#[async_trait]
impl JobStore for SqliteStorage {
    async fn submit(&self, call: &Call, request: SubmitRequest<'_>) -> Result<Vec<Submitted>> {
        check_items("submissions", request.submissions.len())?;
        let submissions: Vec<_> = request.submissions.iter().map(PreparedSubmission::new).collect();
        let call = call.clone();
        // A submission that is not simple may change jobs that run: parents, holders of keys, members of batches.
        let simple = submissions.iter().all(PreparedSubmission::is_simple);
        let options =
            CallOptions { keeps_claimed_rows: simple, spins: simple && submissions.len() == 1 };
        let work = move |txn: &mut Txn<'_, '_>| {
            let now = txn.now(&call);
            submit::submit_each(txn, &submissions, now)
        };
        self.writer().call_with("submit", options, work).await
    }

    async fn job(&self, id: JobId) -> Result<Option<JobDetails>> {
        self.read("job", move |db| read::details(db, id)).await
    }

    async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Option<JobRecord>>> {
        let ids = ids.to_vec();
        self.read("jobs", move |db| ids.iter().map(|id| read::record(db, *id)).collect()).await
    }

    async fn change_state(
        &self,
        call: &Call,
        request: ChangeRequest<'_>,
    ) -> Result<Vec<ChangeOutcome>> {
        check_items("changes", request.changes.len())?;
        let changes = request.changes.to_vec();
        let actor = request.actor.map(str::to_owned);
        self.writer()
            .call_at("change_state", call, move |txn, now| {
                let actor = actor.as_deref();
                changes.iter().map(|change| change::change(txn, change, actor, now)).collect()
            })
            .await
    }

    async fn purge_expired(&self, call: &Call, request: StepRequest) -> Result<Step> {
        let number = self.inner.options.max_finished;
        self.writer()
            .call_at("purge_expired", call, move |txn, now| purge(txn, request, number, now))
            .await
    }

    async fn sweep(&self, call: &Call, request: StepRequest) -> Result<Step> {
        self.writer().call_at("sweep", call, move |txn, now| sweep(txn, request, now)).await
    }
}
