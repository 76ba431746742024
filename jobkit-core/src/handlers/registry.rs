//! [`Jobs`]: which kinds a server serves, and with what code.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use crate::handlers::context::{JobContext, Requirements};
use crate::handlers::filter::{Filters, OutcomeFilter, PerformFilter};
use crate::handlers::job_fn::JobFn;
use crate::handlers::run::{Handler, Run, decode_version, run_one};
use crate::jobs::job::{Job, JobOptions};
use crate::jobs::outcome::Failure;
use crate::jobs::upgrade::{ArgumentMismatch, stored_name};

/// Whether arguments stored under a name fit.
type Check = Arc<dyn Fn(&str, &[u8]) -> Result<(), ArgumentMismatch> + Send + Sync>;

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
    /// # use jobkit::{Job, Jobs};
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
                    Err(ArgumentMismatch { field: None, reason })
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

    /// Wraps every run of the kinds added so far in `filter`. The first filter added is the outermost.
    #[must_use]
    pub fn perform_filter(mut self, filter: impl PerformFilter) -> Self {
        let filter: Arc<dyn PerformFilter> = Arc::new(filter);
        for kind in &mut self.kinds {
            kind.filters.perform.push(Arc::clone(&filter));
        }
        self
    }

    /// Adds a filter that may change the outcome of a run of the kinds added so far, such as a retry policy of
    /// your own.
    #[must_use]
    pub fn outcome_filter(mut self, filter: impl OutcomeFilter) -> Self {
        let filter: Arc<dyn OutcomeFilter> = Arc::new(filter);
        for kind in &mut self.kinds {
            kind.filters.outcome.push(Arc::clone(&filter));
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
