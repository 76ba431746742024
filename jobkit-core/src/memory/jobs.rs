//! `impl JobStore`.

use async_trait::async_trait;

use crate::memory::MemoryStorage;
use crate::model::bounds;
use crate::model::clock::Timestamp;
use crate::model::error::Result;
use crate::model::ids::JobId;
use crate::model::record::{JobDetails, JobRecord, retention_of_deleted};
use crate::model::refusal::Refusal;
use crate::model::state::{Reason, StateName};
use crate::model::state_machine::{Event, Forbidden};
use crate::storage::{
    Action, Call, Change, ChangeOutcome, ChangeRequest, JobStore, Step, StepRequest, SubmitRequest,
    Submitted, check_items,
};

use super::state::{Job, Place, Tables, Work};
use super::transitions::With;

#[async_trait]
impl JobStore for MemoryStorage {
    async fn submit(&self, call: &Call, request: SubmitRequest<'_>) -> Result<Vec<Submitted>> {
        check_items("submissions", request.submissions.len())?;
        let submit = |tables: &mut Tables, work: &mut Work| {
            let submissions = request.submissions.iter();
            submissions.map(|one| tables.submit_one(work, one, Reason::Submitted)).collect()
        };
        Ok(self.write(call, submit))
    }

    async fn job(&self, id: JobId) -> Result<Option<JobDetails>> {
        Ok(self.read(|tables| tables.find(id).map(|place| details(tables.job(place)))))
    }

    async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Option<JobRecord>>> {
        let record = |tables: &Tables, id: JobId| {
            tables.find(id).map(|place| tables.job(place).record.clone())
        };
        Ok(self.read(|tables| ids.iter().map(|id| record(tables, *id)).collect()))
    }

    async fn change_state(
        &self,
        call: &Call,
        request: ChangeRequest<'_>,
    ) -> Result<Vec<ChangeOutcome>> {
        check_items("changes", request.changes.len())?;
        let change = |tables: &mut Tables, work: &mut Work| {
            let changes = request.changes.iter();
            changes
                .map(|change| {
                    work.budget = bounds::CHILDREN_IN_SETTLE;
                    let outcome = tables.change(work, change, request.actor);
                    tables.settle_down(work);
                    outcome.unwrap_or_else(ChangeOutcome::Refused)
                })
                .collect()
        };
        Ok(self.write(call, change))
    }

    async fn purge_expired(&self, call: &Call, request: StepRequest) -> Result<Step> {
        Ok(self.write(call, |tables, work| tables.purge(work, request.max)))
    }

    async fn sweep(&self, call: &Call, request: StepRequest) -> Result<Step> {
        Ok(self.write(call, |tables, work| tables.sweep(work, request.max)))
    }
}

pub(super) fn details(job: &Job) -> JobDetails {
    JobDetails {
        record: job.record.clone(),
        args: job.args.clone(),
        result: job.result.clone(),
        history: job.history.clone(),
        errors: job.errors.iter().cloned().collect(),
        parents: job.edges.clone(),
        progress: job.progress.clone(),
    }
}

impl Tables {
    fn change(
        &mut self,
        work: &mut Work,
        change: &Change,
        actor: Option<&str>,
    ) -> std::result::Result<ChangeOutcome, Refusal> {
        let gone = Refusal::JobGone { job: change.job };
        let place = self.find(change.job).ok_or(gone)?;
        let job = self.job(place);
        if self.is_change_blocked(place) {
            return Ok(ChangeOutcome::Busy);
        }
        if job.operation == Some(change.operation) {
            return Ok(ChangeOutcome::AlreadyApplied);
        }
        let record = &job.record;
        change.guard.check(&record.head)?;
        change.action.check_start_by(&record.head, record.start_by, work.now)?;
        change.action.check()?;
        let state = record.state();
        let (id, batch) = (record.id, record.batch);
        let mut with = With { actor, ..With::default() };
        let changed = match &change.action {
            Action::Requeue { run_at } => {
                if state.is_finished() {
                    self.check_key(place, work.now)?;
                }
                self.transition(work, place, &Event::Requeue { run_at: *run_at }, with)
            }
            Action::Delete { keep } => {
                with.retention = Some(retention_of_deleted(record.extras.as_deref(), *keep));
                let running = state == StateName::Processing;
                let reason = if running { Reason::Cancelled } else { Reason::Deleted };
                self.transition(work, place, &Event::Delete(reason), with)
            }
            Action::Reschedule { run_at } => {
                self.transition(work, place, &Event::Reschedule { run_at: *run_at }, with)
            }
            Action::RunNow => self.transition(work, place, &Event::RunNow, with),
            Action::Move { queue, priority } => {
                self.move_job(work, place, queue.as_ref(), *priority)
            }
            Action::Retag { tags } => {
                let moved = self.transition(work, place, &Event::Move, with);
                if moved.is_ok() {
                    self.job_mut(place).record.tags.clone_from(tags);
                }
                moved
            }
        };
        let state = changed.map_err(|forbidden| match (forbidden, batch) {
            (Forbidden::State(state), _) => Refusal::State { state },
            (Forbidden::BatchCancelled, Some(batch)) => Refusal::BatchCancelled { batch },
            (Forbidden::BatchCancelled, None) => Refusal::State { state },
            (Forbidden::AlreadyCancelling, _) => Refusal::AlreadyCancelling,
        })?;
        let job = self.job_mut(place);
        job.operation = Some(change.operation);
        if state == StateName::Processing {
            work.cancelled.push(id);
            return Ok(ChangeOutcome::Cancelling);
        }
        Ok(ChangeOutcome::Changed { state, version: job.record.head.version })
    }

    /// Whether the job may take its unique key again.
    fn check_key(&self, place: Place, now: Timestamp) -> std::result::Result<(), Refusal> {
        let record = &self.job(place).record;
        let unique = record.unique.as_ref();
        match unique.and_then(|unique| self.keys.holder(&unique.hash(), now)) {
            Some(holder) if holder != record.id => Err(Refusal::UniqueConflict { holder }),
            _ => Ok(()),
        }
    }
}
