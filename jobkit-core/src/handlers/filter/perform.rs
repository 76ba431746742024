//! The hook around each run.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::FutureExt;

use crate::handlers::context::JobContext;
use crate::handlers::panics;
use crate::handlers::run::{Handler, RunEnd};
use crate::jobs::outcome::Failure;
use crate::model::record::Payload;

/// Goes around every run of a handler: before it, after it, or in its place.
///
/// Filters of the server are outside those of its [`Jobs`](crate::Jobs); among each other, the first
/// added is outermost. A panic in a filter is a failure of the attempt, and a filter is dropped with the
/// handler when the job ignores its cancellation.
///
/// # Example: how long each run takes
/// ```
/// use async_trait::async_trait;
/// use jobkit::JobContext;
/// use jobkit::filter::{Next, Performed, PerformFilter};
///
/// struct Timing;
///
/// #[async_trait]
/// impl PerformFilter for Timing {
///     async fn perform(&self, context: &JobContext, next: Next<'_>) -> Performed {
///         let begun = std::time::Instant::now();
///         let performed = next.run().await;
///         context.info(format!("took {:?}, ok: {}", begun.elapsed(), performed.is_ok()));
///         performed
///     }
/// }
/// ```
#[async_trait]
pub trait PerformFilter: Send + Sync + 'static {
    /// Runs what is inside with [`Next::run`], or does not.
    async fn perform(&self, context: &JobContext, next: Next<'_>) -> Performed;
}

/// What a [`PerformFilter`] wraps: the filters inside it, and the handler.
pub struct Next<'a> {
    context: &'a JobContext,
    filters: &'a [Arc<dyn PerformFilter>],
    args: Payload,
    handler: &'a Handler,
}

impl std::fmt::Debug for Next<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Next({} filters)", self.filters.len())
    }
}

impl Next<'_> {
    /// Runs it.
    pub async fn run(self) -> Performed {
        match self.filters.split_first() {
            Some((first, filters)) => first.perform(self.context, Next { filters, ..self }).await,
            None => Performed((self.handler)(self.args, self.context.clone()).await),
        }
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Performed(pub(crate) RunEnd);

impl Performed {
    /// Another end: the attempt failed so.
    pub fn failed(failure: impl Into<Failure>) -> Self {
        Self(RunEnd::Failed(failure.into()))
    }

    /// Another end: there is nothing to do any more. The job becomes Deleted, with the reason in its
    /// log.
    pub fn skipped(why: impl Into<String>) -> Self {
        Self(RunEnd::Skipped(why.into()))
    }

    /// Whether the handler succeeded.
    pub fn is_ok(&self) -> bool {
        matches!(self.0, RunEnd::Done(_))
    }

    /// What it failed with.
    pub fn failure(&self) -> Option<&Failure> {
        self.0.failure()
    }

    /// What it returned, as JSON; `None` where that was nothing, or it has not succeeded.
    pub fn output(&self) -> Option<&[u8]> {
        match &self.0 {
            RunEnd::Done(output) => output.as_deref(),
            _ => None,
        }
    }
}

/// Runs a handler inside its filters; a panic in any of them is an end like others.
pub(crate) async fn perform(
    filters: Vec<Arc<dyn PerformFilter>>,
    context: JobContext,
    args: Payload,
    handler: Handler,
) -> RunEnd {
    if filters.is_empty() {
        return handler(args, context).await;
    }
    let next = Next { context: &context, filters: &filters, args, handler: &handler };
    match AssertUnwindSafe(next.run()).catch_unwind().await {
        Ok(performed) => performed.0,
        Err(panic) => RunEnd::Panicked(Failure::from_panic(&*panic, panics::last_location())),
    }
}
