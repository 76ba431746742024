//! What the background processes of a server share.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::handlers::context::{DataMap, JobContext};
use crate::handlers::filter::{self, Filters};
use crate::handlers::panics;
use crate::handlers::registry::Kind;
use crate::handlers::run::RunEnd;
use crate::jobs::outcome::Failure;
use crate::model::bounds::{MAX_STEP_ITEMS, STEP_ITEMS};
use crate::model::clock::Timestamp;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::ids::{Incarnation, JobId};
use crate::model::name::Name;
use crate::model::state::{Reason, State};
use crate::model::sync::lock;
use crate::server::due_pushes::DueTold;
use crate::server::failed::{FailedJob, Hooks};
use crate::server::finished_count::FinishedCount;
use crate::server::health::HealthBoard;
use crate::server::held::Held;
use crate::server::options::ServerOptions;
use crate::server::queues::Queues;
use crate::storage::{
    Announced, Call, ClaimedJob, PauseTarget, ServerCommand, ServerInfo, StepRequest, Storage,
    caught,
};

/// How long an announce may take.
const ANNOUNCE: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) client: Client,
    pub(crate) info: ServerInfo,
    pub(crate) options: ServerOptions,
    pub(crate) queues: Queues,
    pub(crate) kinds: BTreeMap<String, Arc<Kind>>,
    pub(crate) kind_names: Arc<[Name]>,
    pub(crate) data: Arc<DataMap>,
    pub(crate) filters: Filters,
    pub(crate) hooks: Hooks,
    pub(crate) health: HealthBoard,
    pub(crate) held: Held,
    pub(crate) clock: ClockGuard,
    pub(crate) due_told: DueTold,
    paused: Mutex<Pauses>,
    /// Nothing more is claimed.
    pub(crate) quiet: CancellationToken,
    /// The same, as long as an operator's order holds.
    ordered_quiet: AtomicBool,
    /// Another live server has this one's name, so that it stands by.
    stands_by: AtomicBool,
    /// A graceful stop was asked for.
    pub(crate) stopping: CancellationToken,
    /// Everything ends now.
    pub(crate) ended: CancellationToken,
    pub(crate) signals: Signals,
    /// What this server finished.
    pub(crate) finished: FinishedCount,
}

/// The pauses, as they were when the storage was asked last.
#[derive(Debug, Default)]
struct Pauses {
    targets: HashSet<PauseTarget>,
    read_at: Option<Instant>,
}

/// What the processes tell each other.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// The dispatcher should look again: a pause, a replaced worker.
    pub(crate) dispatcher: Notify,
    /// Leases should be renewed now, since the storage is to know something of them.
    pub(crate) renew: Notify,
    /// Leases were renewed.
    pub(crate) renewed: Notify,
    /// The server should prove its life, or announce itself, now.
    pub(crate) heartbeat: Notify,
    /// A running job has something to tell.
    pub(crate) reporter: Arc<Notify>,
    /// Something was written that may leave marks.
    pub(crate) activity: Notify,
    /// Something may be due earlier than was known.
    pub(crate) scheduler: Notify,
    /// A bulk operation has not ended.
    pub(crate) bulk: Notify,
}

