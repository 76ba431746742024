//! What a handler is given: its [`JobContext`], and [`Data`] of the server.

mod durable;

use std::any::{Any, TypeId, type_name};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::jobs::capture::{self, RunningJob};
use crate::jobs::outcome::Failure;
use crate::model::bounds;
use crate::model::clock::Timestamp;
use crate::model::failure::cleaned;
use crate::model::ids::{BatchId, JobId};
use crate::model::name::Name;
use crate::model::record::{Extras, Lease, Progress};
use crate::model::state::Retention;
use crate::model::sync::lock;
use crate::storage::{ClaimedJob, LogLevel, LogLine, LogWrite};

pub use durable::{FromParent, FromParents, ParentOutcome};

/// Everything a handler may ask and tell while it runs. Cheap to clone.
#[derive(Clone)]
pub struct JobContext(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) lease: Lease,
    kind: Name,
    queue: Name,
    failures: u32,
    crashes: u32,
    run: u32,
    created_at: Timestamp,
    batch: Option<BatchId>,
    extras: Option<Box<Extras>>,
    token: CancellationToken,
    begun: Instant,
    deadline: Option<Instant>,
    retention: Retention,
    client: Client,
    data: Arc<DataMap>,
    told: Mutex<Told>,
    /// Whether the handler went to the blocking pool, where it cannot be dropped.
    blocking: AtomicBool,
    /// Whether a codec had sealed the arguments, so that nothing quotes them.
    sealed: AtomicBool,
    // Wakes the task that sends what handlers tell.
    dirty: Arc<tokio::sync::Notify>,
}

#[derive(Default)]
struct Told {
    lines: Vec<LogLine>,
    dropped: u64,
    progress: Vec<Progress>,
}

impl JobContext {
    pub(crate) fn new(
        job: &ClaimedJob,
        token: CancellationToken,
        deadline: Option<Instant>,
        retention: Retention,
        client: Client,
        data: Arc<DataMap>,
        dirty: Arc<tokio::sync::Notify>,
    ) -> Self {
        Self(Arc::new(Inner {
            lease: job.lease,
            kind: job.kind.clone(),
            queue: job.queue.clone(),
            failures: job.failures,
            crashes: job.crashes,
            run: job.run,
            created_at: job.created_at,
            batch: job.batch,
            extras: job.extras.clone(),
            token,
            begun: Instant::now(),
            deadline,
            retention,
            client,
            data,
            told: Mutex::default(),
            blocking: AtomicBool::new(false),
            sealed: AtomicBool::new(false),
            dirty,
        }))
    }

    pub(crate) fn set_sealed(&self, sealed: bool) {
        self.0.sealed.store(sealed, Ordering::Relaxed);
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.0.sealed.load(Ordering::Relaxed)
    }

    pub(crate) fn set_blocking(&self) {
        self.0.blocking.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_blocking(&self) -> bool {
        self.0.blocking.load(Ordering::Relaxed)
    }

    /// Runs `future` as this job, so that jobs it enqueues inherit the context.
    pub(crate) async fn scope<F: Future>(self, future: F) -> F::Output {
        capture::running(self.0, future).await
    }

    /// The context of the job that the present task runs, if it runs one.
    ///
    /// Tasks and threads that a handler spawns do not have it; [`capture::current`] takes it to them.
    pub fn current() -> Option<Self> {
        let job: Arc<dyn Any + Send + Sync> = capture::running_job()?;
        job.downcast().ok().map(Self)
    }

    /// The job's id.
    pub fn id(&self) -> JobId {
        self.0.lease.job
    }

    /// The job's kind.
    pub fn kind(&self) -> &str {
        &self.0.kind
    }

    /// The queue it came from.
    pub fn queue(&self) -> &str {
        &self.0.queue
    }

    /// Which attempt this is, from 1: failures + 1.
    pub fn attempt(&self) -> u32 {
        self.0.failures.saturating_add(1)
    }

    /// How often the job was requeued after it had finished.
    pub fn run(&self) -> u32 {
        self.0.run
    }

    /// How many attempts ended because their server vanished.
    pub fn crashes(&self) -> u32 {
        self.0.crashes
    }

    /// The number of the claim: grows with every one and never decreases. Hand it to other systems as
    /// a fencing token, so that they can refuse what a former holder still sends.
    pub fn fence(&self) -> u64 {
        self.0.lease.fence
    }

    /// When the job was accepted, by the storage's clock.
    pub fn created_at(&self) -> Timestamp {
        self.0.created_at
    }

    /// The batch it belongs to.
    pub fn batch(&self) -> Option<BatchId> {
        self.0.batch
    }

    /// The instant of the schedule that the job was fired for.
    pub fn nominal_at(&self) -> Option<Timestamp> {
        let occurrence = self.0.extras.as_deref()?.occurrence.as_ref()?;
        Some(occurrence.nominal_at)
    }

    /// A value of the job's metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.0.extras.as_deref()?.metadata.get(key).map(String::as_str)
    }

