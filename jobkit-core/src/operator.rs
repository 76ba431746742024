//! [`Operator`]: what a person does, with their name to it.
//!
//! Everything an operator does is written to the audit before it is done, and how it went after it: a
//! crash between leaves an entry without an outcome, never a deed without an entry.

use std::time::Duration;

use crate::bulk::{self, NewBulk, action_name};
use crate::client::Client;
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::failure::Fingerprint;
use crate::ids::{BatchId, JobId, OperationId};
use crate::limit::Limit;
use crate::name::Name;
use crate::record::{NewRecord, Payload, check_instant};
use crate::recurring::Pause;
use crate::refusal::Refusal;
use crate::search::JobFilter;
use crate::state::{Start, StateName};
use crate::storage::{
    Action, AuditEntry, BulkRecord, Change, ChangeOutcome, ChangeRequest, EditJob, Guard,
    JobSubmitted, PauseTarget, ReleaseStuck, ServerCommand, ServerOrder, Storage, Submitted,
};

/// The most ids of one call; beyond, a bulk operation is meant.
const IDS: usize = crate::bounds::STEP_ITEMS;

/// A person at work: see [`Client::operator`].
///
/// # Example: pause, look, go on
/// ```
/// # use jobkit_core::{Client, Error, MemoryStorage};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Error> {
/// # let client = Client::new(MemoryStorage::new()).erase();
/// let ann = client.operator("ann");
/// ann.because("the provider is down").pause_queue("mail", None).await?;
/// ann.resume_queue("mail").await?;
/// let entries = client.storage().audit(None, 10).await?;
/// assert_eq!(entries[1].action, "pause queue");
/// assert_eq!(entries[1].reason, "the provider is down");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Operator {
    client: Client,
    actor: String,
    peer: String,
    reason: String,
}

/// What became of one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobOutcome {
    /// The job.
    pub job: JobId,
    /// What became of it.
    pub outcome: ChangeOutcome,
}

impl JobOutcome {
    /// Whether it was changed, or asked to stop.
    pub fn is_done(&self) -> bool {
        !matches!(self.outcome, ChangeOutcome::Refused(_) | ChangeOutcome::Busy)
    }
}

/// What an edit changes; what is `None` stays.
#[derive(Clone, Debug, Default)]
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

/// What became of an edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edited {
    /// The job itself was changed.
    Same(JobId),
    /// A new job stands in its place, or beside it if it had finished.
    Copy(JobId),
}

impl Operator {
    pub(crate) fn new(client: Client, actor: String) -> Self {
        Self { client, actor, peer: String::new(), reason: String::new() }
    }

    /// From where the person acts: an address, the name of a program. For the audit.
    #[must_use]
    pub fn from_peer(mut self, peer: impl Into<String>) -> Self {
        self.peer = peer.into();
        self
    }

