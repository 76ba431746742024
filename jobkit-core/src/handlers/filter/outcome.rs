//! The hook that decides what follows from the end of a run.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use crate::handlers::context::JobContext;
use crate::jobs::outcome::{Failure, Retry};
use crate::model::bounds::LOG_LINE_BYTES;
use crate::model::clock::Timestamp;
use crate::model::failure::cleaned;
use crate::model::ids::random_fraction;
use crate::model::retry::{RetryDecision, RetryPolicy};
use crate::model::state::{Reason, Retention};
use crate::model::state_machine::Ending;
use crate::storage::{LogLevel, LogLine};

/// Decides what follows from the end of a run, before it is settled.
///
/// Asked in this order: [`Retrying`] with the job's policy, the filters of its
/// [`Jobs`](crate::Jobs), the filters of the server; each sees what those before it decided. Not asked
/// where the end is not the handler's: a shutdown, a lost lease, a job that was cancelled. Called on
/// the dispatcher's task, so it must be quick; after a panic in a filter its decision does not count.
///
/// # Example: a retry policy of one's own
/// ```
/// use std::time::Duration;
/// use jobkit::filter::{OutcomeFilter, Decision, Ended};
///
/// struct AtNightOnly;
///
/// impl OutcomeFilter for AtNightOnly {
///     fn decide(&self, ended: &Ended<'_>, next: &mut Decision) {
///         if ended.failure().is_some_and(|failure| failure.text().contains("quota")) {
///             next.retry_after(Duration::from_secs(8 * 3600));
///         }
///     }
/// }
/// ```
pub trait OutcomeFilter: Send + Sync + 'static {
    /// Looks at the end, and changes what follows.
    fn decide(&self, ended: &Ended<'_>, next: &mut Decision);
}

impl<F: Fn(&Ended<'_>, &mut Decision) + Send + Sync + 'static> OutcomeFilter for F {
    fn decide(&self, ended: &Ended<'_>, next: &mut Decision) {
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

/// What follows from the end of a run: decided by filters, settled in one step.
#[derive(Clone, Debug)]
pub struct Decision {
    pub(crate) ending: Ending,
    pub(crate) retention: Retention,
    pub(crate) lines: Vec<LogLine>,
    now: Timestamp,
}

impl Decision {
    pub(crate) fn new(ending: Ending, retention: Retention, now: Timestamp) -> Self {
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
        let text = cleaned(text.as_ref(), LOG_LINE_BYTES);
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

/// The first filter of every decision: what an error advises, else what the retry policy says.
#[derive(Clone, Debug)]
pub struct Retrying(RetryPolicy);

impl Retrying {
    /// By a policy.
    pub fn new(policy: RetryPolicy) -> Self {
        Self(policy)
    }
}

impl OutcomeFilter for Retrying {
    fn decide(&self, ended: &Ended<'_>, next: &mut Decision) {
        let Some(failure) = ended.failure() else { return };
        let ending = match (failure.advice(), self.0.next(ended.failures(), random_fraction())) {
            (Retry::Snooze(delay), _) => Ending::Snoozed { delay: bounded(delay) },
            (Retry::Permanent, _) => Ending::Failed(Reason::Permanent),
            (_, RetryDecision::GiveUp) => Ending::Failed(Reason::OutOfAttempts),
            (Retry::After(delay), _) => Ending::Retry { delay: bounded(delay) },
            (Retry::ByPolicy, RetryDecision::RetryAfter(delay)) => Ending::Retry { delay },
        };
        next.change(ending);
    }
}

/// Asks the filters one after the other.
pub(crate) fn decide<'a>(
    filters: impl IntoIterator<Item = &'a dyn OutcomeFilter>,
    ended: &Ended<'_>,
    mut decision: Decision,
) -> Decision {
    for filter in filters {
        let mut next = decision.clone();
        let asked = std::panic::catch_unwind(AssertUnwindSafe(|| filter.decide(ended, &mut next)));
        match asked {
            Ok(()) => decision = next,
            Err(_) => {
                tracing::error!(job = %ended.context.id(), "filter panicked, ignoring its decision");
            }
        }
    }
    decision
}
