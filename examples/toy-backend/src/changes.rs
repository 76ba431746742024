//! Changes of jobs by the hand of a client or person.

use jobkit_core::record::retention_of_deleted;
use jobkit_core::refusal::Refusal;
use jobkit_core::state::{Reason, StateName};
use jobkit_core::state_machine::{Event, Forbidden};
use jobkit_core::storage::{Action, Change, ChangeOutcome};
use jobkit_core::{Name, Result};

use crate::fault::Fault;
use crate::txn::{Txn, With};

impl Txn<'_> {
    // [guide: change]
    pub(crate) fn change(&mut self, change: &Change, actor: Option<&str>) -> Result<ChangeOutcome> {
        let refused = |refusal| Ok(ChangeOutcome::Refused(refusal));
        let Some(job) = self.job_by_id(change.job)? else {
            return refused(Refusal::JobGone { job: change.job });
        };
        if job.operation == Some(change.operation) {
            return Ok(ChangeOutcome::AlreadyApplied);
        }
        let record = &job.record;
        let (place, state) = (record.sequence, record.state());
        if let Err(refusal) = change.guard.check(&record.head)
            && !self.has(Fault::GuardIsIgnored)
        {
            return refused(refusal);
        }
        if let Err(refusal) = change.action.check_start_by(&record.head, record.start_by, self.now)
        {
            return refused(refusal);
        }
        if let Err(refusal) = change.action.check() {
            return refused(refusal);
        }
        let requeued = matches!(change.action, Action::Requeue { .. }) && state.is_finished();
        if requeued && let Some(holder) = self.other_holder(&job)? {
            return refused(Refusal::UniqueConflict { holder });
        }
        let mut with = With { actor, ..With::default() };
        let event = match &change.action {
            Action::Requeue { run_at } => Event::Requeue { run_at: *run_at },
            Action::Delete { keep } => {
                with.retention = Some(retention_of_deleted(record.extras.as_deref(), *keep));
                let running = state == StateName::Processing;
                Event::Delete(if running { Reason::Cancelled } else { Reason::Deleted })
            }
            Action::Reschedule { run_at } => Event::Reschedule { run_at: *run_at },
            Action::RunNow => Event::RunNow,
            Action::Move { .. } | Action::Retag { .. } => Event::Move,
        };
        let state = match (self.transition(place, &event, with)?, record.batch) {
            (Ok(state), _) => state,
            (Err(Forbidden::BatchCancelled), Some(batch)) => {
                return refused(Refusal::BatchCancelled { batch });
            }
            (Err(Forbidden::AlreadyCancelling), _) => return refused(Refusal::AlreadyCancelling),
            (Err(_), _) => return refused(Refusal::State { state }),
        };
        if let Action::Move { queue, priority } = &change.action {
            self.move_job(place, queue.as_ref(), *priority)?;
        }
        let mut job = self.job(place)?;
        if let Action::Retag { tags } = &change.action {
            job.record.tags.clone_from(tags);
        }
        job.operation = Some(change.operation).filter(|_| !self.has(Fault::OperationIsForgotten));
        self.save(&job)?;
        if state == StateName::Processing {
            self.told.cancelled.push(job.record.id);
            return Ok(ChangeOutcome::Cancelling);
        }
        Ok(ChangeOutcome::Changed { state, version: job.record.head.version })
    }
    // [end]

    /// The state machine has said that it may; its sequence stays.
    fn move_job(&mut self, place: u64, queue: Option<&Name>, priority: Option<u8>) -> Result<()> {
        let mut job = self.job(place)?;
        if let Some(queue) = queue {
            job.record.queue = queue.clone();
        }
        job.record.priority = priority.unwrap_or(job.record.priority);
        self.moved_at_limits(&mut job);
        self.save(&job)
    }
}
