//! Every method of the contract, handed on through [`FaultyStorage::call`].

use std::time::Duration;

use async_trait::async_trait;

use crate::model::batch::{BatchRecord, BatchState};
use crate::model::error::Result;
use crate::model::error_group::ErrorGroup;
use crate::model::failure::Fingerprint;
use crate::model::ids::{BatchId, Incarnation, JobId, OperationId};
use crate::model::limit::Limit;
use crate::model::name::Name;
use crate::model::record::{JobDetails, JobRecord, Lease, NewRecord, Payload};
use crate::model::recurring::{Pause, RecurringRecord, RecurringRun};
use crate::model::stats::{Histogram, Scope, Tally};
use crate::storage::*;
use crate::testing::{Answer, FaultyStorage, ObservedCall};

#[async_trait]
impl JobStore for FaultyStorage {
    async fn submit(&self, call: &Call, request: SubmitRequest<'_>) -> Result<Vec<Submitted>> {
        let jobs = request.submissions.iter().map(|one| one.jobs.len()).sum();
        self.given("submit", request.submissions.len());
        self.carry("submitted jobs", jobs).await;
        let mut answers = self
            .seen("submit", self.inner.submit(call, request), |observer, answers| {
                observer.applied(&ObservedCall::Submit(request, answers));
            })
            .await?;
        if self.swaps() && request.submissions.iter().all(|one| one.jobs.len() == 1) {
            answers.reverse();
        }
        Ok(answers)
    }

    async fn job(&self, id: JobId) -> Result<Option<JobDetails>> {
        self.call("job", self.inner.job(id)).await
    }

    async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Option<JobRecord>>> {
        self.carry("jobs", ids.len()).await;
        self.call("jobs", self.inner.jobs(ids)).await
    }

    async fn change_state(
        &self,
        call: &Call,
        request: ChangeRequest<'_>,
    ) -> Result<Vec<ChangeOutcome>> {
        self.carry("change_state", request.changes.len()).await;
        self.seen("change_state", self.inner.change_state(call, request), |observer, answers| {
            observer.applied(&ObservedCall::ChangeState(request, answers));
        })
        .await
    }

    async fn purge_expired(&self, call: &Call, request: StepRequest) -> Result<Step> {
        self.given("purge_expired", request.max);
        self.call("purge_expired", self.inner.purge_expired(call, request)).await
    }

    async fn sweep(&self, call: &Call, request: StepRequest) -> Result<Step> {
        self.given("sweep", request.max);
        let mut step = self.call("sweep", self.inner.sweep(call, request)).await?;
        self.altered(Answer::Sweep(&mut step));
        Ok(step)
    }
}

#[async_trait]
impl JobQueue for FaultyStorage {
    async fn claim(&self, call: &Call, request: &ClaimRequest) -> Result<Claimed> {
        self.given("claim", request.max);
        let mut claimed = self
            .seen("claim", self.inner.claim(call, request), |observer, claimed| {
                observer.applied(&ObservedCall::Claim(request, claimed));
            })
            .await?;
        self.altered(Answer::Claim(&mut claimed));
        self.take(claimed.jobs.len()).await;
        Ok(claimed)
    }

    async fn settle(&self, call: &Call, request: &SettleRequest) -> Result<Vec<SettleAnswer>> {
        self.carry("settle", request.settles.len()).await;
        self.seen("settle", self.inner.settle(call, request), |observer, answers| {
            observer.applied(&ObservedCall::Settle(request, answers));
        })
        .await
    }

    async fn settle_and_claim(
        &self,
        call: &Call,
        settle: &SettleRequest,
        claim: &ClaimRequest,
    ) -> Result<(Vec<SettleAnswer>, Claimed)> {
        self.given("settle_and_claim", settle.settles.len().max(claim.max));
        let both = self.inner.settle_and_claim(call, settle, claim);
        let (answers, mut claimed) = self
            .seen("settle_and_claim", both, |observer, (answers, claimed)| {
                observer.applied(&ObservedCall::SettleAndClaim(settle, answers, claim, claimed));
            })
            .await?;
        self.altered(Answer::Claim(&mut claimed));
        self.take(answers.len().max(claimed.jobs.len())).await;
        Ok((answers, claimed))
    }

