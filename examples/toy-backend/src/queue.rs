//! `impl JobQueue`.

use std::time::Duration;

use async_trait::async_trait;
use jobkit_core::storage::{
    ClaimRequest, Claimed, JobQueue, Promoted, RenewRequest, Renewed, Rescue, RescueRequest,
    SettleAnswer, SettleRequest, StepRequest, WakeUpFilter, WakeUps, check_items,
};
use jobkit_core::{Error, Result, bounds};

use crate::ToyStorage;

#[async_trait]
impl JobQueue for ToyStorage {
    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed> {
        check_items("max", request.max)?;
        check_entries("queues", request.queues.len(), bounds::SERVER_QUEUES)?;
        check_entries("kinds", request.kinds.len(), bounds::SERVER_KINDS)?;
        check_lease(request.lease)?;
        self.write(request.now, |call| call.claim(request))
    }

    async fn settle(&self, request: &SettleRequest) -> Result<Vec<SettleAnswer>> {
        check_items("settles", request.settles.len())?;
        self.write(request.now, |call| call.settle_all(request))
    }

    async fn renew(&self, request: &RenewRequest) -> Result<Renewed> {
        check_items("held", request.held.len())?;
        check_lease(request.lease)?;
        self.write(request.now, |call| call.renew(request))
    }

    async fn promote_due(&self, request: StepRequest) -> Result<Promoted> {
        self.write(request.now, |call| call.promote(request.max))
    }

    async fn rescue_expired(&self, request: &RescueRequest) -> Result<Rescue> {
        self.write(request.now, |call| call.rescue(request))
    }

    async fn wake_ups(&self, filter: WakeUpFilter) -> Result<Option<Box<dyn WakeUps>>> {
        Ok(Some(self.shared.hub.subscribe(&filter)))
    }
}

fn check_entries(field: &'static str, has: usize, max: usize) -> Result<()> {
    if has <= max {
        return Ok(());
    }
    Err(Error::invalid(field, format_args!("has {has} entries, where at most {max} are allowed")))
}

fn check_lease(lease: Duration) -> Result<()> {
    if bounds::LEASE.contains(&lease) {
        return Ok(());
    }
    Err(Error::invalid("lease", format_args!("is {lease:?}, where 10 ms to a day are allowed")))
}
