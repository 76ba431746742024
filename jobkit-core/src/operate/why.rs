//! Why a job is not running, and what would change that.
//!
//! Computed from the contract, so that it says the same of every storage.
//!
//! # Example: a job that waits for its time
//! ```
//! use std::time::Duration;
//! use jobkit::Name;
//! use jobkit::record::NewRecord;
//! use jobkit::state::Start;
//! use jobkit::storage::{Call, JobStore, Submission, SubmitRequest};
//! use jobkit::{JobId, MemoryStorage};
//! use jobkit::ops::why;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), jobkit::Error> {
//! let storage = MemoryStorage::new();
//! let mut job = NewRecord::new(JobId::new(), Name::new("kind", "report")?, *b"{}");
//! job.start = Start::After(Duration::from_secs(600));
//! let submission = [Submission::one(job.clone())];
//! storage.submit(&Call::default(), SubmitRequest { submissions: &submission }).await?;
//! let why = why::why(&storage, &Call::default(), job.id).await?.expect("is stored");
//! assert!(why.to_string().starts_with("it is scheduled for "));
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::time::Duration;

use crate::model::clock::Timestamp;
use crate::model::edge::{Decision, Finish, On, Parent};
use crate::model::error::{Result, offered};
use crate::model::ids::{BatchId, JobId};
use crate::model::limit::Limit;
use crate::model::name::Name;
use crate::model::record::{JobDetails, JobRecord};
use crate::model::recurring::Pause;
use crate::model::state::{Hold, Reason, State, StateName};
use crate::storage::{Call, Count, LimitHolder, PauseTarget, ServerCommand, ServerStatus, Storage};

/// How many parents and holders are named.
const NAMED: usize = 5;
/// How many jobs before it are counted at most.
const COUNTED: u64 = 10_000;

/// Why a job is as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Why {
    /// Its state.
    pub state: StateName,
    /// What keeps it from running, the first to be looked at first. Never empty.
    pub causes: Vec<Cause>,
    /// The storage's clock.
    pub now: Timestamp,
}

/// One thing that keeps a job from running.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Cause {
    /// It runs.
    Runs {
        /// On which server.
        server: Name,
        /// Since when.
        since: Timestamp,
        /// As which attempt.
        attempt: u32,
    },
    /// It runs, and was asked to stop.
    Stopping,
    /// Its server has been silent, or is gone.
    ServerSilent {
        /// Which server.
        server: Name,
        /// Since when; `None` if it has been forgotten.
        since: Option<Timestamp>,
        /// When the lease ends; then it is taken back within moments.
        lease_ends_at: Timestamp,
    },
    /// It has finished.
    Finished {
        /// How.
        state: StateName,
        /// Why.
        reason: Reason,
        /// When.
        at: Timestamp,
    },
    /// It can never run, since these parents did not end as it needed.
    Unmet {
        /// The first of them, with their states where they are known.
        parents: Vec<(Parent, On, Option<StateName>)>,
        /// How many more.
        more: usize,
    },
    /// It waits for an instant.
    Scheduled {
        /// Which.
        run_at: Timestamp,
        /// Why.
        reason: Reason,
        /// Which attempt it will be.
        attempt: u32,
        /// The message of the last failure.
        last_error: Option<String>,
    },
    /// It waits for parents.
    Parents {
        /// The first of those that are not decided, with their states where they are known.
        open: Vec<(Parent, On, Option<StateName>)>,
        /// How many more.
        more: usize,
    },
    /// Its batch has not been started.
    BatchNotStarted(BatchId),
    /// Its queue is paused.
    QueuePaused(Name, Pause),
    /// Its kind is paused.
    KindPaused(Name, Pause),
    /// No live server would take it.
    NoServer {
        /// Its queue.
        queue: Name,
        /// Its kind.
        kind: Name,
        /// Live servers that serve the queue, but not the kind.
        serve_queue: usize,
        /// Live servers that serve the kind, but not the queue.
        serve_kind: usize,
    },
    /// All servers that would take it were told to be quiet.
    ServersQuiet(Vec<Name>),
    /// A limit is full.
    LimitFull {
        /// Which, as it stands now.
        limit: Limit,
        /// The first jobs that hold it; none of a rate limit.
        holders: Vec<LimitHolder>,
        /// When a rate limit has room again.
        room_at: Option<Timestamp>,
    },
    /// Others run before it.
    Behind(Count),
    /// All workers that would take it are busy.
    WorkersBusy {
        /// How many there are.
        workers: u32,
    },
    /// Nothing: it is about to be taken.
    Next,
}

