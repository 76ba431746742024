//! Jobs as JSON, with the secrets taken out, and what else commands show of them.

use std::collections::BTreeMap;

use jobkit_core::JobId;
use jobkit_core::bounds::MAX_STEP_ITEMS;
use jobkit_core::redact::hide_in_text;
use jobkit_core::search::JobFilter;
use jobkit_core::state::{Reason, StateName};
use jobkit_core::storage::Storage;
pub(super) use jobkit_core::view::{
    args, error, job, log, millis, pause, record, recurring_args, redacted, result, time,
    time_or_null,
};

use super::console::Tone;
use super::{Done, Stop};

/// The reasons for the states of jobs, where they are still stored.
pub(super) async fn reasons(storage: &dyn Storage, ids: &[JobId]) -> Done<BTreeMap<JobId, Reason>> {
    let mut reasons = BTreeMap::new();
    for ids in ids.chunks(storage.capabilities().items_of(MAX_STEP_ITEMS)) {
        let records = storage.jobs(ids).await?.into_iter().flatten();
        reasons.extend(records.map(|job| (job.id, job.head.reason)));
    }
    Ok(reasons)
}

/// A filter, or where it is wrong.
pub(super) fn filter(text: &str) -> Done<JobFilter> {
    text.parse().map_err(|error: jobkit_core::Error| {
        let words = error.message().to_owned();
        let column = words.split("at column ").nth(1).and_then(|rest| {
            rest.split(':').next().and_then(|column| column.parse::<usize>().ok())
        });
        match column {
            // The filter may hold a value that it should not.
            Some(column) if hide_in_text(text) == text => Stop::Usage(format!(
                "{words}\n  {text}\n  {}^",
                " ".repeat(column.saturating_sub(1))
            )),
            _ => Stop::Usage(words),
        }
    })
}

/// Which tone a state has.
pub(super) const fn tone(state: StateName) -> Tone {
    match state {
        StateName::Succeeded => Tone::Good,
        StateName::Failed => Tone::Bad,
        StateName::Processing => Tone::Warning,
        StateName::Deleted => Tone::Quiet,
        _ => Tone::Plain,
    }
}
