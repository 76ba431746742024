//! Settling: the end of an attempt, with everything that comes with it.

use jobkit_core::failure::ErrorDetail;
use jobkit_core::record::Lease;
use jobkit_core::state::State;
use jobkit_core::state_machine::{Event, JobHead};
use jobkit_core::storage::{Settle, SettleAnswer, SettleRequest};
use jobkit_core::{Result, bounds};

use crate::fault::Fault;
use crate::keys::beside;
use crate::record::KeptError;
use crate::txn::{Txn, With};

impl Txn<'_> {
    // [guide: settle]
    pub(crate) fn settle_all(&mut self, request: &SettleRequest) -> Result<Vec<SettleAnswer>> {
        // What one call decides is bounded; the rest is left to sweeps.
        let mut left = bounds::CHILDREN_IN_CALL;
        let settle = |settle| {
            let budget = bounds::CHILDREN_IN_SETTLE.min(left);
            self.budget = budget;
            let answer = self.settle(settle)?;
            self.settle_down()?;
            left -= budget - self.budget;
            Ok(answer)
        };
        request.settles.iter().map(settle).collect()
    }

    fn settle(&mut self, settle: &Settle) -> Result<SettleAnswer> {
        let lease = &settle.lease;
        // A job that is gone was taken away before.
        let Some(job) = self.job_by_id(lease.job)? else { return Ok(SettleAnswer::LeaseLost) };
        let (place, head) = (job.record.sequence, &job.record.head);
        if !self.is_holder(head, lease) {
            // Told by what the record keeps of its last settle, until the next claim.
            let last =
                head.fence == lease.fence && head.settled == Some((lease.fence, lease.incarnation));
            return Ok(if last { SettleAnswer::AlreadyApplied } else { SettleAnswer::LeaseLost });
        }
        if let Err(refusal) = settle.check() {
            return Ok(SettleAnswer::Refused(refusal));
        }
        self.append_log(place, lease.fence, &settle.log, settle.log_dropped, &settle.progress)?;
        let (retention, duration) = (Some(settle.retention), settle.duration);
        let with = With { retention, duration, actor: None };
        let Ok(state) = self.transition(place, &Event::Settle(settle.ending), with)? else {
            return Ok(SettleAnswer::LeaseLost);
        };
        let mut job = self.job(place)?;
        job.record.duration = settle.duration.or(job.record.duration);
        self.save(&job)?;
        if let Some(result) = settle.kept_result()
            && !self.has(Fault::SettleDropsTheResult)
        {
            self.tx.put(beside(place, "result"), result.as_bytes());
        }
        if let Some(detail) = &settle.error {
            self.keep_error(place, lease.fence, job.record.head.failures, detail)?;
        }
        Ok(SettleAnswer::Settled(state))
    }
    // [end]

    /// Whether this is the holder, which `is_held_by` says; the rest are faults.
    fn is_holder(&self, head: &JobHead, lease: &Lease) -> bool {
        let State::Processing(hold) = &head.state else { return false };
        let of_fence = head.fence == lease.fence;
        head.is_held_by(lease.fence, lease.incarnation)
            && !(hold.expires_at <= self.now && self.has(Fault::ExpiredLeaseIsRefused))
            || of_fence && self.has(Fault::SettleIgnoresTheIncarnation)
            || self.has(Fault::SettleIgnoresTheFence)
    }

    fn keep_error(
        &mut self,
        place: u64,
        fence: u64,
        failures: u32,
        detail: &ErrorDetail,
    ) -> Result<()> {
        let errors = beside(place, "error");
        let kept = KeptError { fence, failures, at: self.now, detail: detail.clone() };
        self.put(errors.clone().number(fence), &kept)?;
        let keys = self.keys(&errors, usize::MAX);
        if self.has(Fault::ErrorsGrow) {
            return Ok(());
        }
        for key in &keys[..keys.len().saturating_sub(bounds::ATTEMPT_ERRORS)] {
            self.tx.delete(key.clone());
        }
        Ok(())
    }
}
