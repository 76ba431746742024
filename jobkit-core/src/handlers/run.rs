//! [`Run`]: a job that this process can run, and one run of it.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::FutureExt;
use serde::Serialize;

use crate::handlers::context::{JobContext, Requirements};
use crate::handlers::panics;
use crate::jobs::capture;
use crate::jobs::job::Job;
use crate::jobs::outcome::Failure;
use crate::jobs::upgrade::{ArgumentMismatch, Decode, base_name, decode, stored_name};
use crate::model::lossless::to_json;
use crate::model::record::Payload;

/// A job that this process can run.
///
/// # Example: serving a job by hand
/// ```
/// # use jobkit::{Job, JobContext, Run};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)]
/// # struct Add { a: u32, b: u32 }
/// # impl Job for Add { const KIND: &'static str = "add"; type Output = u32; }
/// impl Run for Add {
///     type Error = std::convert::Infallible;
///     async fn run(self, _: JobContext) -> Result<u32, Self::Error> {
///         Ok(self.a + self.b)
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a job this process can run",
    note = "put `#[jobkit::job]` on the function, or implement `jobkit::Run`"
)]
pub trait Run: Job {
    /// What it fails with.
    type Error: Into<Failure> + Send + 'static;

    /// What must be there when a server is built, such as `Data<T>`.
    fn requires(requirements: &mut Requirements) {
        let _ = requirements;
    }

    /// Does the work. May run more than once: see the guarantee G6.
    fn run(
        self,
        context: JobContext,
    ) -> impl Future<Output = Result<Self::Output, Self::Error>> + Send;
}

/// How one run of a handler ended.
#[derive(Debug)]
pub(crate) enum RunEnd {
    /// It returned; the encoded output, `None` for `()`.
    Done(Option<Payload>),
    /// It failed.
    Failed(Failure),
    /// The stored arguments do not fit.
    BadArguments(Failure),
    /// It panicked.
    Panicked(Failure),
    /// Its output does not serialise.
    BadOutput(Failure),
    /// A filter found that there was nothing to do, and why.
    Skipped(String),
}

impl RunEnd {
    pub(crate) fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failed(failure)
            | Self::BadArguments(failure)
            | Self::Panicked(failure)
            | Self::BadOutput(failure) => Some(failure),
            Self::Done(_) | Self::Skipped(_) => None,
        }
    }
}

type BoxRun = Pin<Box<dyn Future<Output = RunEnd> + Send>>;
pub(crate) type Handler = Arc<dyn Fn(Payload, JobContext) -> BoxRun + Send + Sync>;

pub(crate) async fn run_one<J, F, Fut, E>(
    handler: Arc<F>,
    steps: Arc<[(u32, Decode<J>)]>,
    args: Payload,
    context: JobContext,
) -> RunEnd
where
    J: Job,
    F: Fn(J, JobContext) -> Fut + Send + Sync,
    Fut: Future<Output = Result<J::Output, E>> + Send,
    E: Into<Failure>,
{
    // What users wrote runs in the decoding, the call, the future, the encoding and the error's own
    // words: a panic anywhere is a failure of the attempt.
    let run = AssertUnwindSafe(async {
        let job = match decode_version::<J>(&steps, context.kind(), &args) {
            Ok(job) => job,
            Err(mut misfit) => {
                if context.is_sealed() {
                    misfit.hide("not told, since the arguments are sealed");
                }
                let failure = Failure::message("BadArguments", misfit.to_string());
                return RunEnd::BadArguments(failure);
            }
        };
        drop(args);
        match handler(job, context).await {
            Ok(output) => encode(&output),
            Err(error) => RunEnd::Failed(error.into()),
        }
    });
    match run.catch_unwind().await {
        Ok(end) => end,
        Err(panic) => RunEnd::Panicked(Failure::from_panic(&*panic, panics::last_location())),
    }
}

/// Decodes arguments by the version that the stored name tells.
pub(crate) fn decode_version<J: Job>(
    steps: &[(u32, Decode<J>)],
    stored: &str,
    args: &[u8],
) -> Result<J, ArgumentMismatch> {
    let step = steps.iter().find(|(version, _)| {
        J::VERSION != *version && stored_name(base_name(stored), *version) == stored
    });
    let decoded = match step {
        Some((_, step)) => step(args),
        None => decode(args),
    };
    decoded.map_err(|mut misfit| {
        let of = misfit.field.as_deref().and_then(|field| field.split(['.', '[']).next());
        // The reason may quote the value. An older version may have called it otherwise.
        let hidden = !J::SENSITIVE.is_empty()
            && (step.is_some() || of.is_none_or(|field| is_sensitive::<J>(field)));
        if hidden {
            misfit.hide("not told, since it may hold a sensitive argument");
        }
        misfit
    })
}

/// Also under the name with an underscore, as which older rows may hold an argument.
fn is_sensitive<J: Job>(field: &str) -> bool {
    let plain = field.strip_prefix('_').unwrap_or(field);
    J::SENSITIVE.contains(&field) || J::SENSITIVE.contains(&plain)
}

fn encode<T: Serialize>(output: &T) -> RunEnd {
    match to_json(output) {
        // What `()` encodes to; most jobs return nothing, and nothing need be stored.
        Ok(bytes) if bytes == b"null" => RunEnd::Done(None),
        Ok(bytes) => RunEnd::Done(Some(bytes.into())),
        Err(loss) => {
            let text = format!("the result cannot be kept: {loss}");
            RunEnd::BadOutput(Failure::message("BadResult", text))
        }
    }
}

/// Runs code that blocks on the blocking pool; a panic goes on here, with its place.
#[doc(hidden)]
pub async fn run_blocking<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    if let Some(context) = JobContext::current() {
        context.set_blocking();
    }
    // With the scopes that filters began around the run.
    let captured = capture::current();
    let span = tracing::Span::current();
    let caught = tokio::task::spawn_blocking(move || {
        let run = AssertUnwindSafe(|| span.in_scope(|| captured.run(run)));
        std::panic::catch_unwind(run).map_err(|panic| (panic, panics::last_location()))
    });
    match caught.await {
        Ok(Ok(value)) => value,
        Ok(Err((panic, location))) => {
            panics::set_location(location);
            std::panic::resume_unwind(panic)
        }
        // The runtime is being shut down; nobody polls this any more.
        Err(_) => std::future::pending().await,
    }
}
