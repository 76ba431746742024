//! What the end of an attempt means: how it is settled.

use std::time::Duration;

use crate::bounds;
use crate::ids::random_fraction;
use crate::jobs::{Kind, RunEnd};
use crate::outcome::{Advice, Failure};
use crate::record::{Extras, Overrides};
use crate::retry::{RetryDecision, RetryPolicy};
use crate::server::executor::{End, How};
use crate::server::held::StopCause;
use crate::server::options::ServerOptions;
use crate::state::{Reason, Retention};
use crate::state_machine::Ending;
use crate::storage::Settle;

/// The settle of an end; `None` where nobody may settle any more.
pub(super) fn settle_of(end: End, kind: Option<&Kind>, options: &ServerOptions) -> Option<Settle> {
    let no_overrides = Overrides::default();
    let overrides = end.job.extras.as_deref().map_or(&no_overrides, |extras| &extras.overrides);
    let policy = policy(overrides, kind, options);
    let retention = retention(end.job.extras.as_deref(), kind, options);
    let mut settle = Settle::new(end.job.lease, Ending::GivenBack);
    settle.retention = retention;
    if !matches!(end.how, How::NotStarted) {
        settle.duration = Some(end.duration);
    }
    let failure = match (end.how, end.cause) {
        (How::NotStarted, _) => None,
        (How::Ran(RunEnd::Done(result)), _) => match result {
            Some(result) if result.len() > options.max_result_bytes => {
                let text = format!(
                    "the result has {} bytes, where at most {} are kept",
                    result.len(),
                    options.max_result_bytes
                );
                settle.ending = Ending::Failed(Reason::ResultTooLarge);
                Some(Failure::message("ResultTooLarge", text))
            }
            result => {
                settle.ending = Ending::Succeeded;
                settle.result = result;
                None
            }
        },
        // Success is told even so: the storage decides. Nothing else of a lost attempt counts.
        (_, Some(StopCause::LeaseLost)) => return None,
        // What ends because the server shuts down, or may have lost its lease, has not failed.
        (_, Some(StopCause::Shutdown | StopCause::LeaseUnsure)) => None,
        (How::Ran(RunEnd::BadArguments(failure)), _) => {
            settle.ending = Ending::Failed(Reason::BadArguments);
            Some(failure)
        }
        (How::Ran(RunEnd::BadOutput(failure)), _) => {
            settle.ending = Ending::Failed(Reason::Permanent);
            Some(failure)
        }
        (how, Some(StopCause::Requested)) => {
            settle.ending = Ending::Deleted(Reason::Cancelled);
            match how {
                How::Ran(RunEnd::Failed(failure) | RunEnd::Panicked(failure)) => Some(failure),
                _ => None,
            }
        }
        (How::Dropped, _) => {
            let text =
                "the handler ignored its cancellation after its time was up, and was dropped";
            Some(failed(&mut settle, Failure::message("timeout", text), &policy, end.job.failures))
        }
        (How::Ran(RunEnd::Failed(failure)), Some(StopCause::TimedOut)) => {
            let text = format!("time was up: {}", failure.text());
            Some(failed(&mut settle, Failure::message("timeout", text), &policy, end.job.failures))
        }
        (How::Ran(RunEnd::Failed(failure) | RunEnd::Panicked(failure)), _) => {
            Some(failed(&mut settle, failure, &policy, end.job.failures))
        }
    };
    settle.error = failure.map(|failure| failure.into_detail(&end.job.kind));
    if let Some(told) = end.context.as_ref().and_then(|context| context.take_told()) {
        settle.log = told.lines;
        settle.log_dropped = told.dropped;
        settle.progress = told.progress;
    }
    Some(settle)
}

/// Sets the ending that a failure leads to.
fn failed(settle: &mut Settle, failure: Failure, policy: &RetryPolicy, failures: u32) -> Failure {
    let failures = failures.saturating_add(1);
    settle.ending = match (failure.advice(), policy.next(failures, random_fraction())) {
        (Some(Advice::Snooze(delay)), _) => Ending::Snoozed { delay: bounded(delay) },
        (Some(Advice::Permanent), _) => Ending::Failed(Reason::Permanent),
        (_, RetryDecision::GiveUp) => Ending::Failed(Reason::OutOfAttempts),
        (Some(Advice::RetryAfter(delay)), _) => Ending::Retry { delay: bounded(delay) },
        (None, RetryDecision::RetryAfter(delay)) => Ending::Retry { delay },
    };
    failure
}

/// A delay that a handler chose: at most a year.
fn bounded(delay: Duration) -> Duration {
    delay.min(Duration::from_secs(365 * 24 * 3600))
}

fn policy(overrides: &Overrides, kind: Option<&Kind>, options: &ServerOptions) -> RetryPolicy {
    let kind = kind.map(|kind| &kind.options);
    let policy = overrides.retry.clone().or_else(|| kind.and_then(|kind| kind.retry.clone()));
    let attempts = overrides
        .max_attempts
        // A policy of the job's own goes before the kind's number.
        .or_else(|| {
            if overrides.retry.is_some() { None } else { kind.and_then(|kind| kind.max_attempts) }
        });
    let policy = policy.unwrap_or_else(|| options.retry.clone());
    match attempts {
        Some(attempts) => policy.max_attempts(attempts),
        None => policy,
    }
}

/// How long a job is kept once finished: as the job says, else its kind, else the server.
pub(super) fn retention(
    extras: Option<&Extras>,
    kind: Option<&Kind>,
    options: &ServerOptions,
) -> Retention {
    extras
        .and_then(|extras| extras.overrides.retention)
        .or_else(|| kind.and_then(|kind| kind.options.retention))
        .unwrap_or(options.retention)
}

/// What is settled where the storage refuses what came with an outcome: a failure that says so.
pub(super) fn refused(settle: &Settle, kind: &str, reason: &dyn std::fmt::Display) -> Settle {
    let failure =
        Failure::message("Refused", format!("the storage cannot keep the outcome: {reason}"));
    Settle {
        retention: settle.retention,
        duration: settle.duration,
        error: Some(failure.into_detail(kind)),
        ..Settle::new(settle.lease, Ending::Failed(Reason::Permanent))
    }
}

const _: () = assert!(bounds::STEP_ITEMS <= bounds::MAX_STEP_ITEMS);
