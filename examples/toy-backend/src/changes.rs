//! Changes of jobs by the hand of a client or person.

use jobkit_core::bounds;
use jobkit_core::record::{check_instant, check_tags, retention_of};
use jobkit_core::refusal::Refusal;
use jobkit_core::state::{Keep, Reason, Retention, StateName};
use jobkit_core::state_machine::{Event, Forbidden};
use jobkit_core::storage::{Action, Change, ChangeOutcome};
use jobkit_core::{Name, Result};

use crate::call::{Call, With};
use crate::fault::Fault;
use crate::record::Job;

impl Call<'_> {
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
        if let Err(refusal) = self.check_change(&job, &change.action)? {
            return refused(refusal);
        }
        let mut with = With { actor, ..With::default() };
        let event = match &change.action {
            Action::Requeue { run_at } => Event::Requeue { run_at: *run_at },
            Action::Delete { keep } => {
                with.retention = Some(deleted_retention(&job, *keep));
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

    /// What is wrong with an action before the state machine is asked.
    fn check_change(&self, job: &Job, action: &Action) -> Result<std::result::Result<(), Refusal>> {
        let checked = match action {
            Action::Requeue { run_at } => check_instant("run_at", *run_at),
            Action::Reschedule { run_at } => check_instant("run_at", Some(*run_at)),
            Action::Retag { tags } => check_tags(tags),
            _ => Ok(()),
        };
        if let Err(error) = checked {
            return Ok(Err(error.into()));
        }
        if let Action::Move { priority: Some(priority), .. } = action
            && *priority > bounds::MAX_PRIORITY
        {
            let reason = format!("is {priority}, where 0 to {} are allowed", bounds::MAX_PRIORITY);
            return Ok(Err(Refusal::Invalid { field: "priority", reason }));
        }
        let requeued = matches!(action, Action::Requeue { .. }) && job.record.state().is_finished();
        if requeued && let Some(holder) = self.other_holder(job)? {
            return Ok(Err(Refusal::UniqueConflict { holder }));
        }
        Ok(Ok(()))
    }

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

/// The job's own retention, else what the caller says of deleted jobs, else the default.
fn deleted_retention(job: &Job, keep: Option<Keep>) -> Retention {
    let extras = job.record.extras.as_deref();
    let own = extras.is_some_and(|extras| extras.overrides.retention.is_some());
    let retention = retention_of(extras);
    match keep {
        Some(deleted) if !own => Retention { deleted, ..retention },
        _ => retention,
    }
}
