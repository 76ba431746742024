//! `impl JobQueue`.

use async_trait::async_trait;
use jobkit_core::Result;
use jobkit_core::storage::{
    ClaimRequest, Claimed, JobQueue, Promoted, RenewRequest, Renewed, Rescue, RescueRequest,
    SettleAnswer, SettleRequest, StepRequest, WakeUpFilter, WakeUps,
};

use crate::ToyStorage;

#[async_trait]
impl JobQueue for ToyStorage {
    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed> {
        request.check()?;
        self.write(request.now, |txn| txn.claim(request))
    }

    async fn settle(&self, request: &SettleRequest) -> Result<Vec<SettleAnswer>> {
        request.check()?;
        self.write(request.now, |txn| txn.settle_all(request))
    }

    async fn renew(&self, request: &RenewRequest) -> Result<Renewed> {
        request.check()?;
        self.write(request.now, |txn| txn.renew(request))
    }

    async fn promote_due(&self, request: StepRequest) -> Result<Promoted> {
        self.write(request.now, |txn| txn.promote(request.max))
    }

    async fn rescue_expired(&self, request: &RescueRequest) -> Result<Rescue> {
        self.write(request.now, |txn| txn.rescue(request))
    }

    async fn wake_ups(&self, filter: WakeUpFilter) -> Result<Option<Box<dyn WakeUps>>> {
        Ok(Some(self.shared.hub.subscribe(&filter)))
    }
}
