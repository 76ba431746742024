//! Filters: a say in what is submitted, round every run, and in what follows from its end.
//!
//! Three traits, one for each place, since a process that only enqueues links no handlers:
//! [`SubmitFilter`] belongs to a client, [`PerformFilter`] and [`ElectFilter`] to a server or to the
//! [`Jobs`](crate::Jobs) they are laid round. None of them writes to the storage: what they decide goes
//! into the same commit as the submit or the settle.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;

use crate::jobs::context::JobContext;
use crate::jobs::outcome::{Advice, Failure};
use crate::jobs::registry::{Handler, RunEnd, panics};
use crate::model::error::Result;
use crate::model::ids::random_fraction;
use crate::model::record::{NewRecord, Payload};
use crate::model::retry::{RetryDecision, RetryPolicy};
use crate::model::state::{Reason, Retention};
use crate::model::state_machine::Ending;
use crate::storage::{LogLevel, LogLine};

/// Looks at every job before it is submitted, and may change or refuse it. Implemented by closures.
///
/// Synchronous, since jobs are also submitted inside transactions that are not `Send`; ask other
/// systems before you enqueue. A submit that is repeated because its answer was lost is not filtered
/// again. For a recurring job the filter sees the template when the schedule is saved.
///
/// # Example: no job without a tenant
/// ```
/// use jobkit_core::filter::SubmitFilter;
/// use jobkit_core::record::NewRecord;
/// use jobkit_core::{Client, ClientOptions, Error, Result};
///
/// struct NeedsTenant;
///
/// impl SubmitFilter for NeedsTenant {
///     fn submit(&self, job: &mut NewRecord) -> Result<()> {
///         if job.extras_mut().context.contains_key("tenant") {
///             return Ok(());
///         }
///         Err(Error::invalid("tenant", "is missing: enqueue inside a request"))
///     }
/// }
///
/// # let storage = jobkit_core::MemoryStorage::new();
/// let options = ClientOptions::default().filter(NeedsTenant);
/// let client = Client::with_options(storage, options);
/// # drop(client);
/// ```
pub trait SubmitFilter: Send + Sync + 'static {
    /// Looks at a job; called in the order in which filters were added.
    ///
    /// # Errors
    /// Refuses the whole submission; nothing is stored.
    fn submit(&self, job: &mut NewRecord) -> Result<()>;
}

impl<F: Fn(&mut NewRecord) -> Result<()> + Send + Sync + 'static> SubmitFilter for F {
    fn submit(&self, job: &mut NewRecord) -> Result<()> {
        self(job)
    }
}

/// Goes round every run of a handler: before it, after it, or in its place.
///
/// Filters of the server are outside those of its [`Jobs`](crate::Jobs); among each other, the first
/// added is outermost. A panic in a filter is a failure of the attempt, and a filter is dropped with the
/// handler when the job ignores its cancellation.
///
/// # Example: how long each run takes
/// ```
/// use async_trait::async_trait;
/// use jobkit_core::JobContext;
/// use jobkit_core::filter::{Next, Performed, PerformFilter};
///
/// struct Timing;
///
/// #[async_trait]
/// impl PerformFilter for Timing {
///     async fn perform(&self, context: &JobContext, next: Next<'_>) -> Performed {
///         let begun = std::time::Instant::now();
///         let performed = next.run().await;
///         context.info(format!("took {:?}, ok: {}", begun.elapsed(), performed.is_ok()));
///         performed
///     }
/// }
/// ```
#[async_trait]
pub trait PerformFilter: Send + Sync + 'static {
    /// Runs what is inside with [`Next::run`], or does not.
    async fn perform(&self, context: &JobContext, next: Next<'_>) -> Performed;
}

/// What a [`PerformFilter`] is laid round: the filters inside it, and the handler.
pub struct Next<'a> {
    context: &'a JobContext,
    filters: &'a [Arc<dyn PerformFilter>],
    args: Payload,
    handler: &'a Handler,
}

impl std::fmt::Debug for Next<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Next({} filters)", self.filters.len())
    }
}