    /// The same person with a reason, which pauses, orders and the audit tell.
    #[must_use]
    pub fn because(&self, reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), ..self.clone() }
    }

    fn storage(&self) -> &dyn Storage {
        &**self.client.storage()
    }

    /// Writes to the audit what is about to be done, does it, and writes how it went.
    async fn audited<T>(
        &self,
        action: &str,
        target: impl Into<String>,
        deed: impl Future<Output = Result<T>>,
        told: impl FnOnce(&T) -> (u64, String),
    ) -> Result<T> {
        let mut entry = AuditEntry {
            operation: OperationId::new(),
            at: Timestamp::default(),
            actor: self.actor.clone(),
            peer: self.peer.clone(),
            action: action.to_owned(),
            target: bounded(&target.into()),
            count: 0,
            outcome: String::new(),
            reason: self.reason.clone(),
        };
        entry.check()?;
        let kept = match self.storage().append_audit(&entry, None).await {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::Unsupported => false,
            Err(error) => return Err(error),
        };
        let answer = deed.await;
        tracing::info!(
            target: "jobkit::audit",
            actor = %self.actor, action, on = %entry.target, ok = answer.is_ok(), "an operator acted"
        );
        if kept {
            (entry.count, entry.outcome) = match &answer {
                Ok(done) => told(done),
                Err(error) => (0, bounded(&format!("failed: {error}"))),
            };
            // What was done is done, whether this can be written or not.
            if let Err(error) = self.storage().append_audit(&entry, None).await {
                tracing::warn!(%error, action, "the outcome could not be written to the audit");
            }
        }
        answer
    }

    fn pause_of(&self, until: Option<Timestamp>) -> Pause {
        Pause { until, ..Pause::new(self.actor.clone(), self.reason.clone()) }
    }

    async fn set_pause(&self, target: PauseTarget, until: Option<Timestamp>) -> Result<()> {
        let (what, name) = told_target(&target);
        let pause = self.pause_of(until);
        pause.check()?;
        let deed = self.storage().pause(&target, &pause, None);
        self.audited(&format!("pause {what}"), name, deed, |()| (1, "paused".into())).await
    }

    async fn lift_pause(&self, target: PauseTarget) -> Result<bool> {
        let (what, name) = told_target(&target);
        let deed = self.storage().resume(&target);
        self.audited(&format!("resume {what}"), name, deed, |was| {
            (u64::from(*was), if *was { "resumed" } else { "was not paused" }.into())
        })
        .await
    }

    /// Pauses a queue, until an instant if one is given (G15).
    ///
    /// # Errors
    /// Invalid input names the field; otherwise the storage's.
    pub async fn pause_queue(&self, queue: &str, until: Option<Timestamp>) -> Result<()> {
        self.set_pause(PauseTarget::Queue(Name::new("queue", queue)?), until).await
    }

    /// Resumes a queue; `false` if it was not paused.
    ///
    /// # Errors
    /// As [`pause_queue`](Self::pause_queue).
    pub async fn resume_queue(&self, queue: &str) -> Result<bool> {
        self.lift_pause(PauseTarget::Queue(Name::new("queue", queue)?)).await
    }

    /// Pauses a kind of job in every queue, until an instant if one is given (G15).
    ///
    /// # Errors
    /// As [`pause_queue`](Self::pause_queue).
    pub async fn pause_kind(&self, kind: &str, until: Option<Timestamp>) -> Result<()> {
        self.set_pause(PauseTarget::Kind(Name::new("kind", kind)?), until).await
    }

    /// Resumes a kind; `false` if it was not paused.
    ///
    /// # Errors
    /// As [`pause_queue`](Self::pause_queue).
    pub async fn resume_kind(&self, kind: &str) -> Result<bool> {
        self.lift_pause(PauseTarget::Kind(Name::new("kind", kind)?)).await
    }

    /// Pauses a recurring job, until an instant if one is given.
    ///
    /// # Errors
    /// `NotFound` if there is none; otherwise as [`pause_queue`](Self::pause_queue).
    pub async fn pause_recurring(&self, id: &str, until: Option<Timestamp>) -> Result<()> {
        let deed = self.client.pause_recurring(id, self.pause_of(until));
        self.audited("pause recurring", id, deed, |()| (1, "paused".into())).await
    }

    /// Resumes a recurring job, with its next occurrence from now on.
    ///
    /// # Errors
    /// `NotFound` if there is none; otherwise the storage's.
    pub async fn resume_recurring(&self, id: &str) -> Result<()> {
        let deed = self.client.resume_recurring(id);
        self.audited("resume recurring", id, deed, |()| (1, "resumed".into())).await
    }

    /// Fires a recurring job beside its schedule.
    ///
    /// # Errors
    /// `NotFound` if there is none; a conflict if its unique key is held.
    pub async fn run_recurring(&self, id: &str) -> Result<JobId> {
        let deed = self.client.trigger_recurring(id);
        self.audited("run recurring", id, deed, |job| (1, format!("created {job}"))).await
    }

    /// Tells a server to take no more jobs, until an instant if one is given; what it holds goes on.
    ///
    /// # Errors
    /// `NotFound` if there is no such server; otherwise as [`pause_queue`](Self::pause_queue).
    pub async fn quiet_server(&self, server: &str, until: Option<Timestamp>) -> Result<()> {
        self.order(server, Some(ServerCommand::Quiet), until).await
    }

    /// Tells a server to stop gracefully.
    ///
    /// # Errors
    /// As [`quiet_server`](Self::quiet_server).
    pub async fn stop_server(&self, server: &str) -> Result<()> {
        self.order(server, Some(ServerCommand::Stop), None).await
    }

    /// Takes back what a server was told: a quiet one takes jobs again. One that is stopping goes on to
    /// stop.
    ///
    /// # Errors
    /// As [`quiet_server`](Self::quiet_server).
    pub async fn resume_server(&self, server: &str) -> Result<()> {
        self.order(server, None, None).await
    }

    async fn order(
        &self,
        server: &str,
        command: Option<ServerCommand>,
        until: Option<Timestamp>,
    ) -> Result<()> {
        let name = Name::new("server", server)?;
        let given = self.pause_of(until);
        given.check()?;
        let order = command.map(|command| ServerOrder { command, given });
        let action = match command {
            Some(ServerCommand::Quiet) => "quiet server",
            Some(ServerCommand::Stop) => "stop server",
            None => "resume server",
        };
        let deed = async {
            if self.storage().command_server(&name, order.as_ref(), None).await? {
                return Ok(());
            }
            let error = Error::new(ErrorKind::NotFound, "there is no such server");
            Err(error.with("server", server))
        };
        self.audited(action, server, deed, |()| (1, "told with its next heartbeat".into())).await
    }

    /// Runs finished jobs again.
    ///
    /// # Errors
    /// More than 300 ids are invalid input; otherwise the storage's. What is refused is an outcome.
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
        if jobs.is_empty() || jobs.len() > IDS {
            return Err(Error::invalid(
                "ids",
                format_args!(
                    "has {} entries, where 1 to {IDS} are allowed; use a filter for more",
                    jobs.len()
                ),
            ));
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
        let deed = async {
            let outcomes = crate::client::repeated(|| async {
                let actor = Some(self.actor.as_str());
                let request = ChangeRequest { changes: &changes, actor, now: None };
                self.storage().change_state(request).await
            })
            .await?;
            let outcomes = jobs.iter().zip(outcomes);
            Ok(outcomes.map(|(job, outcome)| JobOutcome { job: *job, outcome }).collect())
        };
        self.audited(name, target, deed, |outcomes: &Vec<JobOutcome>| {
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
            copy.start_by = record.start_by;
            copy.unique.clone_from(&record.unique);
            copy.limits.clone_from(&record.limits);
            copy.extras.clone_from(&record.extras);
            copy.extras_mut().made_from = Some(job);
            copy.extras_mut().occurrence = None;
            let copy = self.client.sealed(copy)?;
            let id = copy.id;
            let guard = Guard::Version(record.head.version);
            let deed = async {
                let submitted = crate::client::repeated(|| {
                    let actor = Some(self.actor.as_str());
                    self.storage().edit_job(EditJob {
                        original: job,
                        guard,
                        copy: &copy,
                        actor,
                        now: None,
                    })
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
            return self.audited("edit arguments", job.to_string(), deed, told).await;
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

    /// Begins an operation on everything that matches; see [`bulk`]. Servers carry it out, and
    /// [`bulk::drive`] does.
    ///
    /// # Errors
    /// As [`bulk::begin`].
    pub async fn begin_bulk(
        &self,
        filter: JobFilter,
        action: Action,
        previewed: u64,
        spread: Duration,
    ) -> Result<BulkRecord> {
        self.begin_bulk_as_of(filter, action, previewed, spread, None).await
    }

    /// The same, of the jobs that were in their state by an instant: that at which somebody counted them.
    ///
    /// # Errors
    /// As [`bulk::begin`].
    pub async fn begin_bulk_as_of(
        &self,
        filter: JobFilter,
        action: Action,
        previewed: u64,
        spread: Duration,
        as_of: Option<Timestamp>,
    ) -> Result<BulkRecord> {
        let new = NewBulk {
            filter,
            action,
            actor: self.actor.clone(),
            reason: self.reason.clone(),
            previewed,
            spread,
            as_of,
        };
        bulk::begin(self.storage(), new).await
    }

    /// Stops a bulk operation after its present step; `false` if it had ended.
    ///
    /// # Errors
    /// The storage's.
    pub async fn cancel_bulk(&self, id: OperationId) -> Result<bool> {
        let deed = bulk::cancel(self.storage(), id);
        self.audited("stop bulk", id.to_string(), deed, |was| {
            (u64::from(*was), if *was { "stops after its step" } else { "had ended" }.into())
        })
        .await
    }

    /// Deletes what waits in a queue, as a bulk operation.
    ///
    /// # Errors
    /// As [`bulk::begin`].
    pub async fn empty_queue(&self, queue: &str) -> Result<BulkRecord> {
        let queue = Name::new("queue", queue)?;
        let field = crate::search::Field::Queue(vec![queue.to_string()]);
        let filter = JobFilter::state(StateName::Enqueued).and(field);
        let snapshot = self.storage().snapshot(None).await?;
        let found = snapshot.queues.iter().find(|it| it.name == queue);
        let waiting = found.map_or(0, |queue| queue.enqueued);
        self.begin_bulk(filter, Action::Delete { keep: None }, waiting, Duration::ZERO).await
    }

    /// Cancels a batch: its waiting members are deleted, running ones asked to stop.
    ///
    /// # Errors
    /// A conflict when it has completed; `NotFound` if there is none.
    pub async fn cancel_batch(&self, batch: BatchId) -> Result<()> {
        let handle = self.client.batch(batch);
        let deed = handle.cancel();
        self.audited("cancel batch", batch.to_string(), deed, |()| (1, "cancelled".into())).await
    }

    /// Sets a limit's number and window, over what jobs name.
    ///
    /// # Errors
    /// As [`pause_queue`](Self::pause_queue).
    pub async fn define_limit(&self, limit: Limit) -> Result<()> {
        let (name, max) = (limit.name.clone(), limit.max);
        let deed = self.client.define_limit(limit);
        self.audited("change limit", name, deed, |()| (1, format!("set to {max}"))).await
    }

    /// Frees the slots of a limit that are held under expired leases, by rescuing their holders at once;
    /// answers how many.
    ///
    /// # Errors
    /// The storage's.
    pub async fn release_stuck(&self, limit: &str) -> Result<u64> {
        let deed = async {
            let now = self.storage().now().await?;
            let holders = self.storage().limit_holders(limit, crate::bounds::PAGE).await?;
            let mut released = 0;
            for holder in holders.iter().filter(|holder| holder.expires_at <= now) {
                let request = ReleaseStuck {
                    limit,
                    job: holder.job,
                    crash_limit: crate::server::ServerOptions::default().crash_limit,
                    now: None,
                };
                released += u64::from(self.storage().release_stuck(request).await?);
            }
            Ok(released)
        };
        self.audited("release stuck", limit, deed, |n| (*n, format!("{n} released"))).await
    }

    /// Mutes an error group, until an instant if one is given; its failures are counted all the same.
    ///
    /// # Errors
    /// `NotFound` if there is none; otherwise as [`pause_queue`](Self::pause_queue).
    pub async fn mute(&self, group: Fingerprint, until: Option<Timestamp>) -> Result<()> {
        let mute = self.pause_of(until);
        mute.check()?;
        self.set_mute("mute", group, Some(mute)).await
    }

    /// Unmutes an error group.
    ///
    /// # Errors
    /// As [`mute`](Self::mute).
    pub async fn unmute(&self, group: Fingerprint) -> Result<()> {
        self.set_mute("unmute", group, None).await
    }

    async fn set_mute(&self, action: &str, group: Fingerprint, mute: Option<Pause>) -> Result<()> {
        let deed = async {
            if self.storage().mute(group, mute.as_ref(), None).await? {
                return Ok(());
            }
            let error = Error::new(ErrorKind::NotFound, "there is no such error group");
            Err(error.with("group", format_args!("{group:?}")))
        };
        self.audited(action, format!("{group:?}"), deed, |()| (1, format!("{action}d"))).await
    }
}

fn told_target(target: &PauseTarget) -> (&'static str, String) {
    match target {
        PauseTarget::Queue(name) => ("queue", name.to_string()),
        PauseTarget::Kind(name) => ("kind", name.to_string()),
    }
}

/// As much of a text as the audit keeps.
pub(crate) fn bounded(text: &str) -> String {
    let mut end = text.len().min(crate::bounds::NOTE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].replace('\0', "\u{fffd}")
}

impl<S: Storage + ?Sized> Client<S> {
    /// What a person does, by name: everything is written to the audit.
    pub fn operator(&self, name: impl Into<String>) -> Operator {
        Operator::new(self.erase(), name.into())
    }
}