    /// A value captured at enqueue and inherited by children, such as `tenant`.
    pub fn captured(&self, key: &str) -> Option<&str> {
        self.0.extras.as_deref()?.context.get(key).map(String::as_str)
    }

    /// Cancelled when the job should stop: it was deleted, its time is up, its lease is lost, or the
    /// server shuts down. A handler that ignores it is dropped after the server's `cancel_grace`.
    pub fn cancellation(&self) -> &CancellationToken {
        &self.0.token
    }

    /// Whether the job should stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.token.is_cancelled()
    }

    /// Waits until the job should stop.
    pub async fn cancelled(&self) {
        self.0.token.cancelled().await;
    }

    /// When the attempt's time is up, on the monotonic clock.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.deadline
    }

    /// How much of the attempt's time is left.
    pub fn time_left(&self) -> Option<Duration> {
        self.0.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// A client, for jobs that this one enqueues: they inherit its captured context.
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// Tells people how far the work is; sent within a second.
    pub fn progress(&self, done: u64, total: u64) {
        self.named_progress("", done, total, "");
    }

    /// One of several progress bars, with a word to it.
    pub fn named_progress(&self, name: &str, done: u64, total: u64, message: &str) {
        let bar = Progress {
            name: cleaned(name, bounds::LABEL_BYTES),
            done,
            total,
            message: cleaned(message, bounds::LABEL_BYTES),
        };
        let mut told = self.told();
        match told.progress.iter().position(|other| other.name == bar.name) {
            Some(place) => told.progress[place] = bar,
            // More bars than anyone reads are a mistake, not a reason to fail.
            None if told.progress.len() < 16 => told.progress.push(bar),
            None => {}
        }
        drop(told);
        self.0.dirty.notify_one();
    }

    /// Writes an information line into the job's log; sent within a second.
    pub fn info(&self, text: impl AsRef<str>) {
        self.log(LogLevel::Info, text);
    }

    /// Writes a line into the job's log: at most 4 KiB, and 1,000 lines an attempt, of which the
    /// newest are kept.
    pub fn log(&self, level: LogLevel, text: impl AsRef<str>) {
        let line = LogLine {
            at: self.0.client.clock_now(),
            level,
            text: cleaned(text.as_ref(), bounds::LOG_LINE_BYTES),
        };
        let mut told = self.told();
        if told.lines.len() >= bounds::LOG_LINES {
            told.lines.remove(0);
            told.dropped += 1;
        }
        told.lines.push(line);
        drop(told);
        self.0.dirty.notify_one();
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        lock(&self.0.told)
    }

    /// What was told and not sent yet: lines, how many were dropped, and bars.
    #[doc(hidden)]
    pub fn told_so_far(&self) -> (Vec<LogLine>, u64, Vec<Progress>) {
        let told = self.told();
        (told.lines.clone(), told.dropped, told.progress.clone())
    }

    /// What was told since it was last taken.
    pub(crate) fn take_told(&self) -> Option<LogWrite> {
        let told = std::mem::take(&mut *self.told());
        if told.lines.is_empty() && told.progress.is_empty() && told.dropped == 0 {
            return None;
        }
        Some(LogWrite {
            lease: self.0.lease,
            lines: told.lines,
            dropped: told.dropped,
            progress: told.progress,
        })
    }

    /// The right to settle this attempt, for backends that complete a job inside a caller's transaction.
    #[doc(hidden)]
    pub fn lease(&self) -> Lease {
        self.0.lease
    }

    /// How long the job is kept once it has finished.
    #[doc(hidden)]
    pub fn retention(&self) -> Retention {
        self.0.retention
    }

    /// How long the handler has been running.
    pub fn running_for(&self) -> Duration {
        self.0.begun.elapsed()
    }

    /// The W3C trace context of this attempt, to be handed to other systems as `traceparent`: of the
    /// trace in which the job was enqueued, else of one that is named after the job. Children belong to
    /// the same trace.
    pub fn trace_parent(&self) -> String {
        RunningJob::trace_parent(&*self.0)
    }
}