impl Engine {
    #[allow(clippy::too_many_arguments, reason = "called once, by the builder")]
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        client: Client,
        info: ServerInfo,
        options: ServerOptions,
        queues: Queues,
        kinds: BTreeMap<String, Arc<Kind>>,
        data: DataMap,
        filters: Filters,
        hooks: Hooks,
    ) -> Self {
        let finished = FinishedCount::new(storage.capabilities().max_finished);
        Self {
            kind_names: info.kinds.clone().into(),
            storage,
            client,
            info,
            options,
            queues,
            kinds,
            data: Arc::new(data),
            filters,
            hooks,
            health: HealthBoard::default(),
            held: Held::default(),
            clock: ClockGuard::default(),
            due_told: DueTold::default(),
            paused: Mutex::default(),
            quiet: CancellationToken::new(),
            ordered_quiet: AtomicBool::new(false),
            stands_by: AtomicBool::new(false),
            stopping: CancellationToken::new(),
            ended: CancellationToken::new(),
            signals: Signals::default(),
            finished,
        }
    }

    /// The handler of a kind with all filters around it.
    pub(crate) fn perform(
        &self,
        kind: &Kind,
        job: &ClaimedJob,
        context: &JobContext,
    ) -> impl Future<Output = RunEnd> + Send + 'static {
        let filters = &self.filters.perform;
        let filters = filters.iter().chain(&kind.filters.perform).cloned().collect();
        let (context, handler) = (context.clone(), Arc::clone(&kind.run));
        let args = job.args.clone();
        let has_codecs = !self.client.codecs().is_empty() || args.is_sealed();
        let extras = if has_codecs { job.extras.clone() } else { None };
        async move {
            if !has_codecs {
                return filter::perform(filters, context, args, handler).await;
            }
            context.set_sealed(args.is_sealed());
            let client = context.client().clone();
            // Codecs are what users wrote; and one that lacks a key today may have it tomorrow, so both
            // failures and panics are those of an attempt.
            let run = std::panic::AssertUnwindSafe(async {
                let args = client.open_stored_args(context.id(), extras.as_deref(), &args)?;
                let end = filter::perform(filters, context.clone(), args, handler).await;
                let RunEnd::Done(Some(output)) = end else { return Ok(end) };
                client.seal_result(context.id(), output).map(|sealed| RunEnd::Done(Some(sealed)))
            });
            match run.catch_unwind().await {
                Ok(Ok(end)) => end,
                Ok(Err(error)) => RunEnd::Failed(error.into()),
                Err(panic) => {
                    RunEnd::Panicked(Failure::from_panic(&*panic, panics::last_location()))
                }
            }
        }
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        self.info.incarnation
    }

    /// The most items of a flight, a renewal or another call about jobs.
    pub(crate) fn step_items(&self) -> usize {
        self.storage.capabilities().items_of(STEP_ITEMS)
    }

    /// A step of background work, as large as the storage takes it well.
    pub(crate) fn step(&self) -> StepRequest {
        let max = self.storage.capabilities().items_of(MAX_STEP_ITEMS);
        StepRequest { max }
    }

    /// Makes the server known, also after it was forgotten. Where another live server has its name, this
    /// one stands by until that one stops or falls silent.
    pub(crate) async fn announce(&self) -> Result<()> {
        let draining = self.quiet.is_cancelled() || self.stopping.is_cancelled();
        let info = ServerInfo { draining, ..self.info.clone() };
        match self.within(ANNOUNCE, self.storage.announce(&Call::default(), &info)).await? {
            Announced::Known => {
                self.health.works("name");
                if self.stands_by.swap(false, Ordering::Relaxed) {
                    self.signals.dispatcher.notify_one();
                }
            }
            Announced::NameTaken(holder) => {
                self.stands_by.store(true, Ordering::Relaxed);
                if draining {
                    // That is its successor.
                    return Ok(());
                }
                let ServerInfo { host, pid, .. } = &holder.info;
                let text = format!(
                    "another live server is named `{}` (process {pid} on {host}), so this one takes no \
                     jobs until that one stops; give each server a name of its own",
                    self.info.name
                );
                self.health.failed("name", &text);
            }
        }
        Ok(())
    }

    /// Whether it stands by, since another live server has its name.
    pub(crate) fn stands_by(&self) -> bool {
        self.stands_by.load(Ordering::Relaxed)
    }

    /// Whether a job of this queue and kind, claimed at an instant, must not be started now.
    ///
    /// A storage hands out nothing that is paused, so what was claimed after the pauses were read last
    /// has been resumed since. To give it back would be to claim it again at once, and so on until the
    /// next heartbeat.
    pub(crate) fn is_paused(&self, queue: &Name, kind: &Name, claimed_at: Instant) -> bool {
        let paused = lock(&self.paused);
        !paused.targets.is_empty()
            && paused.read_at.is_some_and(|read_at| claimed_at < read_at)
            && (paused.targets.contains(&PauseTarget::Queue(queue.clone()))
                || paused.targets.contains(&PauseTarget::Kind(kind.clone())))
    }

    pub(crate) fn set_paused(&self, now: Vec<PauseTarget>) {
        let now: HashSet<_> = now.into_iter().collect();
        let mut paused = lock(&self.paused);
        paused.read_at = Some(Instant::now());
        if paused.targets != now {
            paused.targets = now;
            self.signals.dispatcher.notify_one();
        }
    }

    /// Whether nothing more is to be claimed.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet.is_cancelled() || self.ordered_quiet.load(Ordering::Relaxed) || self.stands_by()
    }

    /// Follows what an operator told this server, and goes on when the order is taken back.
    pub(crate) fn follow(&self, order: Option<ServerCommand>) {
        if order == Some(ServerCommand::Stop) {
            self.stopping.cancel();
        }
        let quiet = order.is_some();
        if self.ordered_quiet.swap(quiet, Ordering::Relaxed) == quiet {
            return;
        }
        match quiet {
            true => {
                tracing::info!(server = %self.info.name, "an operator told the server to claim no more jobs")
            }
            false => {
                tracing::info!(server = %self.info.name, "the server claims jobs again");
                self.signals.dispatcher.notify_one();
            }
        }
    }

    /// A call to the storage; after 30 s its answer is taken as lost.
    pub(crate) async fn bounded<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        self.within(Duration::from_secs(30), call).await
    }

    /// A call to the storage; after `limit` its answer is taken as lost. By the contract it may be
    /// repeated.
    pub(crate) async fn within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        tokio::time::timeout(limit, caught(call)).await.unwrap_or_else(|_| {
            let text = format!("the storage has not answered for {limit:?}");
            Err(Error::new(ErrorKind::Timeout, text).maybe_applied())
        })
    }

    /// Waits so long, or until the server ends; `false` then.
    pub(crate) async fn sleep(&self, length: Duration) -> bool {
        tokio::select! {
            biased;
            () = tokio::time::sleep(length) => true,
            () = self.ended.cancelled() => false,
        }
    }

    /// Says that a job is Failed since its server vanished too often. Its server is gone, so the one that took it
    /// back does; what it was is read, since a rescue answers ids alone.
    pub(super) async fn report_crashed(&self, job: JobId) {
        match self.bounded(self.storage.job(job)).await {
            Ok(Some(details)) => {
                let record = details.record;
                // Somebody may have run it again by now.
                let reason = match record.head.state {
                    State::Failed => record.head.reason,
                    _ => Reason::CrashLimit,
                };
                self.hooks.failed(&FailedJob {
                    id: job,
                    kind: record.kind,
                    queue: record.queue,
                    attempt: record.head.failures.saturating_add(1),
                    reason,
                    error: None,
                });
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!(%job, %error, "job failed for good, but its record cannot be read");
            }
        }
    }
}

