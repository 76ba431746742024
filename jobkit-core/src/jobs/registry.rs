//! [`Jobs`]: which kinds a server serves, and with what code.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::FutureExt;
use serde::Serialize;

use crate::jobs::capture;
use crate::jobs::context::{JobContext, Requirements};
use crate::jobs::filter::{ElectFilter, Filters, PerformFilter};
use crate::jobs::job::{Job, JobOptions, Run};
use crate::jobs::new_job::NewJob;
use crate::jobs::outcome::Failure;
use crate::jobs::upgrade::{Decode, Misfit, base_name, decode, stored_name};
use crate::model::lossless::to_json;
use crate::model::record::Payload;

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

/// Whether arguments stored under a name fit.
type Check = Arc<dyn Fn(&str, &[u8]) -> Result<(), Misfit> + Send + Sync>;

/// A kind that can be served.
#[derive(Clone)]
pub(crate) struct Kind {
    /// As it is stored: with its version.
    pub(crate) name: String,
    /// Its name and aliases, without versions.
    pub(crate) bases: Vec<&'static str>,
    pub(crate) version: u32,
    /// The older versions that it upgrades.
    pub(crate) upgraded: Vec<u32>,
    pub(crate) options: JobOptions,
    pub(crate) requires: fn(&mut Requirements),
    pub(crate) run: Handler,
    pub(crate) filters: Filters,
    pub(crate) check: Check,
}

impl Kind {
    /// Every name under which jobs are served: those of its own version first.
    fn names(&self) -> impl Iterator<Item = String> + '_ {
        let versions = std::iter::once(self.version).chain(self.upgraded.iter().copied());
        versions.flat_map(|version| self.bases.iter().map(move |base| stored_name(base, version)))
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kind")
            .field("name", &self.name)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// The kinds a server serves: a plain value that merges like routers.
///
/// Registration is explicit; [`jobs!`](crate::jobs!) is the short form.
#[derive(Clone, Debug, Default)]
pub struct Jobs {
    kinds: Vec<Kind>,
}

impl Jobs {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the job that a function under `#[job]` makes.
    #[must_use]
    pub fn job<Args, F: JobFn<Args>>(self, _: F) -> Self {
        self.add::<F::Job>()
    }

    /// Adds a job that was implemented by hand.
    #[must_use]
    pub fn add<J: Run>(self) -> Self {
        self.with::<J, _, _, _>(J::requires, |job: J, context| job.run(context))
    }

    /// Serves a [`Job`] declared elsewhere, such as in a crate that the web process shares.
    ///
    /// # Example: a closure as handler
    /// ```
    /// # use jobkit_core::{Job, Jobs};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Add { a: u32, b: u32 }
    /// # impl Job for Add { const KIND: &'static str = "add"; type Output = u32; }
    /// let jobs = Jobs::new().handle(|job: Add, _| async move {
    ///     Ok::<_, std::convert::Infallible>(job.a + job.b)
    /// });
    /// ```
    #[must_use]
    pub fn handle<J, F, Fut, E>(self, handler: F) -> Self
    where
        J: Job,
        F: Fn(J, JobContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<J::Output, E>> + Send + 'static,
        E: Into<Failure> + Send + 'static,
    {
        self.with::<J, F, Fut, E>(|_| {}, handler)
    }

    fn with<J, F, Fut, E>(mut self, requires: fn(&mut Requirements), handler: F) -> Self
    where
        J: Job,
        F: Fn(J, JobContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<J::Output, E>> + Send + 'static,
        E: Into<Failure> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let steps: Arc<[_]> = J::upgrades().into_steps().into();
        let upgraded = steps.iter().map(|(version, _)| *version).collect();
        let check: Check = {
            let steps = Arc::clone(&steps);
            Arc::new(move |name, args| {
                let fits = AssertUnwindSafe(|| decode_version::<J>(&steps, name, args).map(drop));
                std::panic::catch_unwind(fits).unwrap_or_else(|panic| {
                    let panic = Failure::from_panic(&*panic, None);
                    let reason = format!("panicked: {}", panic.text());
                    Err(Misfit { field: None, reason })
                })
            })
        };
        let run: Handler = Arc::new(move |args, context| {
            let (handler, steps) = (Arc::clone(&handler), Arc::clone(&steps));
            Box::pin(run_one::<J, F, Fut, E>(handler, steps, args, context))
        });
        self.kinds.push(Kind {
            name: stored_name(J::KIND, J::VERSION),
            bases: std::iter::once(J::KIND).chain(J::ALIASES.iter().copied()).collect(),
            version: J::VERSION,
            upgraded,
            options: J::options(),
            requires,
            run,
            filters: Filters::default(),
            check,
        });
        self
    }

    /// Lays a filter round every run of the kinds added so far; the first one is outermost.
    #[must_use]
    pub fn around(mut self, filter: impl PerformFilter) -> Self {
        let filter: Arc<dyn PerformFilter> = Arc::new(filter);
        for kind in &mut self.kinds {
            kind.filters.perform.push(Arc::clone(&filter));
        }
        self
    }

    /// Gives a filter a say in what follows from every run of the kinds added so far, such as a retry
    /// policy of one's own.
    #[must_use]
    pub fn elect(mut self, filter: impl ElectFilter) -> Self {
        let filter: Arc<dyn ElectFilter> = Arc::new(filter);
        for kind in &mut self.kinds {
            kind.filters.elect.push(Arc::clone(&filter));
        }
        self
    }

    /// Adds the kinds of another value.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.kinds.extend(other.kinds);
        self
    }