    async fn renew(&self, call: &Call, request: &RenewRequest) -> Result<Renewed> {
        self.carry("renew", request.held.len()).await;
        self.seen("renew", self.inner.renew(call, request), |observer, renewed| {
            observer.applied(&ObservedCall::Renew(request, renewed));
        })
        .await
    }

    async fn promote_due(&self, call: &Call, request: StepRequest) -> Result<Promoted> {
        self.given("promote_due", request.max);
        self.call("promote_due", self.inner.promote_due(call, request)).await
    }

    async fn rescue_expired(&self, call: &Call, request: &RescueRequest) -> Result<Rescue> {
        self.given("rescue_expired", request.max.max(request.seen.len()));
        self.seen("rescue_expired", self.inner.rescue_expired(call, request), |observer, rescue| {
            observer.applied(&ObservedCall::Rescue(request, rescue));
        })
        .await
    }

    async fn wake_ups(&self, filter: WakeUpFilter) -> Result<Option<Box<dyn WakeUps>>> {
        let pushes = self.call("wake_ups", self.inner.wake_ups(filter)).await?;
        let offered = self.capabilities().wake_ups != WakeUpReach::None;
        Ok(pushes.filter(|_| offered).map(|pushes| self.pushes(pushes)))
    }
}

#[async_trait]
impl LockStore for FaultyStorage {
    async fn try_acquire(&self, call: &Call, request: &LockRequest) -> Result<Option<LockLease>> {
        self.seen("try_acquire", self.inner.try_acquire(call, request), |observer, lease| {
            observer.applied(&ObservedCall::Acquire(request, lease));
        })
        .await
    }

    async fn renew_lock(
        &self,
        call: &Call,
        request: &LockRequest,
        generation: u64,
    ) -> Result<bool> {
        self.call("renew_lock", self.inner.renew_lock(call, request, generation)).await
    }

    async fn release_lock(
        &self,
        call: &Call,
        request: &LockRequest,
        generation: u64,
    ) -> Result<bool> {
        self.call("release_lock", self.inner.release_lock(call, request, generation)).await
    }
}

#[async_trait]
impl ServerRegistry for FaultyStorage {
    async fn announce(&self, call: &Call, server: &ServerInfo) -> Result<Announced> {
        self.call("announce", self.inner.announce(call, server)).await
    }

    async fn heartbeat(&self, call: &Call, beat: &Heartbeat) -> Result<HeartbeatAnswer> {
        self.call("heartbeat", self.inner.heartbeat(call, beat)).await
    }

    async fn remove_server(
        &self,
        call: &Call,
        incarnation: Incarnation,
        still_running: &[Lease],
    ) -> Result<()> {
        self.call("remove_server", self.inner.remove_server(call, incarnation, still_running)).await
    }

    async fn remove_dead(&self, call: &Call, silent_for: Duration) -> Result<Vec<Name>> {
        self.call("remove_dead", self.inner.remove_dead(call, silent_for)).await
    }

    async fn servers(&self) -> Result<Vec<ServerStatus>> {
        self.call("servers", self.inner.servers()).await
    }
}

#[async_trait]
impl RecurringStore for FaultyStorage {
    async fn save_recurring(
        &self,
        call: &Call,
        saves: &[SaveRecurring],
    ) -> Result<Vec<SaveOutcome>> {
        self.carry("save_recurring", saves.len()).await;
        self.call("save_recurring", self.inner.save_recurring(call, saves)).await
    }

    async fn remove_recurring(&self, call: &Call, id: &str) -> Result<bool> {
        self.call("remove_recurring", self.inner.remove_recurring(call, id)).await
    }

    async fn pause_recurring(&self, call: &Call, id: &str, change: PauseChange) -> Result<bool> {
        self.call("pause_recurring", self.inner.pause_recurring(call, id, change)).await
    }

    async fn due_recurring(&self, call: &Call, max: usize) -> Result<DueRecurring> {
        self.given("due_recurring", max);
        self.call("due_recurring", self.inner.due_recurring(call, max)).await
    }

