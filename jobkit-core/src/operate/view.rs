//! Jobs as JSON, with the secrets taken out: what the command line prints, and a dashboard shows.
//!
//! Sensitive arguments read `(hidden)`, and so do values whose names say that they are secrets, wherever
//! they stand; texts lose the secrets that they show, see [`redact`](crate::redact). Times are RFC 3339,
//! and durations are milliseconds under names that end in `_ms`.
//!
//! # Example: a page that shows a job
//! ```
//! use jobkit::ops::view;
//! use jobkit::{Client, MemoryStorage, job_by_name};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> jobkit::Result<()> {
//! let client = Client::new(MemoryStorage::new());
//! let args = [("user".into(), 7.into()), ("password".into(), "hunter2".into())].into_iter().collect();
//! let id = client.enqueue(job_by_name("sign_in", &args)?).await?.id();
//! if let Some(job) = client.job(id).await? {
//!     let shown = view::job(&client, &job);
//!     assert_eq!(shown["state"], "enqueued");
//!     assert_eq!(shown["args"]["user"], 7);
//!     assert_eq!(shown["args"]["password"], "(hidden)");
//! }
//! # Ok(())
//! # }
//! ```

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::Client;
use crate::jobs::codec::Place;
use crate::model::clock::Timestamp;
use crate::model::error::{Error, Result};
use crate::model::record::{
    AttemptError, HistoryEntry, JobDetails, JobRecord, Payload, shown_args,
};
use crate::model::recurring::{Pause, RecurringSpec};
use crate::model::redact::{hide_in_text, hide_secrets};
use crate::model::state::State;
use crate::storage::{LogLine, LogPage};

/// A time, in RFC 3339.
pub fn time(at: Timestamp) -> Value {
    Value::String(at.to_string())
}

/// A time, or `null`.
pub fn time_or_null(at: Option<Timestamp>) -> Value {
    at.map_or(Value::Null, time)
}

/// A duration in milliseconds, to the microsecond.
pub fn millis(duration: Duration) -> Value {
    json!(duration.as_secs_f64() * 1000.0)
}

/// A text, with the secrets hidden that it shows.
pub fn text(text: &str) -> Value {
    Value::String(hide_in_text(text))
}