/// Looks for what keeps a job from running, at the time of the call; `None` if there is no such job.
///
/// # Errors
/// The storage's. Where it does not offer monitoring or operations, fewer causes are found.
///
/// # Cancel safety
/// It only reads.
pub async fn why<S: Storage + ?Sized>(storage: &S, call: &Call, id: JobId) -> Result<Option<Why>> {
    let Some(details) = storage.job(id).await? else { return Ok(None) };
    let now = match call.now {
        Some(now) => now,
        None => storage.now().await?,
    };
    let record = &details.record;
    let look = Look { storage, call, details: &details, now };
    let causes = match &record.head.state {
        State::Processing(hold) => look.running(hold).await?,
        State::Awaiting { .. } => look.awaiting().await?,
        State::Scheduled { run_at } => look.scheduled(*run_at).await?,
        State::Enqueued => look.enqueued().await?,
        State::Succeeded | State::Failed | State::Deleted => look.finished().await?,
    };
    Ok(Some(Why { state: record.state(), causes, now }))
}

struct Look<'a, S: ?Sized> {
    storage: &'a S,
    call: &'a Call,
    details: &'a JobDetails,
    now: Timestamp,
}

impl<S: Storage + ?Sized> Look<'_, S> {
    fn record(&self) -> &JobRecord {
        &self.details.record
    }

    fn is_live(&self, server: &ServerStatus) -> bool {
        !server.is_silent(self.now)
    }

    async fn running(&self, hold: &Hold) -> Result<Vec<Cause>> {
        let servers = self.storage.servers().await?;
        let mut causes = Vec::new();
        let server = servers.iter().find(|it| it.info.incarnation == hold.incarnation);
        if server.is_none_or(|server| !self.is_live(server)) || hold.expires_at <= self.now {
            causes.push(Cause::ServerSilent {
                server: hold.server.clone(),
                since: server.map(|server| server.heartbeat_at),
                lease_ends_at: hold.expires_at,
            });
        }
        if hold.cancel.is_some() {
            causes.push(Cause::Stopping);
        }
        if causes.is_empty() {
            causes.push(Cause::Runs {
                server: hold.server.clone(),
                since: hold.claimed_at,
                attempt: self.record().head.attempt(),
            });
        }
        Ok(causes)
    }

    async fn finished(&self) -> Result<Vec<Cause>> {
        let head = &self.record().head;
        let (state, reason, at) = (head.state.name(), head.reason, head.entered_at);
        let mut causes = vec![Cause::Finished { state, reason, at }];
        if reason == Reason::Unmeetable {
            let mut parents = self.unmet().await?;
            let more = parents.len().saturating_sub(NAMED);
            parents.truncate(NAMED);
            if !parents.is_empty() {
                causes.push(Cause::Unmet { parents, more });
            }
        }
        Ok(causes)
    }

    /// The parents that can no longer end as the job needs, as far as it can still be seen: a parent that
    /// has been requeued or removed since leaves no trace.
    async fn unmet(&self) -> Result<Vec<(Parent, On, Option<StateName>)>> {
        let edges = self.details.parents.iter().map(|status| status.edge);
        let mut parents: Vec<_> = edges.map(|edge| (edge.parent, edge.on, None)).collect();
        self.tell_states(&mut parents).await?;
        let mut unmet = Vec::new();
        for (parent, on, state) in parents {
            let decision = match parent {
                Parent::Job(_) => state.and_then(Finish::of).map(|finish| on.decide(finish)),
                Parent::Batch(id) => offered(self.storage.batch(id).await)?
                    .flatten()
                    .map(|batch| on.decide_batch(batch.completed_at.is_some(), &batch.counts)),
            };
            if decision == Some(Decision::Unmeetable) {
                unmet.push((parent, on, state));
            }
        }
        Ok(unmet)
    }

    async fn awaiting(&self) -> Result<Vec<Cause>> {
        let mut causes = Vec::new();
        let mut open = Vec::new();
        for status in self.details.parents.iter().filter(|status| !status.decided) {
            open.push((status.edge.parent, status.edge.on, None));
        }
        let more = open.len().saturating_sub(NAMED);
        open.truncate(NAMED);
        self.tell_states(&mut open).await?;
        if !open.is_empty() {
            causes.push(Cause::Parents { open, more });
        }
        if let Some(batch) = self.record().batch
            && let Some(Some(record)) = offered(self.storage.batch(batch).await)?
            && record.started_at.is_none()
        {
            causes.push(Cause::BatchNotStarted(batch));
        }
        if causes.is_empty() {
            // Everything is decided, and a sweep is about to say so.
            causes.push(Cause::Next);
        }
        Ok(causes)
    }

    async fn tell_states(&self, open: &mut [(Parent, On, Option<StateName>)]) -> Result<()> {
        let jobs = open.iter().filter_map(|(parent, _, _)| match parent {
            Parent::Job(id) => Some(*id),
            Parent::Batch(_) => None,
        });
        let ids: Vec<JobId> = jobs.collect();
        let records = self.storage.jobs(&ids).await?;
        for (parent, _, state) in open {
            if let Parent::Job(id) = parent {
                let found = records.iter().flatten().find(|record| record.id == *id);
                *state = found.map(JobRecord::state);
            }
        }
        Ok(())
    }

    async fn scheduled(&self, run_at: Timestamp) -> Result<Vec<Cause>> {
        let head = &self.record().head;
        let last = self.details.errors.last().filter(|_| head.reason == Reason::Retry);
        let mut causes = vec![Cause::Scheduled {
            run_at,
            reason: head.reason,
            attempt: head.attempt(),
            last_error: last.map(|error| error.detail.summary()),
        }];
        // What will keep it from running then.
        causes.extend(self.paused().await?);
        causes.extend(self.unserved().await?);
        Ok(causes)
    }

    async fn enqueued(&self) -> Result<Vec<Cause>> {
        let record = self.record();
        let mut causes = self.paused().await?;
        causes.extend(self.unserved().await?);
        if let Some(name) = &record.parked_at
            && let Some(Some(usage)) = offered(self.storage.limit(self.call, name).await)?
        {
            let holders = offered(self.storage.limit_holders(name, NAMED).await)?;
            causes.push(Cause::LimitFull {
                limit: usage.limit,
                holders: holders.unwrap_or_default(),
                room_at: usage.room_at,
            });
        }
        if causes.is_empty() {
            match offered(self.storage.jobs_before(record.id, COUNTED).await)?.flatten() {
                Some(Count::Exact(0)) | None => {}
                Some(before) => causes.push(Cause::Behind(before)),
            }
            let servers = self.servers_for().await?;
            let workers: u32 = servers.iter().map(|server| server.info.workers).sum();
            if !servers.is_empty() && servers.iter().all(|it| it.busy >= it.info.workers) {
                causes.push(Cause::WorkersBusy { workers });
            }
        }
        if causes.is_empty() {
            causes.push(Cause::Next);
        }
        Ok(causes)
    }

    async fn paused(&self) -> Result<Vec<Cause>> {
        let record = self.record();
        let Some(pauses) = offered(self.storage.pauses(self.call).await)? else {
            return Ok(Vec::new());
        };
        let cause = |record: &JobRecord, target: PauseTarget, pause: Pause| match target {
            PauseTarget::Queue(queue) if queue == record.queue => {
                Some(Cause::QueuePaused(queue, pause))
            }
            PauseTarget::Kind(kind) if kind == record.kind => Some(Cause::KindPaused(kind, pause)),
            _ => None,
        };
        Ok(pauses.into_iter().filter_map(|it| cause(record, it.target, it.pause)).collect())
    }

    /// Live servers that serve its queue and kind.
    async fn servers_for(&self) -> Result<Vec<ServerStatus>> {
        let record = self.record();
        let mut servers = self.storage.servers().await?;
        servers.retain(|server| {
            self.is_live(server)
                && server.info.queues.contains(&record.queue)
                && server.info.kinds.contains(&record.kind)
        });
        Ok(servers)
    }

    async fn unserved(&self) -> Result<Option<Cause>> {
        let record = self.record();
        let takes_jobs = |server: &ServerStatus| self.is_live(server) && !server.info.draining;
        let live = self.storage.servers().await?.into_iter().filter(takes_jobs);
        let live: Vec<_> = live.collect();
        let serves = |server: &ServerStatus| {
            let info = &server.info;
            (info.queues.contains(&record.queue), info.kinds.contains(&record.kind))
        };
        let takers: Vec<_> = live.iter().filter(|server| serves(server) == (true, true)).collect();
        if takers.is_empty() {
            return Ok(Some(Cause::NoServer {
                queue: record.queue.clone(),
                kind: record.kind.clone(),
                serve_queue: live.iter().filter(|server| serves(server) == (true, false)).count(),
                serve_kind: live.iter().filter(|server| serves(server) == (false, true)).count(),
            }));
        }
        let is_quiet = |server: &ServerStatus| {
            server.order.as_ref().is_some_and(|order| {
                order.given.holds(self.now)
                    && matches!(order.command, ServerCommand::Quiet | ServerCommand::Stop)
            })
        };
        let all_quiet = takers.iter().all(|server| is_quiet(server));
        let names = || takers.iter().map(|server| server.info.name.clone()).collect();
        Ok(all_quiet.then(|| Cause::ServersQuiet(names())))
    }
}

