//! Jobs as JSON, with what nobody may see taken out. Everything that shows a job goes through here.

use std::collections::BTreeMap;
use std::time::Duration;

use jobkit_core::codec::Place;
use jobkit_core::record::{AttemptError, HistoryEntry, JobDetails, JobRecord, Payload, shown_args};
use jobkit_core::recurring::{Pause, RecurringSpec};
use jobkit_core::redact::{hide_in_text, hide_secrets};
use jobkit_core::search::JobFilter;
use jobkit_core::state::{Reason, State, StateName};
use jobkit_core::storage::Storage;
use jobkit_core::{Client, JobId, Timestamp};
use serde_json::{Value, json};

use super::console::Tone;
use super::{Done, Stop};

pub(super) fn instant(at: Timestamp) -> Value {
    Value::String(at.to_string())
}

pub(super) fn maybe(at: Option<Timestamp>) -> Value {
    at.map_or(Value::Null, instant)
}

/// Milliseconds, to the microsecond.
pub(super) fn millis(length: Duration) -> Value {
    json!(length.as_secs_f64() * 1000.0)
}

pub(super) fn text(text: &str) -> Value {
    Value::String(hide_in_text(text))
}

/// Hides secrets by name, and those that texts tell.
pub(super) fn redacted(mut value: Value) -> Value {
    fn texts(value: &mut Value) {
        match value {
            Value::String(text) => *text = hide_in_text(text),
            Value::Array(values) => values.iter_mut().for_each(texts),
            Value::Object(fields) => fields.values_mut().for_each(texts),
            _ => {}
        }
    }
    hide_secrets(&mut value);
    texts(&mut value);
    value
}

pub(super) fn pause(pause: Option<&Pause>) -> Value {
    pause.map_or(Value::Null, |pause| {
        json!({
            "since": instant(pause.since),
            "by": text(&pause.by),
            "reason": text(&pause.reason),
            "until": maybe(pause.until),
        })
    })
}

/// The reasons for the states of jobs, where they are still stored.
pub(super) async fn reasons(storage: &dyn Storage, ids: &[JobId]) -> Done<BTreeMap<JobId, Reason>> {
    if ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    let records = storage.jobs(ids).await?.into_iter().flatten();
    Ok(records.map(|job| (job.id, job.head.reason)).collect())
}

/// A job without its arguments.
pub(super) fn record(job: &JobRecord) -> Value {
    let hold = match &job.head.state {
        State::Processing(hold) => json!({
            "server": hold.server,
            "claimed_at": instant(hold.claimed_at),
            "expires_at": instant(hold.expires_at),
            "started": hold.started,
            "cancelling": hold.cancel.is_some(),
        }),
        _ => Value::Null,
    };
    let extras = job.extras.as_deref().cloned().unwrap_or_default();
    json!({
        "id": job.id,
        "sequence": job.sequence,
        "kind": job.kind,
        "display_name": extras.display_name.as_deref().map(hide_in_text),
        "queue": job.queue,
        "priority": job.priority,
        "state": job.state(),
        "reason": job.head.reason,
        "entered_at": instant(job.head.entered_at),
        "attempt": job.head.attempt(),
        "failures": job.head.failures,
        "crashes": job.head.crashes,
        "fence": job.head.fence,
        "version": job.head.version,
        "run_at": maybe(job.run_at()),
        "hold": hold,
        "created_at": instant(job.created_at),
        "enqueued_at": maybe(job.enqueued_at),
        "claimed_at": maybe(job.claimed_at),
        "duration_ms": job.duration.map(millis),
        "expires_at": maybe(job.expires_at),
        "start_by": maybe(job.start_by),
        "parked_at": job.parked_at.as_deref().map(hide_in_text),
        "tags": job.tags.iter().map(|tag| hide_in_text(tag)).collect::<Vec<_>>(),
        "unique": job.unique.as_ref().map(|unique| hide_in_text(&unique.key)),
        "limits": job.limits.iter().map(|limit| hide_in_text(&limit.name)).collect::<Vec<_>>(),
        "batch": job.batch,
        "parents": job.parents,
        "recurring": extras.occurrence.as_ref().map(|it| hide_in_text(&it.recurring)),
        "nominal_at": maybe(extras.occurrence.as_ref().map(|it| it.nominal_at)),
        "made_from": extras.made_from,
        "metadata": redacted(json!(extras.metadata)),
        "context": redacted(json!(extras.context)),
    })
}

/// The arguments as people may see them.
pub(super) fn args(client: &Client, job: &JobDetails) -> Value {
    let extras = job.record.extras.as_deref();
    shown(client.open_args(job), extras.map_or(&[], |extras| &extras.sensitive))
}

/// The arguments of a recurring job's jobs, likewise.
pub(super) fn recurring_args(client: &Client, spec: &RecurringSpec) -> Value {
    let stored = Payload::from(spec.job.args.get().as_bytes());
    let place = Place { owner: &spec.id, part: "args" };
    shown(client.codecs().open(place, &stored), &spec.job.extras.sensitive)
}

fn shown(opened: jobkit_core::Result<Payload>, sensitive: &[String]) -> Value {
    match opened {
        Ok(args) => shown_args(&args, sensitive).map_or_else(|| not_json(&args), redacted),
        Err(error) => sealed(&error),
    }
}

fn sealed(error: &jobkit_core::Error) -> Value {
    Value::String(format!("(sealed: {})", hide_in_text(&error.to_string())))
}

fn not_json(bytes: &Payload) -> Value {
    Value::String(format!("({} bytes, not JSON)", bytes.len()))
}

/// A result as people may see it.
pub(super) fn result(client: &Client, job: &JobDetails) -> Option<Value> {
    let stored: &Payload = job.result.as_ref()?;
    Some(match client.open_result(job.record.id, stored) {
        Ok(opened) => serde_json::from_slice(&opened).map_or_else(|_| not_json(&opened), redacted),
        Err(error) => sealed(&error),
    })
}

pub(super) fn history(entry: &HistoryEntry) -> Value {
    json!({
        "state": entry.state,
        "reason": entry.reason,
        "at": instant(entry.at),
        "fence": entry.fence,
        "server": entry.server,
        "duration_ms": entry.duration.map(millis),
        "run_at": maybe(entry.run_at),
        "actor": entry.actor.as_deref().map(hide_in_text),
    })
}

pub(super) fn error(error: &AttemptError) -> Value {
    let detail = &error.detail;
    json!({
        "fence": error.fence,
        "failures": error.failures,
        "at": instant(error.at),
        "error_type": text(&detail.error_type),
        "message": text(&detail.message),
        "chain": detail.chain.iter().map(|cause| hide_in_text(cause)).collect::<Vec<_>>(),
        "backtrace": detail.backtrace.as_deref().map(hide_in_text),
        "group": format!("{:?}", detail.fingerprint),
    })
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
