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
    ClaimRequest, Claimed, JobQueue, Promoted, RenewRequest, Renewed, Rescue, RescueRequest,
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
    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed> {
        request.check()?;
        let request = request.clone();
        self.writer()
            .call_with("claim", CallOptions::KEEPS_CLAIMED_ROWS, move |txn| {
                claim::claim(txn, &request)
            })
            .await
    }

    async fn settle(&self, request: &SettleRequest) -> Result<Vec<SettleAnswer>> {
        request.check()?;
        let request = request.clone();
        self.writer()
            .call_with("settle", CallOptions::KEEPS_CLAIMED_ROWS, move |txn| {
                settle_all(txn, &request)
            })
            .await
    }

    async fn settle_and_claim(
        &self,
        settle: &SettleRequest,
        claim: &ClaimRequest,
    ) -> Result<(Vec<SettleAnswer>, Claimed)> {
        settle.check()?;
        claim.check()?;
        let (settle, claim) = (settle.clone(), claim.clone());
        self.writer()
            .call_with("settle_and_claim", CallOptions::KEEPS_CLAIMED_ROWS, move |txn| {
                Ok((settle_all(txn, &settle)?, claim::claim(txn, &claim)?))
            })
            .await
    }

    async fn renew(&self, request: &RenewRequest) -> Result<Renewed> {
        request.check()?;
        let request = request.clone();
        self.writer().call("renew", move |txn| renew(txn, &request)).await
    }

    async fn promote_due(&self, request: StepRequest) -> Result<Promoted> {
        self.writer().call("promote_due", move |txn| promote(txn, request)).await
    }

    async fn rescue_expired(&self, request: &RescueRequest) -> Result<Rescue> {
        let request = request.clone();
        self.writer().call("rescue_expired", move |txn| rescue(txn, &request)).await
    }

    async fn wake_ups(&self, filter: WakeUpFilter) -> Result<Option<Box<dyn WakeUps>>> {
        Ok(Some(wake_up::subscribe(self, &filter)))
    }
}