impl Next<'_> {
    /// Runs it.
    pub async fn run(self) -> Performed {
        match self.filters.split_first() {
            Some((first, filters)) => first.perform(self.context, Next { filters, ..self }).await,
            None => Performed((self.handler)(self.args, self.context.clone()).await),
        }
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Performed(pub(crate) RunEnd);

impl Performed {
    /// Another end: the attempt failed so.
    pub fn failed(failure: impl Into<Failure>) -> Self {
        Self(RunEnd::Failed(failure.into()))
    }

    /// Another end: there is nothing to do any more. The job becomes Deleted, with the reason in its
    /// log.
    pub fn skipped(why: impl Into<String>) -> Self {
        Self(RunEnd::Skipped(why.into()))
    }

    /// Whether the handler succeeded.
    pub fn is_ok(&self) -> bool {
        matches!(self.0, RunEnd::Done(_))
    }

    /// What it failed with.
    pub fn failure(&self) -> Option<&Failure> {
        self.0.failure()
    }

    /// What it returned, as JSON; `None` where that was nothing, or it has not succeeded.
    pub fn output(&self) -> Option<&[u8]> {
        match &self.0 {
            RunEnd::Done(output) => output.as_deref(),
            _ => None,
        }
    }
}

/// Runs a handler inside its filters; a panic in any of them is an end like others.
pub(crate) async fn perform(
    filters: Vec<Arc<dyn PerformFilter>>,
    context: JobContext,
    args: Payload,
    handler: Handler,
) -> RunEnd {
    if filters.is_empty() {
        return handler(args, context).await;
    }
    let next = Next { context: &context, filters: &filters, args, handler: &handler };
    match AssertUnwindSafe(next.run()).catch_unwind().await {
        Ok(performed) => performed.0,
        Err(panic) => RunEnd::Panicked(Failure::from_panic(&*panic, panics::last_location())),
    }
}

/// Has a say in what follows from the end of a run, before it is settled.
///
/// Asked in this order: [`Retrying`] with the job's policy, the filters of its
/// [`Jobs`](crate::Jobs), the filters of the server; each sees what those before it decided. Not asked
/// where the end is not the handler's: a shutdown, a lost lease, a job that was cancelled. Called on
/// the dispatcher's task, so it must be quick; after a panic in a filter its decision does not count.
///
/// # Example: a retry policy of one's own
/// ```
/// use std::time::Duration;
/// use jobkit_core::filter::{ElectFilter, Election, Ended};
///
/// struct AtNightOnly;
///
/// impl ElectFilter for AtNightOnly {
///     fn elect(&self, ended: &Ended<'_>, next: &mut Election) {
///         if ended.failure().is_some_and(|failure| failure.text().contains("quota")) {
///             next.retry_after(Duration::from_secs(8 * 3600));
///         }
///     }
/// }
/// ```
pub trait ElectFilter: Send + Sync + 'static {
    /// Looks at the end, and changes what follows.
    fn elect(&self, ended: &Ended<'_>, next: &mut Election);
}

impl<F: Fn(&Ended<'_>, &mut Election) + Send + Sync + 'static> ElectFilter for F {
    fn elect(&self, ended: &Ended<'_>, next: &mut Election) {
        self(ended, next);
    }
}

/// A run that ended.
#[derive(Debug)]
pub struct Ended<'a> {
    pub(crate) context: &'a JobContext,
    pub(crate) failure: Option<&'a Failure>,
    pub(crate) failures: u32,
    pub(crate) duration: Duration,
}

impl Ended<'_> {
    /// Job, kind, queue, attempt, metadata.
    pub fn context(&self) -> &JobContext {
        self.context
    }

    /// What it failed with; `None` if it succeeded or was skipped.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure
    }

    /// How often the job has failed since it was last requeued, this time included.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// How long the handler ran.
    pub fn duration(&self) -> Duration {
        self.duration
    }
}

/// What follows from the end of a run: elected by filters, settled in one step.
#[derive(Clone, Debug)]
pub struct Election {
    pub(crate) ending: Ending,
    pub(crate) retention: Retention,
    pub(crate) lines: Vec<LogLine>,
    now: crate::model::clock::Timestamp,
}

