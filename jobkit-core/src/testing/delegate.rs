//! Every method of the contract, handed on through [`FaultyStorage::call`].

use std::time::Duration;

use async_trait::async_trait;

use crate::model::batch::{BatchRecord, BatchState};
use crate::model::clock::Timestamp;
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
use crate::testing::{Answer, Call, FaultyStorage};

#[async_trait]
impl JobStore for FaultyStorage {
    async fn submit(&self, request: SubmitRequest<'_>) -> Result<Vec<Submitted>> {
        let jobs = request.submissions.iter().map(|one| one.jobs.len()).sum();
        self.given("submit", request.submissions.len());
        self.carry("submitted jobs", jobs).await;
        let mut answers = self
            .seen("submit", self.inner.submit(request), |observer, answers| {
                observer.applied(&Call::Submit(request, answers));
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

    async fn change_state(&self, request: ChangeRequest<'_>) -> Result<Vec<ChangeOutcome>> {
        self.carry("change_state", request.changes.len()).await;
        self.seen("change_state", self.inner.change_state(request), |observer, answers| {
            observer.applied(&Call::ChangeState(request, answers));
        })
        .await
    }

    async fn purge_expired(&self, request: StepRequest) -> Result<Step> {
        self.given("purge_expired", request.max);
        self.call("purge_expired", self.inner.purge_expired(request)).await
    }

    async fn sweep(&self, request: StepRequest) -> Result<Step> {
        self.given("sweep", request.max);
        let mut step = self.call("sweep", self.inner.sweep(request)).await?;
        self.altered(Answer::Sweep(&mut step));
        Ok(step)
    }
}

#[async_trait]
impl JobQueue for FaultyStorage {
    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed> {
        self.given("claim", request.max);
        let mut claimed = self
            .seen("claim", self.inner.claim(request), |observer, claimed| {
                observer.applied(&Call::Claim(request, claimed));
            })
            .await?;
        self.altered(Answer::Claim(&mut claimed));
        self.take(claimed.jobs.len()).await;
        Ok(claimed)
    }

    async fn settle(&self, request: &SettleRequest) -> Result<Vec<SettleAnswer>> {
        self.carry("settle", request.settles.len()).await;
        self.seen("settle", self.inner.settle(request), |observer, answers| {
            observer.applied(&Call::Settle(request, answers));
        })
        .await
    }

    async fn settle_and_claim(
        &self,
        settle: &SettleRequest,
        claim: &ClaimRequest,
    ) -> Result<(Vec<SettleAnswer>, Claimed)> {
        self.given("settle_and_claim", settle.settles.len().max(claim.max));
        let call = self.inner.settle_and_claim(settle, claim);
        let (answers, mut claimed) = self
            .seen("settle_and_claim", call, |observer, (answers, claimed)| {
                observer.applied(&Call::SettleAndClaim(settle, answers, claim, claimed));
            })
            .await?;
        self.altered(Answer::Claim(&mut claimed));
        self.take(answers.len().max(claimed.jobs.len())).await;
        Ok((answers, claimed))
    }

    async fn renew(&self, request: &RenewRequest) -> Result<Renewed> {
        self.carry("renew", request.held.len()).await;
        self.seen("renew", self.inner.renew(request), |observer, renewed| {
            observer.applied(&Call::Renew(request, renewed));
        })
        .await
    }

    async fn promote_due(&self, request: StepRequest) -> Result<Promoted> {
        self.given("promote_due", request.max);
        self.call("promote_due", self.inner.promote_due(request)).await
    }

    async fn rescue_expired(&self, request: &RescueRequest) -> Result<Rescue> {
        self.given("rescue_expired", request.max.max(request.seen.len()));
        self.seen("rescue_expired", self.inner.rescue_expired(request), |observer, rescue| {
            observer.applied(&Call::Rescue(request, rescue));
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
    async fn try_acquire(&self, request: &LockRequest) -> Result<Option<LockLease>> {
        self.seen("try_acquire", self.inner.try_acquire(request), |observer, lease| {
            observer.applied(&Call::Acquire(request, lease));
        })
        .await
    }

    async fn renew_lock(&self, request: &LockRequest, generation: u64) -> Result<bool> {
        self.call("renew_lock", self.inner.renew_lock(request, generation)).await
    }

    async fn release_lock(&self, request: &LockRequest, generation: u64) -> Result<bool> {
        self.call("release_lock", self.inner.release_lock(request, generation)).await
    }
}

#[async_trait]
impl ServerRegistry for FaultyStorage {
    async fn announce(&self, server: &ServerInfo, now: Option<Timestamp>) -> Result<Announced> {
        self.call("announce", self.inner.announce(server, now)).await
    }

    async fn heartbeat(&self, beat: &Heartbeat, now: Option<Timestamp>) -> Result<HeartbeatAnswer> {
        self.call("heartbeat", self.inner.heartbeat(beat, now)).await
    }

    async fn remove_server(&self, incarnation: Incarnation, still_running: &[Lease]) -> Result<()> {
        self.call("remove_server", self.inner.remove_server(incarnation, still_running)).await
    }

    async fn remove_dead(&self, silent_for: Duration, now: Option<Timestamp>) -> Result<Vec<Name>> {
        self.call("remove_dead", self.inner.remove_dead(silent_for, now)).await
    }

    async fn servers(&self) -> Result<Vec<ServerStatus>> {
        self.call("servers", self.inner.servers()).await
    }
}

#[async_trait]
impl RecurringStore for FaultyStorage {
    async fn save_recurring(
        &self,
        saves: &[SaveRecurring],
        now: Option<Timestamp>,
    ) -> Result<Vec<SaveOutcome>> {
        self.carry("save_recurring", saves.len()).await;
        self.call("save_recurring", self.inner.save_recurring(saves, now)).await
    }

    async fn remove_recurring(&self, id: &str, now: Option<Timestamp>) -> Result<bool> {
        self.call("remove_recurring", self.inner.remove_recurring(id, now)).await
    }

    async fn pause_recurring(
        &self,
        id: &str,
        change: PauseChange,
        now: Option<Timestamp>,
    ) -> Result<bool> {
        self.call("pause_recurring", self.inner.pause_recurring(id, change, now)).await
    }

    async fn due_recurring(&self, max: usize, now: Option<Timestamp>) -> Result<DueRecurring> {
        self.given("due_recurring", max);
        self.call("due_recurring", self.inner.due_recurring(max, now)).await
    }

    async fn fire_recurring(
        &self,
        fires: &[Fire],
        now: Option<Timestamp>,
    ) -> Result<Vec<FireOutcome>> {
        self.carry("fire_recurring", fires.len()).await;
        self.seen("fire_recurring", self.inner.fire_recurring(fires, now), |observer, outcomes| {
            observer.applied(&Call::Fire(fires, outcomes));
        })
        .await
    }

    async fn trigger_recurring(
        &self,
        id: &str,
        job: &NewRecord,
        now: Option<Timestamp>,
    ) -> Result<TriggerOutcome> {
        self.call("trigger_recurring", self.inner.trigger_recurring(id, job, now)).await
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
    async fn start_batch(&self, id: BatchId, now: Option<Timestamp>) -> Result<BatchOutcome> {
        self.call("start_batch", self.inner.start_batch(id, now)).await
    }

    async fn cancel_batch(&self, id: BatchId, now: Option<Timestamp>) -> Result<BatchOutcome> {
        self.call("cancel_batch", self.inner.cancel_batch(id, now)).await
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
    async fn define_limit(&self, limit: &Limit) -> Result<()> {
        self.call("define_limit", self.inner.define_limit(limit)).await
    }

    async fn limits(&self, after: Option<&str>, limit: usize) -> Result<Vec<LimitUsage>> {
        self.call("limits", self.inner.limits(after, limit)).await
    }

    async fn limit(&self, name: &str) -> Result<Option<LimitUsage>> {
        self.call("limit", self.inner.limit(name)).await
    }

    async fn limit_holders(&self, name: &str, limit: usize) -> Result<Vec<LimitHolder>> {
        self.call("limit_holders", self.inner.limit_holders(name, limit)).await
    }

    async fn release_stuck(&self, request: ReleaseStuck<'_>) -> Result<bool> {
        self.call("release_stuck", self.inner.release_stuck(request)).await
    }
}

#[async_trait]
impl JobLog for FaultyStorage {
    async fn write_log(&self, writes: &[LogWrite]) -> Result<Vec<WriteAnswer>> {
        self.carry("write_log", writes.len()).await;
        self.call("write_log", self.inner.write_log(writes)).await
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

    async fn put_memo(&self, lease: Lease, key: &str, value: &Payload) -> Result<Option<Payload>> {
        self.call("put_memo", self.inner.put_memo(lease, key, value)).await
    }

    async fn memo(&self, job: JobId, key: &str) -> Result<Option<Payload>> {
        self.call("memo", self.inner.memo(job, key)).await
    }

    async fn put_checkpoint(&self, lease: Lease, value: &Payload) -> Result<WriteAnswer> {
        self.call("put_checkpoint", self.inner.put_checkpoint(lease, value)).await
    }

    async fn checkpoint(&self, job: JobId) -> Result<Option<Payload>> {
        self.call("checkpoint", self.inner.checkpoint(job)).await
    }
}

#[async_trait]
impl Monitoring for FaultyStorage {
    async fn snapshot(&self, now: Option<Timestamp>) -> Result<Snapshot> {
        self.call("snapshot", self.inner.snapshot(now)).await
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
    async fn pause(
        &self,
        target: &PauseTarget,
        pause: &Pause,
        now: Option<Timestamp>,
    ) -> Result<()> {
        self.call("pause", self.inner.pause(target, pause, now)).await
    }

    async fn resume(&self, target: &PauseTarget) -> Result<bool> {
        self.call("resume", self.inner.resume(target)).await
    }

    async fn pauses(&self, now: Option<Timestamp>) -> Result<Vec<PauseRecord>> {
        self.call("pauses", self.inner.pauses(now)).await
    }

    async fn command_server(
        &self,
        server: &Name,
        order: Option<&ServerOrder>,
        now: Option<Timestamp>,
    ) -> Result<bool> {
        self.call("command_server", self.inner.command_server(server, order, now)).await
    }

    async fn edit_job(&self, edit: EditJob<'_>) -> Result<Submitted> {
        self.call("edit_job", self.inner.edit_job(edit)).await
    }

    async fn mute(
        &self,
        group: Fingerprint,
        mute: Option<&Pause>,
        now: Option<Timestamp>,
    ) -> Result<bool> {
        self.call("mute", self.inner.mute(group, mute, now)).await
    }
}

#[async_trait]
impl BulkStore for FaultyStorage {
    async fn save_bulk(&self, bulk: &BulkRecord) -> Result<bool> {
        self.call("save_bulk", self.inner.save_bulk(bulk)).await
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
    async fn append_audit(&self, entry: &AuditEntry, now: Option<Timestamp>) -> Result<()> {
        self.call("append_audit", self.inner.append_audit(entry, now)).await
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

    async fn import(&self, items: &[Whole]) -> Result<Vec<Imported>> {
        self.carry("import", items.len()).await;
        self.call("import", self.inner.import(items)).await
    }
}