impl Why {
    /// The sentence, and what would change it.
    pub fn sentences(&self) -> Vec<String> {
        self.causes.iter().map(|cause| cause.sentence(self.now)).collect()
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentences().join("; "))
    }
}

/// A length as people say it.
fn length(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0 => format!("{} ms", length.as_millis()),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// An instant as people say it, to the second.
fn instant(at: Timestamp, now: Timestamp) -> String {
    let text = at.to_chrono().format("%Y-%m-%d %H:%M:%S UTC");
    if at > now {
        format!("{text} (in {})", length(at.since(now)))
    } else {
        format!("{text} ({} ago)", length(now.since(at)))
    }
}

fn paused(what: &str, name: &Name, pause: &Pause, now: Timestamp) -> String {
    let reason = match pause.reason.as_str() {
        "" => String::new(),
        reason => format!(": \"{reason}\""),
    };
    let until = match pause.until {
        Some(until) => format!("until {}", instant(until, now)),
        None => "until somebody resumes it".to_owned(),
    };
    format!(
        "its {what} `{name}` has been paused by {} since {}{reason}; {until}",
        pause.by,
        instant(pause.since, now)
    )
}

impl Cause {
    /// What it is, and what would change it.
    fn sentence(&self, now: Timestamp) -> String {
        match self {
            Self::Runs { server, since, attempt } => format!(
                "it runs on server `{server}` since {}, attempt {attempt}",
                instant(*since, now)
            ),
            Self::Stopping => "it runs, and was asked to stop".to_owned(),
            Self::ServerSilent { server, since, lease_ends_at } => {
                let silent = match since {
                    Some(since) => format!("has been silent since {}", instant(*since, now)),
                    None => "is gone".to_owned(),
                };
                let verb = if *lease_ends_at > now { "ends" } else { "ended" };
                format!(
                    "it was taken by server `{server}`, which {silent}; its lease {verb} {}, then it is \
                     taken back by itself within about a minute, as long as any server lives",
                    instant(*lease_ends_at, now)
                )
            }
            Self::Finished { state, reason, at } => {
                format!("it is {state} since {}: {}", instant(*at, now), reason.as_str())
            }
            Self::Scheduled { run_at, reason, attempt, last_error } => {
                let overdue = if *run_at <= now { ", overdue" } else { "" };
                let what = match (reason, last_error) {
                    (Reason::Retry, Some(error)) => {
                        let line = error.lines().next().unwrap_or_default();
                        format!(", as attempt {attempt} after: {line}")
                    }
                    (reason, _) => format!(" ({})", reason.as_str()),
                };
                format!(
                    "it is scheduled for {}{overdue}{what}; `run-now` starts it at once",
                    instant(*run_at, now)
                )
            }
            Self::Parents { open, more } => {
                let mut named: Vec<_> = open.iter().map(parent).collect();
                if *more > 0 {
                    named.push(format!("{more} more"));
                }
                format!("it waits for {}; `run-now` starts it all the same", named.join(", "))
            }
            Self::Unmet { parents, more } => {
                let mut named: Vec<_> = parents.iter().map(parent).collect();
                if *more > 0 {
                    named.push(format!("{more} more"));
                }
                format!("it waited in vain for {}", named.join(", "))
            }
            Self::BatchNotStarted(batch) => {
                format!("its batch {batch} has not been started, since it is still being filled")
            }
            Self::QueuePaused(queue, pause) => paused("queue", queue, pause, now),
            Self::KindPaused(kind, pause) => paused("kind", kind, pause, now),
            Self::NoServer { queue, kind, serve_queue, serve_kind } => {
                let but = match (serve_queue, serve_kind) {
                    (0, 0) => "start one that does".to_owned(),
                    (0, kinds) => format!("{kinds} serve its kind, but not its queue"),
                    (queues, 0) => format!("{queues} serve its queue, but not its kind"),
                    (queues, kinds) => {
                        format!("{queues} serve its queue alone, {kinds} its kind alone")
                    }
                };
                format!("no live server serves kind `{kind}` in queue `{queue}`: {but}")
            }
            Self::ServersQuiet(servers) => {
                let names: Vec<_> = servers.iter().map(|name| format!("`{name}`")).collect();
                format!(
                    "every server that would take it was told to take no more: {}",
                    names.join(", ")
                )
            }
            Self::LimitFull { limit, holders, room_at } => match (limit.window, room_at) {
                (Some(_), Some(room_at)) => format!(
                    "limit `{}` has had its {} starts; there is room again at {}",
                    limit.name,
                    limit.max,
                    instant(*room_at, now)
                ),
                (Some(_), None) => format!("limit `{}` has room, and lets it go now", limit.name),
                (None, _) => {
                    let jobs: Vec<_> = holders.iter().map(|it| it.job.to_string()).collect();
                    let held = match jobs.is_empty() {
                        true => "nobody now, so it is let go in a moment".to_owned(),
                        false => jobs.join(", "),
                    };
                    format!("limit `{}` of {} is full, held by {held}", limit.name, limit.max)
                }
            },
            Self::Behind(count) => match count {
                Count::Exact(1) => "1 job of its queue runs before it".to_owned(),
                Count::Exact(n) | Count::About(n) => format!("{n} jobs of its queue run before it"),
                Count::AtLeast(n) => format!("more than {n} jobs of its queue run before it"),
                Count::Unknown => "others of its queue may run before it".to_owned(),
            },
            Self::WorkersBusy { workers } => {
                format!("all {workers} workers that would take it are busy")
            }
            Self::Next => "nothing keeps it from running: it is about to be taken".to_owned(),
        }
    }
}

fn parent((parent, on, state): &(Parent, On, Option<StateName>)) -> String {
    let until = match on {
        On::Success => "to succeed",
        On::Failed => "to fail",
        On::Any => "to finish",
    };
    match (parent, state) {
        (Parent::Job(id), Some(state)) => format!("job {id} ({state}) {until}"),
        (Parent::Job(id), None) => format!("job {id} {until}"),
        (Parent::Batch(id), _) => format!("batch {id} {until}"),
    }
}