impl Election {
    pub(crate) fn new(
        ending: Ending,
        retention: Retention,
        now: crate::model::clock::Timestamp,
    ) -> Self {
        Self { ending, retention, lines: Vec::new(), now }
    }

    /// What follows as of now.
    pub fn ending(&self) -> Ending {
        self.ending
    }

    /// The job runs again after `delay`, a year at most. What succeeded stays as it is.
    pub fn retry_after(&mut self, delay: Duration) {
        self.change(Ending::Retry { delay: bounded(delay) });
    }

    /// The job runs again after `delay`, and no attempt is used up. What succeeded stays as it is.
    pub fn snooze(&mut self, delay: Duration) {
        self.change(Ending::Snoozed { delay: bounded(delay) });
    }

    /// The job is Failed and does not run again. What succeeded stays as it is.
    pub fn fail(&mut self) {
        self.change(Ending::Failed(Reason::Permanent));
    }

    /// The job is given up: Deleted, which no alarm counts. What succeeded stays as it is.
    pub fn delete(&mut self) {
        self.change(Ending::Deleted(Reason::Skipped));
    }

    /// How long the job is kept, should it be finished now.
    pub fn keep_for(&mut self, retention: Retention) {
        self.retention = retention;
    }

    /// A line in the job's log, kept with the settle.
    pub fn note(&mut self, text: impl AsRef<str>) {
        let text =
            crate::model::failure::cleaned(text.as_ref(), crate::model::bounds::LOG_LINE_BYTES);
        // A filter has a word to say, not a novel.
        if self.lines.len() < 16 {
            self.lines.push(LogLine { at: self.now, level: LogLevel::Info, text });
        }
    }

    fn change(&mut self, ending: Ending) {
        // The effects of a success have happened: nothing may claim that they have not.
        if !matches!(self.ending, Ending::Succeeded) {
            self.ending = ending;
        }
    }
}

/// A delay that a person chose: at most a year.
fn bounded(delay: Duration) -> Duration {
    delay.min(Duration::from_secs(365 * 24 * 3600))
}

/// The first filter of every election: what an error advises, else what the retry policy says.
#[derive(Clone, Debug)]
pub struct Retrying(RetryPolicy);

impl Retrying {
    /// By a policy.
    pub fn new(policy: RetryPolicy) -> Self {
        Self(policy)
    }
}

impl ElectFilter for Retrying {
    fn elect(&self, ended: &Ended<'_>, next: &mut Election) {
        let Some(failure) = ended.failure() else { return };
        let ending = match (failure.advice(), self.0.next(ended.failures(), random_fraction())) {
            (Some(Advice::Snooze(delay)), _) => Ending::Snoozed { delay: bounded(delay) },
            (Some(Advice::Permanent), _) => Ending::Failed(Reason::Permanent),
            (_, RetryDecision::GiveUp) => Ending::Failed(Reason::OutOfAttempts),
            (Some(Advice::RetryAfter(delay)), _) => Ending::Retry { delay: bounded(delay) },
            (None, RetryDecision::RetryAfter(delay)) => Ending::Retry { delay },
        };
        next.change(ending);
    }
}

/// Asks the filters one after the other.
pub(crate) fn elect<'a>(
    filters: impl IntoIterator<Item = &'a dyn ElectFilter>,
    ended: &Ended<'_>,
    mut election: Election,
) -> Election {
    for filter in filters {
        let mut next = election.clone();
        let asked = std::panic::catch_unwind(AssertUnwindSafe(|| filter.elect(ended, &mut next)));
        match asked {
            Ok(()) => election = next,
            Err(_) => {
                tracing::error!(job = %ended.context.id(), "a filter panicked, its say does not count");
            }
        }
    }
    election
}

/// The filters that a server, or a set of jobs, is laid round with.
#[derive(Clone, Default)]
pub(crate) struct Filters {
    pub(crate) perform: Vec<Arc<dyn PerformFilter>>,
    pub(crate) elect: Vec<Arc<dyn ElectFilter>>,
}

impl std::fmt::Debug for Filters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Filters({} round runs, {} of elections)", self.perform.len(), self.elect.len())
    }
}
