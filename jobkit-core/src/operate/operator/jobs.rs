//! What an operator does to jobs that are named.

use std::fmt;

use super::Operator;
use crate::model::clock::Timestamp;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::ids::{JobId, OperationId};
use crate::model::name::Name;
use crate::model::record::{NewRecord, Payload, check_instant};
use crate::model::refusal::Refusal;
use crate::model::state::Start;
use crate::operate::bulk::action_name;
use crate::storage::{
    Action, Call, Change, ChangeOutcome, ChangeRequest, EditJob, Guard, JobSubmitted, Submitted,
};

/// The most ids of one call; beyond, a bulk operation is meant.
const IDS: usize = crate::model::bounds::STEP_ITEMS;

/// The outcome of one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobOutcome {
    /// The job.
    pub job: JobId,
    /// Its outcome.
    pub outcome: ChangeOutcome,
}

impl JobOutcome {
    /// Whether it was changed, or asked to stop.
    pub fn is_done(&self) -> bool {
        !matches!(self.outcome, ChangeOutcome::Refused(_) | ChangeOutcome::Busy)
    }
}

/// What an edit changes; what is `None` stays.
///
/// `Debug` shows that there are arguments, not what they are.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Edit {
    /// Another queue.
    pub queue: Option<Name>,
    /// Another priority.
    pub priority: Option<u8>,
    /// Another instant to run at.
    pub run_at: Option<Timestamp>,
    /// Other tags.
    pub tags: Option<Vec<String>>,
    /// Other arguments, as a JSON object: they make a new job, linked to the old one.
    pub args: Option<serde_json::Map<String, serde_json::Value>>,
}

impl fmt::Debug for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let args = self.args.as_ref().map(|args| format!("<{} arguments>", args.len()));
        f.debug_struct("Edit")
            .field("queue", &self.queue)
            .field("priority", &self.priority)
            .field("run_at", &self.run_at)
            .field("tags", &self.tags)
            .field("args", &args)
            .finish()
    }
}

/// The outcome of an edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edited {
    /// The job itself was changed.
    Same(JobId),
    /// A new job stands in its place, or beside it if it had finished.
    Copy(JobId),
}

impl Operator {
    /// Runs finished jobs again.
    ///
    /// # Errors
    /// No ids at all are invalid input; otherwise the storage's. What is refused is an outcome.
    pub async fn retry(&self, jobs: &[JobId]) -> Result<Vec<JobOutcome>> {
        self.change(jobs, Action::Requeue { run_at: None }).await
    }

    /// Gives jobs up; running ones are asked to stop.
    ///
    /// # Errors
    /// As [`retry`](Self::retry).
    pub async fn delete(&self, jobs: &[JobId]) -> Result<Vec<JobOutcome>> {
        self.change(jobs, Action::Delete { keep: None }).await
    }

    /// Runs jobs now that wait for an instant or for parents.
    ///
    /// # Errors
    /// As [`retry`](Self::retry).
    pub async fn run_now(&self, jobs: &[JobId]) -> Result<Vec<JobOutcome>> {
        self.change(jobs, Action::RunNow).await
    }

    /// Changes jobs; one outcome each, in order.
    ///
    /// # Errors
    /// As [`retry`](Self::retry).
    pub async fn change(&self, jobs: &[JobId], action: Action) -> Result<Vec<JobOutcome>> {
        self.change_guarded(jobs, action, Guard::None).await
    }

    /// The same, only for jobs that are as they were seen.
    ///
    /// # Errors
    /// As [`retry`](Self::retry).
    pub async fn change_guarded(
        &self,
        jobs: &[JobId],
        action: Action,
        guard: Guard,
    ) -> Result<Vec<JobOutcome>> {
        if jobs.is_empty() {
            return Err(Error::invalid("ids", "are missing: name at least one job"));
        }
        let named: Vec<_> = jobs.iter().take(20).map(ToString::to_string).collect();
        let more = jobs.len().saturating_sub(named.len());
        let target = match more {
            0 => named.join(" "),
            more => format!("{} and {more} more", named.join(" ")),
        };
        let name = action_name(&action);
        let changes = jobs.iter().map(|job| Change {
            operation: OperationId::new(),
            job: *job,
            guard,
            action: action.clone(),
        });
        let changes: Vec<_> = changes.collect();
        let call = async {
            let mut outcomes = Vec::with_capacity(jobs.len());
            let step = self.storage().capabilities().items_of(IDS);
            for changes in changes.chunks(step) {
                let changed = crate::client::repeated(|| async {
                    let actor = Some(self.actor.as_str());
                    let request = ChangeRequest { changes, actor };
                    self.storage().change_state(&Call::default(), request).await
                });
                outcomes.extend(changed.await?);
            }
            let outcomes = jobs.iter().zip(outcomes);
            Ok(outcomes.map(|(job, outcome)| JobOutcome { job: *job, outcome }).collect())
        };
        self.audited(name, target, call, |outcomes: &Vec<JobOutcome>| {
            let done = outcomes.iter().filter(|outcome| outcome.is_done()).count();
            (done as u64, format!("{done} changed, {} refused", outcomes.len() - done))
        })
        .await
    }

