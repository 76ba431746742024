//! [`Operator`]: what a person does, with their name to it.
//!
//! Everything an operator does is written to the audit before it is done, and how it went after it: a
//! crash between leaves an entry without an outcome, never an action without an entry.

mod jobs;

use std::time::Duration;

use crate::client::Client;
use crate::model::clock::Timestamp;
use crate::model::error::{Error, ErrorKind, Result, offered};
use crate::model::failure::Fingerprint;
use crate::model::ids::{BatchId, JobId, OperationId};
use crate::model::limit::Limit;
use crate::model::name::Name;
use crate::model::name::cut_note;
use crate::model::recurring::Pause;
use crate::model::state::StateName;
use crate::operate::bulk::{self, NewBulk};
use crate::operate::search::JobFilter;
use crate::storage::{
    Action, AuditEntry, BulkRecord, Call, PauseTarget, ReleaseStuck, ServerCommand, ServerOrder,
    Storage,
};

pub use self::jobs::{Edit, Edited, JobOutcome};

/// A person at work: see [`Client::operator`].
///
/// # Example: pause, look, go on
/// ```
/// # use jobkit::{Client, Error, MemoryStorage};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Error> {
/// # let client = Client::new(MemoryStorage::new());
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
        self.client.storage()
    }

    /// Writes to the audit what is about to be done, does it, and writes how it went.
    async fn audited<T>(
        &self,
        action: &str,
        target: impl Into<String>,
        call: impl Future<Output = Result<T>>,
        told: impl FnOnce(&T) -> (u64, String),
    ) -> Result<T> {
        let mut entry = AuditEntry {
            operation: OperationId::new(),
            at: Timestamp::default(),
            actor: self.actor.clone(),
            peer: self.peer.clone(),
            action: action.to_owned(),
            target: cut_note(&target.into()),
            count: 0,
            outcome: String::new(),
            reason: self.reason.clone(),
        };
        entry.check()?;
        let kept = offered(self.storage().append_audit(&Call::default(), &entry).await)?.is_some();
        let answer = call.await;
        tracing::info!(
            target: "jobkit::audit",
            actor = %self.actor, action, on = %entry.target, ok = answer.is_ok(), "operator action"
        );
        if kept {
            (entry.count, entry.outcome) = match &answer {
                Ok(done) => told(done),
                Err(error) => (0, cut_note(&format!("failed: {error}"))),
            };
            // What was done is done, whether this can be written or not.
            if let Err(error) = self.storage().append_audit(&Call::default(), &entry).await {
                tracing::warn!(%error, action, "the result of an operator's action was not written to the audit");
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
        let call = async { self.storage().pause(&Call::default(), &target, &pause).await };
        self.audited(&format!("pause {what}"), name, call, |()| (1, "paused".into())).await
    }

    async fn lift_pause(&self, target: PauseTarget) -> Result<bool> {
        let (what, name) = told_target(&target);
        let call = async { self.storage().resume(&Call::default(), &target).await };
        self.audited(&format!("resume {what}"), name, call, |was| {
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
        let call = self.client.pause_recurring(id, self.pause_of(until));
        self.audited("pause recurring", id, call, |()| (1, "paused".into())).await
    }

    /// Resumes a recurring job, with its next occurrence from now on.
    ///
    /// # Errors
    /// `NotFound` if there is none; otherwise the storage's.
    pub async fn resume_recurring(&self, id: &str) -> Result<()> {
        let call = self.client.resume_recurring(id);
        self.audited("resume recurring", id, call, |()| (1, "resumed".into())).await
    }

    /// Fires a recurring job beside its schedule.
    ///
    /// # Errors
    /// `NotFound` if there is none; a conflict if its unique key is held.
    pub async fn run_recurring(&self, id: &str) -> Result<JobId> {
        let call = self.client.trigger_recurring(id);
        self.audited("run recurring", id, call, |job| (1, format!("created {job}"))).await
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
        let call = async {
            if self.storage().command_server(&Call::default(), &name, order.as_ref()).await? {
                return Ok(());
            }
            let error = Error::new(ErrorKind::NotFound, "there is no such server");
            Err(error.with("server", server))
        };
        self.audited(action, server, call, |()| (1, "told with its next heartbeat".into())).await
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
        let call = bulk::cancel(self.storage(), id);
        self.audited("stop bulk", id.to_string(), call, |was| {
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
        let field = crate::operate::search::Field::Queue(vec![queue.to_string()]);
        let filter = JobFilter::state(StateName::Enqueued).and(field);
        let snapshot = self.storage().snapshot(&Call::default()).await?;
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
        let call = handle.cancel();
        self.audited("cancel batch", batch.to_string(), call, |()| (1, "cancelled".into())).await
    }

    /// Sets a limit's number and window, over what jobs name.
    ///
    /// # Errors
    /// As [`pause_queue`](Self::pause_queue).
    pub async fn define_limit(&self, limit: Limit) -> Result<()> {
        let (name, max) = (limit.name.clone(), limit.max);
        let call = self.client.define_limit(limit);
        self.audited("change limit", name, call, |()| (1, format!("set to {max}"))).await
    }

    /// Frees the slots of a limit that are held under expired leases, by rescuing their holders at once;
    /// answers how many.
    ///
    /// # Errors
    /// The storage's.
    pub async fn release_stuck(&self, limit: &str) -> Result<u64> {
        let call = async {
            let now = self.storage().now().await?;
            let holders = self.storage().limit_holders(limit, crate::model::bounds::PAGE).await?;
            let mut released = 0;
            for holder in holders.iter().filter(|holder| holder.expires_at <= now) {
                let request = ReleaseStuck {
                    limit,
                    job: holder.job,
                    crash_limit: crate::model::bounds::CRASH_LIMIT,
                };
                released +=
                    u64::from(self.storage().release_stuck(&Call::default(), request).await?);
            }
            Ok(released)
        };
        self.audited("release stuck", limit, call, |n| (*n, format!("{n} released"))).await
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
        let call = async {
            if self.storage().mute(&Call::default(), group, mute.as_ref()).await? {
                return Ok(());
            }
            let error = Error::new(ErrorKind::NotFound, "there is no such error group");
            Err(error.with("group", format_args!("{group:?}")))
        };
        self.audited(action, format!("{group:?}"), call, |()| (1, format!("{action}d"))).await
    }
}

fn told_target(target: &PauseTarget) -> (&'static str, String) {
    match target {
        PauseTarget::Queue(name) => ("queue", name.to_string()),
        PauseTarget::Kind(name) => ("kind", name.to_string()),
    }
}

impl Client {
    /// What a person does, by name: everything is written to the audit.
    pub fn operator(&self, name: impl Into<String>) -> Operator {
        Operator::new(self.clone(), name.into())
    }
}