/// Suspends what the storage's clock decides while that clock jumps.
///
/// A clock that moves more than a minute against the monotonic one suspends purge, promotion and firing
/// until two reads agree again.
#[derive(Debug, Default)]
pub(crate) struct ClockGuard(Mutex<Guarded>);

#[derive(Debug, Default)]
struct Guarded {
    last: Option<(Instant, Timestamp)>,
    jumped: bool,
}

impl ClockGuard {
    const TOLERANCE: Duration = Duration::from_secs(60);

    /// Takes a reading of the storage's clock; whether it can be trusted.
    pub(crate) fn read(&self, storage_now: Timestamp) -> bool {
        let mut guarded = lock(&self.0);
        let now = Instant::now();
        if let Some((at, reading)) = guarded.last {
            let expected = reading.plus(now.duration_since(at));
            let off = expected.since(storage_now).max(storage_now.since(expected));
            // Two readings that agree with each other end the suspension.
            guarded.jumped = off > Self::TOLERANCE;
        }
        guarded.last = Some((now, storage_now));
        !guarded.jumped
    }

    /// Whether the last reading could be trusted.
    pub(crate) fn is_trusted(&self) -> bool {
        !lock(&self.0).jumped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_jumps_is_not_trusted_until_two_reads_agree() {
        let guard = ClockGuard::default();
        let start = Timestamp::from_micros(1_000_000_000_000);
        assert!(guard.read(start));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(guard.read(start.plus(Duration::from_secs(12))));
        assert!(!guard.read(start.plus(Duration::from_secs(3600))));
        assert!(!guard.is_trusted());
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(guard.read(start.plus(Duration::from_secs(3605))));
    }
}
