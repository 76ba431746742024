//! `JobQueue`.

mod claim;
pub(crate) mod claim_order;
pub(crate) mod lease;
mod promote;
mod renew;
mod rescue;
pub(crate) mod settle;

use async_trait::async_trait;
use jobkit_core::Result;
use jobkit_core::storage::{
    Call, ClaimRequest, Claimed, JobQueue, Promoted, RenewRequest, Renewed, Rescue, RescueRequest,
    SettleAnswer, SettleRequest, StepRequest, WakeUpFilter, WakeUps,
};

use self::promote::promote;
use self::renew::renew;
use self::rescue::rescue;
use self::settle::settle_all;
use crate::storage::SqliteStorage;
use crate::wake_up;
use crate::writer::CallOptions;

#[async_trait]
impl JobQueue for SqliteStorage {
    async fn claim(&self, call: &Call, request: &ClaimRequest) -> Result<Claimed> {
        request.check()?;
        let request = request.clone();
        let call = call.clone();
        self.writer()
            .call_with("claim", CallOptions::KEEPS_CLAIMED_ROWS, move |txn| {
                let now = txn.now(&call);
                claim::claim(txn, &request, now)
            })
            .await
    }

    async fn settle(&self, call: &Call, request: &SettleRequest) -> Result<Vec<SettleAnswer>> {
        request.check()?;
        let request = request.clone();
        let call = call.clone();
        self.writer()
            .call_with("settle", CallOptions::KEEPS_CLAIMED_ROWS, move |txn| {
                let now = txn.now(&call);
                settle_all(txn, &request, now)
            })
            .await
    }

    async fn settle_and_claim(
        &self,
        call: &Call,
        settle: &SettleRequest,
        claim: &ClaimRequest,
    ) -> Result<(Vec<SettleAnswer>, Claimed)> {
        settle.check()?;
        claim.check()?;
        let (settle, claim) = (settle.clone(), claim.clone());
        let call = call.clone();
        self.writer()
            .call_with("settle_and_claim", CallOptions::KEEPS_CLAIMED_ROWS, move |txn| {
                let now = txn.now(&call);
                Ok((settle_all(txn, &settle, now)?, claim::claim(txn, &claim, now)?))
            })
            .await
    }

    async fn renew(&self, call: &Call, request: &RenewRequest) -> Result<Renewed> {
        request.check()?;
        let request = request.clone();
        self.writer().call_at("renew", call, move |txn, now| renew(txn, &request, now)).await
    }

    async fn promote_due(&self, call: &Call, request: StepRequest) -> Result<Promoted> {
        self.writer().call_at("promote_due", call, move |txn, now| promote(txn, request, now)).await
    }

    async fn rescue_expired(&self, call: &Call, request: &RescueRequest) -> Result<Rescue> {
        let request = request.clone();
        self.writer()
            .call_at("rescue_expired", call, move |txn, now| rescue(txn, &request, now))
            .await
    }

    async fn wake_ups(&self, filter: WakeUpFilter) -> Result<Option<Box<dyn WakeUps>>> {
        Ok(Some(wake_up::subscribe(self, &filter)))
    }
}
