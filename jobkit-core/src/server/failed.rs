//! What is said when jobs fail: in the log, and to the application's hook.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::model::failure::ErrorDetail;
use crate::model::ids::JobId;
use crate::model::name::Name;
use crate::model::state::{Reason, StateName};
use crate::model::state_machine::Ending;
use crate::storage::{ClaimedJob, Settle, SettleAnswer};

/// A job that failed for good, as [`ServerBuilder::on_failed`](crate::ServerBuilder::on_failed) is given it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FailedJob {
    /// Its id.
    pub id: JobId,
    /// Its kind.
    pub kind: Name,
    /// The queue it ran in.
    pub queue: Name,
    /// Which attempt was the last, from 1.
    pub attempt: u32,
    /// Why it is Failed: most often [`Reason::Permanent`], or [`Reason::CrashLimit`] without an error.
    pub reason: Reason,
    /// What the storage keeps of the failure; `None` where its server vanished too often.
    pub error: Option<ErrorDetail>,
}

pub(crate) type OnFailed = Arc<dyn Fn(&FailedJob) + Send + Sync>;

/// What is called when a job failed for good.
#[derive(Clone, Default)]
pub(crate) struct Hooks(Vec<OnFailed>);

impl Hooks {
    pub(crate) fn add(&mut self, hook: OnFailed) {
        self.0.push(hook);
    }

    fn call(&self, job: &FailedJob) {
        for hook in &self.0 {
            // What an application does here must not stop its server.
            if catch_unwind(AssertUnwindSafe(|| hook(job))).is_err() {
                tracing::error!(job = %job.id, kind = %job.kind, "the on_failed hook panicked");
            }
        }
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} hooks", self.0.len())
    }
}

/// Whose outcome it is.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) kind: Name,
    queue: Name,
    attempt: u32,
}

impl Subject {
    pub(crate) fn of(job: &ClaimedJob) -> Self {
        let attempt = job.failures.saturating_add(1);
        Self { kind: job.kind.clone(), queue: job.queue.clone(), attempt }
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        let name = Name::from_stored("k");
        Self { kind: name.clone(), queue: name, attempt: 1 }
    }
}

/// Says what the storage has noted, once for each outcome, since each is dropped when it is answered.
///
/// The texts are those that the storage keeps, cleaned and bounded, and nothing of the arguments is added.
pub(super) fn settled(hooks: &Hooks, subject: &Subject, settle: &Settle, answer: &SettleAnswer) {
    let state = match answer {
        SettleAnswer::Settled(state) => Some(*state),
        // The answer was lost before, and with it the state.
        SettleAnswer::AlreadyApplied => None,
        SettleAnswer::LeaseLost | SettleAnswer::Refused(_) | SettleAnswer::Busy => return,
    };
    let Some(error) = &settle.error else { return };
    let (job, attempt) = (settle.lease.job, subject.attempt);
    let Subject { kind, queue, .. } = subject;
    let (error_type, message, chain) = (&error.error_type, &error.message, &error.chain);
    match settle.ending {
        Ending::Failed(reason) if state.is_none_or(|state| state == StateName::Failed) => {
            hooks.failed(&FailedJob {
                id: job,
                kind: kind.clone(),
                queue: queue.clone(),
                attempt,
                reason,
                error: Some(error.clone()),
            });
        }
        Ending::Retry { delay } if state != Some(StateName::Deleted) => {
            let delay = Shortly(delay);
            tracing::warn!(%job, %kind, %queue, attempt, error_type, error = %message, ?chain, "job failed, retrying in {delay}");
        }
        // It was asked to stop, and did; or its batch was cancelled.
        Ending::Failed(_) | Ending::Retry { .. } | Ending::Deleted(Reason::Cancelled) => {
            tracing::debug!(%job, %kind, %queue, attempt, error_type, error = %message, ?chain, "cancelled job failed");
        }
        Ending::Deleted(_) => {
            tracing::info!(%job, %kind, %queue, attempt, error_type, error = %message, ?chain, "job failed, and a filter deleted it");
        }
        Ending::Succeeded | Ending::Snoozed { .. } | Ending::GivenBack => {}
    }
}

impl Hooks {
    pub(super) fn failed(&self, failed: &FailedJob) {
        let FailedJob { id: job, kind, queue, attempt, .. } = failed;
        let reason = failed.reason.as_str();
        match &failed.error {
            Some(ErrorDetail { error_type, message, chain, .. }) => {
                tracing::error!(%job, %kind, %queue, attempt, reason, error_type, error = %message, ?chain, "job failed for good");
            }
            None => tracing::error!(%job, %kind, %queue, attempt, reason, "job failed for good"),
        }
        self.call(failed);
    }
}

/// A length as people say it: `16 s`, `250 ms`, `1.5 h`.
struct Shortly(Duration);

impl fmt::Display for Shortly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        let tenths = |f: &mut fmt::Formatter<'_>, value: f64, unit: &str| {
            let value = (value * 10.0).round() / 10.0;
            write!(f, "{value} {unit}")
        };
        match self.0.as_secs() {
            0 => write!(f, "{} ms", self.0.as_millis()),
            1..120 => write!(f, "{} s", seconds.round()),
            120..7_200 => tenths(f, seconds / 60.0, "min"),
            7_200..172_800 => tenths(f, seconds / 3_600.0, "h"),
            _ => tenths(f, seconds / 86_400.0, "d"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_written_as_people_say_it() {
        let said = |millis| Shortly(Duration::from_millis(millis)).to_string();
        assert_eq!([said(0), said(250), said(16_200)], ["0 ms", "250 ms", "16 s"]);
        assert_eq!([said(150_000), said(5_400_000)], ["2.5 min", "90 min"]);
        assert_eq!([said(9_000_000), said(400_000_000)], ["2.5 h", "4.6 d"]);
    }
}
