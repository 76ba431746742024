//! `impl JobQueue`.

use async_trait::async_trait;
use jobkit_core::Result;
use jobkit_core::storage::{
    Call, ClaimRequest, Claimed, JobQueue, Promoted, RenewRequest, Renewed, Rescue, RescueRequest,
    SettleAnswer, SettleRequest, StepRequest, WakeUpFilter, WakeUps,
};

use crate::ToyStorage;

#[async_trait]
impl JobQueue for ToyStorage {
    async fn claim(&self, call: &Call, request: &ClaimRequest) -> Result<Claimed> {
        request.check()?;
        self.write(call, |txn| txn.claim(request))
    }

    async fn settle(&self, call: &Call, request: &SettleRequest) -> Result<Vec<SettleAnswer>> {
        request.check()?;
        self.write(call, |txn| txn.settle_all(request))
    }

    async fn renew(&self, call: &Call, request: &RenewRequest) -> Result<Renewed> {
        request.check()?;
        self.write(call, |txn| txn.renew(request))
    }

    async fn promote_due(&self, call: &Call, request: StepRequest) -> Result<Promoted> {
        self.write(call, |txn| txn.promote(request.max))
    }

    async fn rescue_expired(&self, call: &Call, request: &RescueRequest) -> Result<Rescue> {
        self.write(call, |txn| txn.rescue(request))
    }

    async fn wake_ups(&self, filter: WakeUpFilter) -> Result<Option<Box<dyn WakeUps>>> {
        Ok(Some(self.shared.hub.subscribe(&filter)))
    }
}