    /// Edits a job: queue, priority, run time and tags of a waiting one; other arguments make a new job in
    /// its place, or beside it if it has finished.
    ///
    /// # Errors
    /// A conflict when the job has changed since it was looked at, runs, or may not be replaced; invalid
    /// input names the field; `NotFound` if there is no such job.
    pub async fn edit(&self, job: JobId, edit: Edit) -> Result<Edited> {
        check_instant("run_at", edit.run_at)?;
        let Some(details) = self.storage().job(job).await? else {
            return Err(Error::new(ErrorKind::NotFound, "there is no such job").with("job", job));
        };
        let record = &details.record;
        if let Some(args) = edit.args {
            let text = serde_json::Value::Object(args).to_string();
            let mut copy =
                NewRecord::new(JobId::new(), record.kind.clone(), Payload::from(text.into_bytes()));
            copy.queue = edit.queue.unwrap_or_else(|| record.queue.clone());
            copy.priority = edit.priority.unwrap_or(record.priority);
            copy.tags = edit.tags.unwrap_or_else(|| record.tags.clone());
            let waits_until = edit.run_at.or_else(|| record.run_at());
            copy.start = waits_until.map_or(Start::Now, Start::At);
            // A finished job's is over; the copy begins anew.
            copy.start_by = record.start_by.filter(|_| !record.state().is_finished());
            copy.unique.clone_from(&record.unique);
            copy.limits.clone_from(&record.limits);
            copy.extras.clone_from(&record.extras);
            copy.extras_mut().made_from = Some(job);
            copy.extras_mut().occurrence = None;
            let copy = self.client.sealed(copy)?;
            let id = copy.id;
            let guard = Guard::Version(record.head.version);
            let call = async {
                let submitted = crate::client::repeated(|| async {
                    let actor = Some(self.actor.as_str());
                    let edit = EditJob { original: job, guard, copy: &copy, actor };
                    let outcome = self.storage().edit_job(&Call::default(), edit).await?;
                    crate::client::unless(matches!(outcome, Submitted::Busy), outcome)
                });
                match submitted.await? {
                    Submitted::Created(jobs) => match jobs.first() {
                        Some(JobSubmitted::Existing(holder)) => {
                            let refusal = Refusal::UniqueConflict { holder: *holder };
                            Err(Error::from(refusal).with("job", job))
                        }
                        _ => Ok(Edited::Copy(id)),
                    },
                    Submitted::Refused(refusal) => Err(Error::from(refusal).with("job", job)),
                    Submitted::Busy => {
                        Err(Error::new(ErrorKind::Unavailable, "blocked by another transaction"))
                    }
                }
            };
            let told = |_: &Edited| (1, format!("new job {id}"));
            return self.audited("edit arguments", job.to_string(), call, told).await;
        }
        let mut version = record.head.version;
        let mut actions = Vec::new();
        if edit.queue.is_some() || edit.priority.is_some() {
            actions.push(Action::Move { queue: edit.queue, priority: edit.priority });
        }
        if let Some(tags) = edit.tags {
            actions.push(Action::Retag { tags });
        }
        if let Some(run_at) = edit.run_at {
            actions.push(Action::Reschedule { run_at });
        }
        for action in actions {
            let outcome = self.change_guarded(&[job], action, Guard::Version(version)).await?;
            match outcome.into_iter().next().map(|it| it.outcome) {
                Some(ChangeOutcome::Changed { version: now, .. }) => version = now,
                Some(ChangeOutcome::Refused(refusal)) => {
                    return Err(Error::from(refusal).with("job", job));
                }
                // The answer to it was lost: what it made of the job is looked up.
                Some(ChangeOutcome::AlreadyApplied) => {
                    let found = self.storage().jobs(&[job]).await?.into_iter().next().flatten();
                    version = found.map_or(version, |record| record.head.version);
                }
                _ => {
                    return Err(Error::new(
                        ErrorKind::Unavailable,
                        "blocked by another transaction",
                    ));
                }
            }
        }
        Ok(Edited::Same(job))
    }
}
