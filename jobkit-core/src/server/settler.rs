//! What the end of an attempt means: how it is settled.

use crate::handlers::filter::{self, Decision, Ended, OutcomeFilter, Retrying};
use crate::handlers::registry::Kind;
use crate::handlers::run::RunEnd;
use crate::jobs::outcome::Failure;
use crate::metrics;
use crate::model::bounds;
use crate::model::record::Overrides;
use crate::model::retry::RetryPolicy;
use crate::model::state::Reason;
use crate::model::state_machine::Ending;
use crate::server::engine::Engine;
use crate::server::executor::{End, How};
use crate::server::held::StopCause;
use crate::server::options::ServerOptions;
use crate::storage::{ClaimedJob, Settle};

/// The settle of an end; `None` where nobody may settle any more.
pub(super) fn settle_of(end: End, kind: Option<&Kind>, engine: &Engine) -> Option<Settle> {
    let options = &engine.options;
    let mut settle = Settle::new(end.job.lease, Ending::GivenBack);
    settle.retention = options.retention_of(end.job.extras.as_deref(), kind);
    if !matches!(end.how, How::NotStarted) {
        settle.duration = Some(end.duration);
    }
    let mut skipped = None;
    // Whether the end is the handler's own, so that filters have a say in what follows.
    let mut elects = true;
    let failure = match (end.how, end.cause) {
        (How::NotStarted, _) => {
            elects = false;
            None
        }
        (How::Ran(RunEnd::Done(result)), _) => match result {
            Some(result) if result.len() > options.max_result_bytes => {
                let text = format!(
                    "the result has {} bytes, where at most {} are kept",
                    result.len(),
                    options.max_result_bytes
                );
                settle.ending = Ending::Failed(Reason::ResultTooLarge);
                elects = false;
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
        (_, Some(StopCause::Shutdown | StopCause::LeaseUnsure)) => {
            elects = false;
            None
        }
        (How::Ran(RunEnd::BadArguments(failure)), _) => {
            settle.ending = Ending::Failed(Reason::BadArguments);
            elects = false;
            Some(failure)
        }
        (How::Ran(RunEnd::BadOutput(failure)), _) => {
            settle.ending = Ending::Failed(Reason::Permanent);
            elects = false;
            Some(failure)
        }
        (how, Some(StopCause::Requested)) => {
            settle.ending = Ending::Deleted(Reason::Cancelled);
            elects = false;
            match how {
                How::Ran(RunEnd::Failed(failure) | RunEnd::Panicked(failure)) => Some(failure),
                _ => None,
            }
        }
        (How::Ran(RunEnd::Skipped(why)), _) => {
            settle.ending = Ending::Deleted(Reason::Skipped);
            skipped = Some(why);
            None
        }
        (How::Dropped, _) => {
            settle.ending = Ending::Failed(Reason::Permanent);
            let text =
                "the handler ignored its cancellation after its time was up, and was dropped";
            Some(Failure::message("timeout", text))
        }
        (How::Ran(RunEnd::Failed(failure)), Some(StopCause::TimedOut)) => {
            settle.ending = Ending::Failed(Reason::Permanent);
            Some(failure.timed_out())
        }
        (How::Ran(RunEnd::Failed(failure) | RunEnd::Panicked(failure)), _) => {
            settle.ending = Ending::Failed(Reason::Permanent);
            Some(failure)
        }
    };
    if let Some(told) = end.context.as_ref().and_then(|context| context.take_told()) {
        settle.log = told.lines;
        settle.log_dropped = told.dropped;
        settle.progress = told.progress;
    }
    let of_kind = kind.map(|kind| kind.filters.outcome.as_slice()).unwrap_or_default();
    let asked = !of_kind.is_empty() || !engine.filters.outcome.is_empty();
    // Most jobs just succeed, and nobody has anything to say.
    elects &= asked || failure.is_some() || skipped.is_some();
    if let Some(context) = end.context.as_ref().filter(|_| elects) {
        let ended = Ended {
            context,
            failure: failure.as_ref(),
            failures: end.job.failures.saturating_add(u32::from(failure.is_some())),
            duration: end.duration,
        };
        let now = engine.client.clock_now();
        let mut decision = Decision::new(settle.ending, settle.retention, now);
        if let Some(why) = skipped {
            decision.note(why);
        }
        let decision = decided(&ended, decision, &end.job, kind, engine);
        settle.ending = decision.ending;
        settle.retention = decision.retention;
        settle.log.extend(decision.lines);
        let over = settle.log.len().saturating_sub(bounds::LOG_LINES);
        settle.log.drain(..over);
        settle.log_dropped += over as u64;
    }
    settle.error = failure.map(|failure| failure.into_detail(&end.job.kind));
    metrics::ended(&end.job, &settle);
    Some(settle)
}

/// Asks the retry policy and all filters what follows.
fn decided(
    ended: &Ended<'_>,
    decision: Decision,
    job: &ClaimedJob,
    kind: Option<&Kind>,
    engine: &Engine,
) -> Decision {
    let of_kind = kind.map(|kind| kind.filters.outcome.as_slice()).unwrap_or_default();
    let others = of_kind.iter().chain(&engine.filters.outcome).map(AsRef::as_ref);
    if ended.failure.is_none() {
        return filter::decide(others, ended, decision);
    }
    let no_overrides = Overrides::default();
    let overrides = job.extras.as_deref().map_or(&no_overrides, |extras| &extras.overrides);
    let retrying = Retrying::new(policy(overrides, kind, &engine.options));
    let first: &dyn OutcomeFilter = &retrying;
    filter::decide(std::iter::once(first).chain(others), ended, decision)
}

fn policy(overrides: &Overrides, kind: Option<&Kind>, options: &ServerOptions) -> RetryPolicy {
    let kind = kind.map(|kind| &kind.options);
    let policy = overrides.retry.clone().or_else(|| kind.and_then(|kind| kind.retry.clone()));
    let attempts = overrides
        .max_attempts
        // A policy of the job's own takes precedence over the kind's number.
        .or_else(|| {
            if overrides.retry.is_some() { None } else { kind.and_then(|kind| kind.max_attempts) }
        });
    let policy = policy.unwrap_or_else(|| options.retry.clone());
    match attempts {
        Some(attempts) => policy.max_attempts(attempts),
        None => policy,
    }
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