impl RunningJob for Inner {
    fn id(&self) -> JobId {
        self.lease.job
    }

    fn captured(&self) -> Option<&BTreeMap<String, String>> {
        self.extras.as_deref().map(|extras| &extras.context)
    }

    fn trace_parent(&self) -> String {
        let captured = self.captured().and_then(|context| context.get(capture::TRACEPARENT));
        let job = *self.lease.job.as_bytes();
        capture::trace_parent(captured.map(String::as_str), job, self.lease.fence)
    }
}

impl fmt::Debug for JobContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobContext")
            .field("id", &self.id())
            .field("kind", &self.0.kind)
            .field("attempt", &self.attempt())
            .field("fence", &self.fence())
            .finish_non_exhaustive()
    }
}

/// Something that a handler's parameter can be made of.
///
/// Implement it for what lives as long as one attempt, such as a database transaction; mark the
/// parameter with `#[inject]`.
pub trait FromContext: Sized {
    /// Tells what a server must have so that this works.
    fn require(requirements: &mut Requirements) {
        let _ = requirements;
    }

    /// Makes it; an error is a failure of the attempt, and is retried.
    fn from_context(context: &JobContext) -> impl Future<Output = Result<Self, Failure>> + Send;
}

impl FromContext for JobContext {
    async fn from_context(context: &JobContext) -> Result<Self, Failure> {
        Ok(context.clone())
    }
}

/// A value that the application gave to the server: a pool, a mailer, a configuration.
///
/// Given by [`ServerBuilder::data`](crate::server::ServerBuilder::data), or as a trait object by
/// [`data_arc`](crate::server::ServerBuilder::data_arc).
pub struct Data<T: ?Sized>(Arc<T>);

impl<T: ?Sized> Data<T> {
    /// The shared value.
    pub fn into_inner(self) -> Arc<T> {
        self.0
    }
}

impl<T: ?Sized> Deref for Data<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized> Clone for Data<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: ?Sized> From<Arc<T>> for Data<T> {
    fn from(value: Arc<T>) -> Self {
        Self(value)
    }
}

impl<T: ?Sized> fmt::Debug for Data<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Data<{}>", type_name::<T>())
    }
}

impl<T: ?Sized + Send + Sync + 'static> FromContext for Data<T> {
    fn require(requirements: &mut Requirements) {
        requirements.data::<T>();
    }

    async fn from_context(context: &JobContext) -> Result<Self, Failure> {
        context.0.data.get::<T>().map(Self).ok_or_else(|| {
            Failure::message(
                "missing data",
                format!("the server has no Data<{}>", type_name::<T>()),
            )
        })
    }
}

/// What the handlers of a server need; collected when it is built.
#[derive(Debug, Default)]
pub struct Requirements {
    needed: Vec<(TypeId, &'static str)>,
}

impl Requirements {
    /// A `Data<T>` is needed.
    pub fn data<T: ?Sized + Send + Sync + 'static>(&mut self) {
        self.needed.push((TypeId::of::<Arc<T>>(), type_name::<T>()));
    }

    /// The types that `data` does not hold.
    pub(crate) fn missing_in<'a>(
        &'a self,
        data: &'a DataMap,
    ) -> impl Iterator<Item = &'static str> + 'a {
        self.needed.iter().filter(|(id, _)| !data.0.contains_key(id)).map(|(_, name)| *name)
    }
}

/// The values of a server, by type.
#[derive(Default)]
pub(crate) struct DataMap(HashMap<TypeId, Box<dyn Any + Send + Sync>>);

impl DataMap {
    pub(crate) fn insert<T: ?Sized + Send + Sync + 'static>(&mut self, value: Arc<T>) -> bool {
        self.0.insert(TypeId::of::<Arc<T>>(), Box::new(value)).is_none()
    }

    fn get<T: ?Sized + Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.0.get(&TypeId::of::<Arc<T>>())?.downcast_ref::<Arc<T>>().cloned()
    }
}

impl fmt::Debug for DataMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataMap({} types)", self.0.len())
    }
}