    async fn fire_recurring(&self, call: &Call, fires: &[Fire]) -> Result<Vec<FireOutcome>> {
        self.carry("fire_recurring", fires.len()).await;
        self.seen("fire_recurring", self.inner.fire_recurring(call, fires), |observer, outcomes| {
            observer.applied(&ObservedCall::Fire(fires, outcomes));
        })
        .await
    }

    async fn trigger_recurring(
        &self,
        call: &Call,
        id: &str,
        job: &NewRecord,
    ) -> Result<TriggerOutcome> {
        self.call("trigger_recurring", self.inner.trigger_recurring(call, id, job)).await
    }

    async fn list_recurring(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<RecurringRecord>> {
        self.call("list_recurring", self.inner.list_recurring(after, limit)).await
    }

    async fn recurring(&self, id: &str) -> Result<Option<RecurringRecord>> {
        self.call("recurring", self.inner.recurring(id)).await
    }

    async fn recurring_runs(&self, id: &str, limit: usize) -> Result<Vec<RecurringRun>> {
        self.call("recurring_runs", self.inner.recurring_runs(id, limit)).await
    }
}

#[async_trait]
impl BatchStore for FaultyStorage {
    async fn start_batch(&self, call: &Call, id: BatchId) -> Result<BatchOutcome> {
        self.call("start_batch", self.inner.start_batch(call, id)).await
    }

    async fn cancel_batch(&self, call: &Call, id: BatchId) -> Result<BatchOutcome> {
        self.call("cancel_batch", self.inner.cancel_batch(call, id)).await
    }

    async fn batch(&self, id: BatchId) -> Result<Option<BatchRecord>> {
        self.call("batch", self.inner.batch(id)).await
    }

    async fn batches(
        &self,
        state: Option<BatchState>,
        before: Option<BatchId>,
        limit: usize,
    ) -> Result<Vec<BatchRecord>> {
        self.call("batches", self.inner.batches(state, before, limit)).await
    }
}

#[async_trait]
impl LimitStore for FaultyStorage {
    async fn define_limit(&self, call: &Call, limit: &Limit) -> Result<()> {
        self.call("define_limit", self.inner.define_limit(call, limit)).await
    }

    async fn limits(
        &self,
        call: &Call,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<LimitUsage>> {
        self.call("limits", self.inner.limits(call, after, limit)).await
    }

    async fn limit(&self, call: &Call, name: &str) -> Result<Option<LimitUsage>> {
        self.call("limit", self.inner.limit(call, name)).await
    }

    async fn limit_holders(&self, name: &str, limit: usize) -> Result<Vec<LimitHolder>> {
        self.call("limit_holders", self.inner.limit_holders(name, limit)).await
    }

    async fn release_stuck(&self, call: &Call, request: ReleaseStuck<'_>) -> Result<bool> {
        self.call("release_stuck", self.inner.release_stuck(call, request)).await
    }
}

#[async_trait]
impl JobLog for FaultyStorage {
    async fn write_log(&self, call: &Call, writes: &[LogWrite]) -> Result<Vec<WriteAnswer>> {
        self.carry("write_log", writes.len()).await;
        self.call("write_log", self.inner.write_log(call, writes)).await
    }

    async fn read_log(
        &self,
        job: JobId,
        fence: Option<u64>,
        after: u64,
        limit: usize,
    ) -> Result<LogPage> {
        self.call("read_log", self.inner.read_log(job, fence, after, limit)).await
    }

    async fn put_memo(
        &self,
        call: &Call,
        lease: Lease,
        key: &str,
        value: &Payload,
    ) -> Result<Option<Payload>> {
        self.call("put_memo", self.inner.put_memo(call, lease, key, value)).await
    }

    async fn memo(&self, job: JobId, key: &str) -> Result<Option<Payload>> {
        self.call("memo", self.inner.memo(job, key)).await
    }

    async fn put_checkpoint(
        &self,
        call: &Call,
        lease: Lease,
        value: &Payload,
    ) -> Result<WriteAnswer> {
        self.call("put_checkpoint", self.inner.put_checkpoint(call, lease, value)).await
    }

