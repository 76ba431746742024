//! `JobQueue`.

mod claim;
pub(crate) mod lanes;
mod promote;
mod renew;
mod rescue;
mod settle;

use std::time::Duration;

use async_trait::async_trait;
use jobkit_core::storage::{
    ClaimRequest, Claimed, JobQueue, Promoted, RenewRequest, Renewed, Rescue, RescueRequest,
    SettleAnswer, SettleRequest, StepRequest, WakeUpFilter, WakeUps, check_items,
};
use jobkit_core::{Error, Result, bounds};

use crate::storage::SqliteStorage;
use crate::wake_up;

fn check_claim(request: &ClaimRequest) -> Result<()> {
    check_items("max", request.max)?;
    let bounded = |field, has: usize, max: usize| {
        let reason = format_args!("has {has} entries, where at most {max} are allowed");
        if has > max { Err(Error::invalid(field, reason)) } else { Ok(()) }
    };
    bounded("queues", request.queues.len(), bounds::SERVER_QUEUES)?;
    bounded("kinds", request.kinds.len(), bounds::SERVER_KINDS)?;
    check_lease(request.lease)
}

fn check_lease(lease: Duration) -> Result<()> {
    if bounds::LEASE.contains(&lease) {
        return Ok(());
    }
    Err(Error::invalid("lease", format_args!("is {lease:?}, where 10 ms to a day are allowed")))
}

#[async_trait]
impl JobQueue for SqliteStorage {
    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed> {
        check_claim(request)?;
        let request = request.clone();
        self.writer().call_hot("claim", move |flight| flight.claim(&request)).await
    }

    async fn settle(&self, request: &SettleRequest) -> Result<Vec<SettleAnswer>> {
        check_items("settles", request.settles.len())?;
        let request = request.clone();
        self.writer().call_hot("settle", move |flight| flight.settle_all(&request)).await
    }

    async fn settle_and_claim(
        &self,
        settle: &SettleRequest,
        claim: &ClaimRequest,
    ) -> Result<(Vec<SettleAnswer>, Claimed)> {
        check_items("settles", settle.settles.len())?;
        check_claim(claim)?;
        let (settle, claim) = (settle.clone(), claim.clone());
        self.writer()
            .call_hot("settle_and_claim", move |flight| {
                Ok((flight.settle_all(&settle)?, flight.claim(&claim)?))
            })
            .await
    }

    async fn renew(&self, request: &RenewRequest) -> Result<Renewed> {
        check_items("held", request.held.len())?;
        check_lease(request.lease)?;
        let request = request.clone();
        self.writer().call("renew", move |flight| flight.renew(&request)).await
    }

    async fn promote_due(&self, request: StepRequest) -> Result<Promoted> {
        self.writer().call("promote_due", move |flight| flight.promote(request)).await
    }

    async fn rescue_expired(&self, request: &RescueRequest) -> Result<Rescue> {
        let request = request.clone();
        self.writer().call("rescue_expired", move |flight| flight.rescue(&request)).await
    }

    async fn wake_ups(&self, filter: WakeUpFilter) -> Result<Option<Box<dyn WakeUps>>> {
        Ok(Some(wake_up::subscribe(self, &filter)))
    }
}
