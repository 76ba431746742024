//! A storage that stops at the core level: the suite asks nothing more of it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use conformance_tests::TestBackend;
use jobkit_core::record::{JobDetails, JobRecord, Lease};
use jobkit_core::refusal::Refusal;
use jobkit_core::storage::*;
use jobkit_core::{Incarnation, JobId, MemoryStorage, Name, Result, Timestamp};

/// The storage in memory, without what lies beyond the core level.
#[derive(Debug)]
struct CoreOnly {
    inner: MemoryStorage,
    capabilities: Capabilities,
}

#[async_trait]
impl JobStore for CoreOnly {
    async fn submit(&self, call: &Call, request: SubmitRequest<'_>) -> Result<Vec<Submitted>> {
        let mut outcomes = Vec::new();
        for one in request.submissions {
            let plain = one.batch.is_none()
                && one.jobs.iter().all(|job| {
                    job.edges.is_empty()
                        && job.batch.is_none()
                        && job.unique.is_none()
                        && job.limits.is_empty()
                });
            if plain || one.check().is_err() {
                let submissions = std::slice::from_ref(one);
                let request = SubmitRequest { submissions };
                outcomes.extend(self.inner.submit(call, request).await?);
            } else {
                let what = "edges, batches, keys and limits";
                outcomes.push(Submitted::Refused(Refusal::Unsupported { what }));
            }
        }
        Ok(outcomes)
    }

    async fn job(&self, id: JobId) -> Result<Option<JobDetails>> {
        self.inner.job(id).await
    }

    async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Option<JobRecord>>> {
        self.inner.jobs(ids).await
    }

    async fn change_state(
        &self,
        call: &Call,
        request: ChangeRequest<'_>,
    ) -> Result<Vec<ChangeOutcome>> {
        self.inner.change_state(call, request).await
    }

    async fn purge_expired(&self, call: &Call, request: StepRequest) -> Result<Step> {
        self.inner.purge_expired(call, request).await
    }

    async fn sweep(&self, call: &Call, request: StepRequest) -> Result<Step> {
        self.inner.sweep(call, request).await
    }
}

// `settle_and_claim` is the default here: one after the other.
#[async_trait]
impl JobQueue for CoreOnly {
    async fn claim(&self, call: &Call, request: &ClaimRequest) -> Result<Claimed> {
        self.inner.claim(call, request).await
    }

    async fn settle(&self, call: &Call, request: &SettleRequest) -> Result<Vec<SettleAnswer>> {
        self.inner.settle(call, request).await
    }

    async fn renew(&self, call: &Call, request: &RenewRequest) -> Result<Renewed> {
        self.inner.renew(call, request).await
    }

    async fn promote_due(&self, call: &Call, request: StepRequest) -> Result<Promoted> {
        self.inner.promote_due(call, request).await
    }

    async fn rescue_expired(&self, call: &Call, request: &RescueRequest) -> Result<Rescue> {
        self.inner.rescue_expired(call, request).await
    }

    async fn wake_ups(&self, filter: WakeUpFilter) -> Result<Option<Box<dyn WakeUps>>> {
        self.inner.wake_ups(filter).await
    }
}

#[async_trait]
impl LockStore for CoreOnly {
    async fn try_acquire(&self, call: &Call, request: &LockRequest) -> Result<Option<LockLease>> {
        self.inner.try_acquire(call, request).await
    }

    async fn renew_lock(
        &self,
        call: &Call,
        request: &LockRequest,
        generation: u64,
    ) -> Result<bool> {
        self.inner.renew_lock(call, request, generation).await
    }

    async fn release_lock(
        &self,
        call: &Call,
        request: &LockRequest,
        generation: u64,
    ) -> Result<bool> {
        self.inner.release_lock(call, request, generation).await
    }
}

#[async_trait]
impl ServerRegistry for CoreOnly {
    async fn announce(&self, call: &Call, server: &ServerInfo) -> Result<Announced> {
        self.inner.announce(call, server).await
    }

    async fn heartbeat(&self, call: &Call, beat: &Heartbeat) -> Result<HeartbeatAnswer> {
        self.inner.heartbeat(call, beat).await
    }

    async fn remove_server(
        &self,
        call: &Call,
        incarnation: Incarnation,
        still_running: &[Lease],
    ) -> Result<()> {
        self.inner.remove_server(call, incarnation, still_running).await
    }

    async fn remove_dead(&self, call: &Call, silent_for: Duration) -> Result<Vec<Name>> {
        self.inner.remove_dead(call, silent_for).await
    }

    async fn servers(&self) -> Result<Vec<ServerStatus>> {
        self.inner.servers().await
    }
}

impl RecurringStore for CoreOnly {}
impl BatchStore for CoreOnly {}
impl LimitStore for CoreOnly {}
impl JobLog for CoreOnly {}
impl Monitoring for CoreOnly {}
impl Operations for CoreOnly {}
impl BulkStore for CoreOnly {}
impl AuditStore for CoreOnly {}
impl TransferStore for CoreOnly {}

#[async_trait]
impl Storage for CoreOnly {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn backend(&self) -> &'static str {
        "core-only"
    }

    fn namespace(&self) -> &str {
        self.inner.namespace()
    }

    async fn migrate(&self) -> Result<Migrated> {
        self.inner.migrate().await
    }

    async fn check(&self) -> Result<Vec<Finding>> {
        self.inner.check().await
    }

    async fn now(&self) -> Result<Timestamp> {
        self.inner.now().await
    }
}

struct Backend;

impl TestBackend for Backend {
    type Guard = ();

    async fn setup() -> (Arc<dyn Storage>, ()) {
        let mut capabilities = Capabilities::new(Level::Core);
        capabilities.wake_ups = WakeUpReach::Process;
        (Arc::new(CoreOnly { inner: MemoryStorage::new(), capabilities }), ())
    }
}

conformance_tests::conformance_tests!(Backend, groups = [core, push]);