    /// The names under which stored jobs are served, in the order added: versions, aliases and upgraded
    /// versions included.
    pub fn names(&self) -> impl Iterator<Item = String> + '_ {
        self.kinds.iter().flat_map(Kind::names)
    }

    pub(crate) fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    /// By every name; and the names used twice.
    pub(crate) fn by_name(&self) -> (BTreeMap<String, Arc<Kind>>, Vec<String>) {
        let mut by_name = BTreeMap::new();
        let mut twice = Vec::new();
        for kind in &self.kinds {
            let kind = Arc::new(kind.clone());
            for name in kind.names() {
                if by_name.insert(name.clone(), Arc::clone(&kind)).is_some() {
                    twice.push(name);
                }
            }
        }
        (by_name, twice)
    }
}

/// Adds functions under `#[job]` by their paths: `jobs![send_mail, billing::charge]`.
#[macro_export]
macro_rules! jobs {
    ($($job:path),* $(,)?) => {
        $crate::Jobs::new()$(.job($job))*
    };
}

async fn run_one<J, F, Fut, E>(
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
fn decode_version<J: Job>(
    steps: &[(u32, Decode<J>)],
    stored: &str,
    args: &[u8],
) -> Result<J, Misfit> {
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
    // With the scopes that filters began round the run.
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

/// Where the last panic of this thread happened.
pub(crate) mod panics {
    use std::cell::RefCell;
    use std::sync::Once;

    thread_local! {
        static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
    }

    /// Remembers locations, and calls the hook that was there before.
    pub(crate) fn install_hook() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                let location = info.location().map(ToString::to_string);
                // Not while the thread is being torn down.
                let _ = LAST.try_with(|last| *last.borrow_mut() = location);
                before(info);
            }));
        });
    }

    pub(crate) fn set_location(location: Option<String>) {
        LAST.with_borrow_mut(|last| *last = location);
    }

    /// Takes the location; a panic is caught on the thread where it happened.
    pub(crate) fn last_location() -> Option<String> {
        LAST.with_borrow_mut(Option::take)
    }
}

/// A function that makes job values: what `#[job]` leaves.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a job",
    note = "put `#[jobkit::job]` on the function"
)]
pub trait JobFn<Args> {
    /// The job it makes.
    type Job: Run;
}

macro_rules! job_fn {
    ($($arg:ident)*) => {
        impl<F, J: Run, $($arg),*> JobFn<($($arg,)*)> for F
        where
            F: Fn($($arg),*) -> NewJob<J>,
        {
            type Job = J;
        }
    };
}

job_fn!();
job_fn!(A);
job_fn!(A B);
job_fn!(A B C);
job_fn!(A B C D);
job_fn!(A B C D E);
job_fn!(A B C D E G);
job_fn!(A B C D E G H);
job_fn!(A B C D E G H I);
job_fn!(A B C D E G H I K);
job_fn!(A B C D E G H I K L);
job_fn!(A B C D E G H I K L M);
job_fn!(A B C D E G H I K L M N);