    async fn checkpoint(&self, job: JobId) -> Result<Option<Payload>> {
        self.call("checkpoint", self.inner.checkpoint(job)).await
    }
}

#[async_trait]
impl Monitoring for FaultyStorage {
    async fn snapshot(&self, call: &Call) -> Result<Snapshot> {
        self.call("snapshot", self.inner.snapshot(call)).await
    }

    async fn counters(&self, scope: &Scope) -> Result<Tally> {
        self.call("counters", self.inner.counters(scope)).await
    }

    async fn series(&self, query: &SeriesQuery) -> Result<Vec<SeriesPoint>> {
        self.call("series", self.inner.series(query)).await
    }

    async fn histogram(&self, query: &HistogramQuery) -> Result<Histogram> {
        self.call("histogram", self.inner.histogram(query)).await
    }

    async fn list(&self, query: &JobQuery) -> Result<JobPage> {
        self.call("list", self.inner.list(query)).await
    }

    async fn relations(
        &self,
        id: JobId,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<RelationPage> {
        self.call("relations", self.inner.relations(id, after, limit)).await
    }

    async fn lanes(&self, limit: usize) -> Result<Vec<Lane>> {
        self.call("lanes", self.inner.lanes(limit)).await
    }

    async fn count(&self, query: &JobQuery, most: u64) -> Result<Count> {
        self.call("count", self.inner.count(query, most)).await
    }

    async fn jobs_before(&self, id: JobId, most: u64) -> Result<Option<Count>> {
        self.call("jobs_before", self.inner.jobs_before(id, most)).await
    }

    async fn error_groups(&self, query: &ErrorQuery) -> Result<Vec<ErrorGroup>> {
        self.call("error_groups", self.inner.error_groups(query)).await
    }
}

#[async_trait]
impl Operations for FaultyStorage {
    async fn pause(&self, call: &Call, target: &PauseTarget, pause: &Pause) -> Result<()> {
        self.call("pause", self.inner.pause(call, target, pause)).await
    }

    async fn resume(&self, call: &Call, target: &PauseTarget) -> Result<bool> {
        self.call("resume", self.inner.resume(call, target)).await
    }

    async fn pauses(&self, call: &Call) -> Result<Vec<PauseRecord>> {
        self.call("pauses", self.inner.pauses(call)).await
    }

    async fn command_server(
        &self,
        call: &Call,
        server: &Name,
        order: Option<&ServerOrder>,
    ) -> Result<bool> {
        self.call("command_server", self.inner.command_server(call, server, order)).await
    }

    async fn edit_job(&self, call: &Call, edit: EditJob<'_>) -> Result<Submitted> {
        self.call("edit_job", self.inner.edit_job(call, edit)).await
    }

    async fn mute(&self, call: &Call, group: Fingerprint, mute: Option<&Pause>) -> Result<bool> {
        self.call("mute", self.inner.mute(call, group, mute)).await
    }
}

#[async_trait]
impl BulkStore for FaultyStorage {
    async fn save_bulk(&self, call: &Call, bulk: &BulkRecord) -> Result<bool> {
        self.call("save_bulk", self.inner.save_bulk(call, bulk)).await
    }

    async fn bulk(&self, id: OperationId) -> Result<Option<BulkRecord>> {
        self.call("bulk", self.inner.bulk(id)).await
    }

    async fn bulks(&self, limit: usize) -> Result<Vec<BulkRecord>> {
        self.call("bulks", self.inner.bulks(limit)).await
    }
}

#[async_trait]
impl AuditStore for FaultyStorage {
    async fn append_audit(&self, call: &Call, entry: &AuditEntry) -> Result<()> {
        self.call("append_audit", self.inner.append_audit(call, entry)).await
    }

    async fn audit(&self, after: Option<OperationId>, limit: usize) -> Result<Vec<AuditEntry>> {
        self.call("audit", self.inner.audit(after, limit)).await
    }
}

#[async_trait]
impl TransferStore for FaultyStorage {
    async fn export(&self, after: Option<&str>, limit: usize) -> Result<ExportPage> {
        self.given("export", limit);
        self.call("export", self.inner.export(after, limit)).await
    }

    async fn import(&self, call: &Call, items: &[Whole]) -> Result<Vec<Imported>> {
        self.carry("import", items.len()).await;
        self.call("import", self.inner.import(call, items)).await
    }
}
