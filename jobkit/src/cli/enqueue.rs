//! `enqueue`: a job by the name of its kind.

use std::io::Read;

use jobkit_core::record::JobDetails;
use jobkit_core::storage::JobSubmitted;
use jobkit_core::{Client, Error, MemoryStorage, job_by_name};
use serde_json::{Map, Value, json};

use super::args::Enqueue;
use super::{Context, Done, Stop};

pub(super) async fn run(context: &mut Context<'_, '_>, args: &Enqueue) -> Done {
    let given = arguments(&args.args)?;
    if let Some(reason) = misfit(context, &args.kind, &given).await? {
        return Err(Stop::Usage(format!("the arguments do not fit: {reason}")));
    }
    let mut job = job_by_name(&args.kind, &given)?;
    if let Some(queue) = &args.queue {
        job = job.queue(queue);
    }
    if let Some(priority) = args.priority {
        job = job.priority(priority);
    }
    if let Some(delay) = args.delay {
        job = job.delay(delay);
    }
    if let Some(at) = args.at {
        job = job.at(at);
    }
    job = job.tags(args.tags.iter().cloned());
    if let Some(key) = &args.unique {
        job = job.unique(key);
    }
    let handle = context.client.enqueue(job).await?;
    let (id, what, state) = match handle.submitted() {
        JobSubmitted::Created(state) => (handle.id(), "created", Some(state)),
        JobSubmitted::Already(state) => (handle.id(), "already", Some(state)),
        JobSubmitted::Existing(id) => (id, "existing", None),
    };
    let words = match state {
        Some(state) => format!("{id}: {state}"),
        None => format!("{id}: holds the unique key, and stands in its place"),
    };
    context.done(&words, &json!({ "id": id, "submitted": what, "state": state }))
}

fn arguments(text: &str) -> Done<Map<String, Value>> {
    let mut read = String::new();
    let text = if text == "-" {
        std::io::stdin().read_to_string(&mut read).map_err(|error| {
            Stop::Usage(format!("the arguments cannot be read from standard input: {error}"))
        })?;
        read.as_str()
    } else {
        text
    };
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(Stop::Usage("the arguments are no JSON object".to_owned())),
        // The reason tells a place, and no text.
        Err(error) => Err(Stop::Usage(format!("the arguments are not JSON: {error}"))),
    }
}

/// Whether the application's job of this kind would take them: found out on a storage of its own, which
/// nobody serves.
async fn misfit(
    context: &Context<'_, '_>,
    kind: &str,
    args: &Map<String, Value>,
) -> Done<Option<String>> {
    let Some(jobs) = &context.jobs else { return Ok(None) };
    let scratch = Client::new(MemoryStorage::new());
    let id = scratch.enqueue(job_by_name(kind, args)?).await?.id();
    let job: Option<JobDetails> = scratch.job(id).await?;
    let job = job.ok_or_else(|| Error::corrupt("a job in memory is gone"))?;
    Ok(jobs.check_job(&scratch, &job).map(|misfit| match misfit.field {
        Some(field) => format!("argument `{field}`: {}", misfit.reason),
        None => misfit.reason,
    }))
}
