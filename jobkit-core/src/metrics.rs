//! Metrics, through the facade of the crate [`metrics`](https://docs.rs/metrics): whatever recorder the
//! application installs gets them; without one they cost a look at a static.
//!
//! | name | kind | labels | what |
//! |---|---|---|---|
//! | `jobkit_jobs_submitted_total` | counter | `kind` | jobs this process's clients had accepted, repetitions included |
//! | `jobkit_submit_seconds` | histogram | | how long an accepted submission took, retries included |
//! | `jobkit_attempts_total` | counter | `kind`, `queue`, `outcome` | ends of attempts on this process's servers |
//! | `jobkit_attempt_seconds` | histogram | `kind`, `queue` | how long handlers ran |
//! | `jobkit_wait_seconds` | histogram | `kind`, `queue` | from claimable to claimed, by the storage's clock |
//! | `jobkit_jobs_running` | gauge | `server` | handlers that run |
//! | `jobkit_workers` | gauge | `server` | how many may |
//! | `jobkit_health_problems` | gauge | `server` | parts that do not work; zero is well |
//!
//! `outcome` is `succeeded`, `failed` (for good), `retried`, `snoozed`, `deleted` or `given_back`. Kinds
//! and queues are names of the program, never data, so their number is bounded.
//!
//! What is the same for all processes, such as queue lengths, is in
//! [`Monitoring::snapshot`](crate::storage::Monitoring::snapshot): read it in one place.
//!
//! # Example: a Prometheus exporter of the application's choice
//! ```
//! # fn install_a_recorder() {}
//! // For instance `PrometheusBuilder::new().install()?` of metrics-exporter-prometheus.
//! install_a_recorder();
//! // Servers and clients need nothing else.
//! ```

use std::time::Duration;

use crate::model::state_machine::Ending;
use crate::storage::{ClaimedJob, Settle, Submission};

pub(crate) fn submitted(submission: &Submission, took: Duration) {
    #[cfg(feature = "metrics")]
    {
        ::metrics::histogram!("jobkit_submit_seconds").record(took);
        for job in &submission.jobs {
            let kind = job.kind.to_string();
            ::metrics::counter!("jobkit_jobs_submitted_total", "kind" => kind).increment(1);
        }
    }
    #[cfg(not(feature = "metrics"))]
    let _ = (submission, took);
}

pub(crate) fn ended(job: &ClaimedJob, settle: &Settle) {
    #[cfg(feature = "metrics")]
    {
        let (kind, queue) = (job.kind.to_string(), job.queue.to_string());
        let labels = [("kind", kind), ("queue", queue)];
        if let Some(duration) = settle.duration {
            ::metrics::histogram!("jobkit_attempt_seconds", &labels).record(duration);
            let wait = job.claimed_at.since(job.enqueued_at);
            ::metrics::histogram!("jobkit_wait_seconds", &labels).record(wait);
        }
        let [kind, queue] = labels;
        let labels = [kind, queue, ("outcome", outcome(settle.ending).to_owned())];
        ::metrics::counter!("jobkit_attempts_total", &labels).increment(1);
    }
    #[cfg(not(feature = "metrics"))]
    let _ = (job, settle.ending, outcome(Ending::GivenBack));
}

const fn outcome(ending: Ending) -> &'static str {
    match ending {
        Ending::Succeeded => "succeeded",
        Ending::Failed(_) => "failed",
        Ending::Retry { .. } => "retried",
        Ending::Snoozed { .. } => "snoozed",
        Ending::Deleted(_) => "deleted",
        Ending::GivenBack => "given_back",
    }
}

/// A server, at every heartbeat.
pub(crate) fn server(name: &str, workers: usize, running: usize, problems: usize) {
    #[cfg(feature = "metrics")]
    {
        let gauge = |metric: &'static str, value: usize| {
            let value = f64::from(u32::try_from(value).unwrap_or(u32::MAX));
            ::metrics::gauge!(metric, "server" => name.to_owned()).set(value);
        };
        gauge("jobkit_workers", workers);
        gauge("jobkit_jobs_running", running);
        gauge("jobkit_health_problems", problems);
    }
    #[cfg(not(feature = "metrics"))]
    let _ = (name, workers, running, problems);
}
