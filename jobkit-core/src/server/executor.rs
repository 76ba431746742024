//! Runs one job: its deadline, its cancellation, its panics.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::Instrument;

use crate::handlers::context::JobContext;
use crate::handlers::registry::Kind;
use crate::handlers::run::RunEnd;
use crate::jobs::outcome::Failure;
use crate::server::engine::Engine;
use crate::server::held::{Phase, Running, StopCause, Stopper, attempt};
use crate::storage::ClaimedJob;

/// How an attempt ended, before it is decided what to do.
#[derive(Debug)]
pub(super) struct End {
    pub(super) job: ClaimedJob,
    pub(super) how: How,
    pub(super) cause: Option<StopCause>,
    pub(super) duration: Duration,
    pub(super) context: Option<JobContext>,
    /// The worker it ran on had been replaced.
    pub(super) was_stuck: bool,
}

#[derive(Debug)]
pub(super) enum How {
    /// The handler ended.
    Ran(RunEnd),
    /// It ignored its cancellation and was dropped at its await point.
    Dropped,
    /// It was never started.
    NotStarted,
}

/// Starts a job in a task of its own; its end goes to `ends`.
pub(super) fn start(
    engine: &Arc<Engine>,
    kind: &Arc<Kind>,
    job: ClaimedJob,
    ends: mpsc::UnboundedSender<End>,
) {
    let stopper = Stopper::default();
    let overrides = job.extras.as_deref().map(|extras| &extras.overrides);
    let timeout = overrides
        .and_then(|overrides| overrides.timeout)
        .or(kind.options.timeout)
        .or(engine.options.timeout);
    let begun = Instant::now();
    // Too far away to be told from no deadline at all.
    let deadline = timeout.and_then(|timeout| begun.checked_add(timeout));
    let context = JobContext::new(
        &job,
        stopper.token.clone(),
        deadline,
        engine.options.retention_of(job.extras.as_deref(), Some(kind)),
        engine.client.clone(),
        Arc::clone(&engine.data),
        Arc::clone(&engine.signals.reporter),
    );
    if let Some(held) = engine.held.lock().jobs.get_mut(&attempt(&job.lease)) {
        held.started = true;
        held.phase = Phase::Running(Running {
            stopper: stopper.clone(),
            context: context.clone(),
            stuck: false,
            stop_asked_at: None,
        });
    }
    let span = tracing::info_span!(
        "job",
        id = %job.lease.job,
        kind = %job.kind,
        queue = %job.queue,
        attempt = job.failures + 1,
        fence = job.lease.fence,
        traceparent = tracing::field::Empty,
    );
    if !span.is_disabled() {
        span.record("traceparent", context.trace_parent());
    }
    let run = engine.perform(kind, &job, &context);
    let grace = engine.options.cancel_grace;
    let mut report = Report {
        engine: Arc::clone(engine),
        ends,
        begun,
        stopper: stopper.clone(),
        context: context.clone(),
        job: Some(job),
    };
    let task = async move {
        let run = context.clone().scope(run);
        let how = run_to_end(run, &context, &stopper, deadline, grace).await;
        report.end(how);
    };
    tokio::spawn(task.instrument(span));
}

/// Tells the dispatcher how an attempt ended, whatever happens to its task.
struct Report {
    engine: Arc<Engine>,
    ends: mpsc::UnboundedSender<End>,
    begun: Instant,
    stopper: Stopper,
    context: JobContext,
    job: Option<ClaimedJob>,
}

impl Report {
    fn end(&mut self, how: How) {
        let Some(job) = self.job.take() else { return };
        let was_stuck = end_of(&self.engine, &job);
        let end = End {
            how,
            cause: self.stopper.cause(),
            duration: self.begun.elapsed(),
            context: Some(self.context.clone()),
            was_stuck,
            job,
        };
        // The dispatcher is gone only when the whole server is.
        let _ = self.ends.send(end);
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        // The task unwound, as when the handler's future panics while it is dropped; or the runtime is
        // being shut down, and then nobody listens.
        let failure = Failure::message("panic", "the handler panicked while it was dropped");
        self.end(How::Ran(RunEnd::Panicked(failure)));
    }
}

/// The held job is now on its way to be settled; whether its worker had been replaced.
fn end_of(engine: &Engine, job: &ClaimedJob) -> bool {
    let mut held = engine.held.lock();
    match held.jobs.get_mut(&attempt(&job.lease)) {
        Some(held) => match std::mem::replace(&mut held.phase, Phase::Settling) {
            Phase::Running(running) => running.stuck,
            _ => false,
        },
        None => false,
    }
}

async fn run_to_end(
    run: impl Future<Output = RunEnd>,
    context: &JobContext,
    stopper: &Stopper,
    deadline: Option<Instant>,
    grace: Duration,
) -> How {
    tokio::pin!(run);
    let time_up = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        end = &mut run => return How::Ran(end),
        () = stopper.token.cancelled() => {}
        () = time_up => stopper.stop(StopCause::TimedOut),
    }
    tokio::select! {
        biased;
        end = &mut run => How::Ran(end),
        // Code on the blocking pool cannot be dropped: it goes on, and so must its lease. Its worker is
        // replaced by the dispatcher.
        () = tokio::time::sleep(grace), if !context.is_blocking() => How::Dropped,
    }
}