/// Hides the values whose names say that they are secrets, and the secrets that texts show.
pub fn redacted(mut value: Value) -> Value {
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

/// A pause: since when and until when, by whom and why; `null` for none.
pub fn pause(pause: Option<&Pause>) -> Value {
    pause.map_or(Value::Null, |pause| {
        json!({
            "since": time(pause.since),
            "by": text(&pause.by),
            "reason": text(&pause.reason),
            "until": time_or_null(pause.until),
        })
    })
}

/// All that the storage keeps of a job, except its log, memos and checkpoint: [`record`], [`args`], [`result`], its history, its
/// failed attempts and its progress.
pub fn job(client: &Client, job: &JobDetails) -> Value {
    let mut value = record(&job.record);
    value["args"] = args(client, job);
    value["result"] = json!(result(client, job));
    value["history"] = job.history.entries.iter().map(history).collect();
    value["history_dropped"] = json!(job.history.dropped);
    value["errors"] = job.errors.iter().map(error).collect();
    value["progress"] = redacted(json!(job.progress));
    value
}

/// A page of a job's log.
pub fn log(page: &LogPage) -> Value {
    let line = |(number, line): &(u64, LogLine)| json!({ "number": number, "at": time(line.at), "level": line.level, "text": text(&line.text) });
    let lines: Vec<_> = page.lines.iter().map(line).collect();
    json!({ "fence": page.fence, "dropped": page.dropped, "lines": lines })
}

/// A job without its arguments, its result and what its attempts left.
pub fn record(job: &JobRecord) -> Value {
    let hold = match &job.head.state {
        State::Processing(hold) => json!({
            "server": hold.server,
            "claimed_at": time(hold.claimed_at),
            "expires_at": time(hold.expires_at),
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
        "entered_at": time(job.head.entered_at),
        "attempt": job.head.attempt(),
        "failures": job.head.failures,
        "crashes": job.head.crashes,
        "fence": job.head.fence,
        "version": job.head.version,
        "run_at": time_or_null(job.run_at()),
        "hold": hold,
        "created_at": time(job.created_at),
        "enqueued_at": time_or_null(job.enqueued_at),
        "claimed_at": time_or_null(job.claimed_at),
        "duration_ms": job.duration.map(millis),
        "expires_at": time_or_null(job.expires_at),
        "start_by": time_or_null(job.start_by),
        "parked_at": job.parked_at.as_deref().map(hide_in_text),
        "tags": job.tags.iter().map(|tag| hide_in_text(tag)).collect::<Vec<_>>(),
        "unique": job.unique.as_ref().map(|unique| hide_in_text(&unique.key)),
        "limits": job.limits.iter().map(|limit| hide_in_text(&limit.name)).collect::<Vec<_>>(),
        "batch": job.batch,
        "parents": job.parents,
        "recurring": extras.occurrence.as_ref().map(|it| hide_in_text(&it.recurring)),
        "nominal_at": time_or_null(extras.occurrence.as_ref().map(|it| it.nominal_at)),
        "made_from": extras.made_from,
        "metadata": redacted(json!(extras.metadata)),
        "context": redacted(json!(extras.context)),
    })
}

/// The arguments, opened by the client's codecs: sensitive ones read `(hidden)`.
pub fn args(client: &Client, job: &JobDetails) -> Value {
    let extras = job.record.extras.as_deref();
    shown(client.open_args(job), extras.map_or(&[], |extras| &extras.sensitive))
}

/// The arguments of a recurring job's jobs, shown like those of a job.
pub fn recurring_args(client: &Client, spec: &RecurringSpec) -> Value {
    let stored = Payload::from(spec.job.args.get().as_bytes());
    let place = Place { owner: &spec.id, part: "args" };
    shown(client.codecs().open(place, &stored), &spec.job.extras.sensitive)
}

fn shown(opened: Result<Payload>, sensitive: &[String]) -> Value {
    match opened {
        Ok(args) => shown_args(&args, sensitive).map_or_else(|| not_json(&args), redacted),
        Err(error) => sealed(&error),
    }
}

fn sealed(error: &Error) -> Value {
    Value::String(format!("(sealed: {})", hide_in_text(&error.to_string())))
}

fn not_json(bytes: &Payload) -> Value {
    Value::String(format!("({} bytes, not JSON)", bytes.len()))
}

/// The result, opened by the client's codecs; `None` for a job without one.
pub fn result(client: &Client, job: &JobDetails) -> Option<Value> {
    let stored: &Payload = job.result.as_ref()?;
    Some(match client.open_result(job.record.id, stored) {
        Ok(opened) => serde_json::from_slice(&opened).map_or_else(|_| not_json(&opened), redacted),
        Err(error) => sealed(&error),
    })
}

/// An entry of a job's history.
pub fn history(entry: &HistoryEntry) -> Value {
    json!({
        "state": entry.state,
        "reason": entry.reason,
        "at": time(entry.at),
        "fence": entry.fence,
        "server": entry.server,
        "duration_ms": entry.duration.map(millis),
        "run_at": time_or_null(entry.run_at),
        "actor": entry.actor.as_deref().map(hide_in_text),
    })
}

/// A failed attempt.
pub fn error(error: &AttemptError) -> Value {
    let detail = &error.detail;
    json!({
        "fence": error.fence,
        "failures": error.failures,
        "at": time(error.at),
        "error_type": text(&detail.error_type),
        "message": text(&detail.message),
        "chain": detail.chain.iter().map(|cause| hide_in_text(cause)).collect::<Vec<_>>(),
        "backtrace": detail.backtrace.as_deref().map(hide_in_text),
        "group": format!("{:?}", detail.fingerprint),
    })
}
