//! Building a server: everything is checked at once, and all errors are reported together.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::client::{Client, Recurring};
use crate::handlers::context::{DataMap, Requirements};
use crate::handlers::filter::{Filters, OutcomeFilter, PerformFilter};
use crate::handlers::panics;
use crate::handlers::registry::{Jobs, Kind};
use crate::model::bounds;
use crate::model::clock::{Clock, SystemClock};
use crate::model::error::{Error, Result};
use crate::model::ids::Incarnation;
use crate::model::name::Name;
use crate::model::record::MAX_TIMEOUT;
use crate::model::recurring::RecurringSpec;
use crate::server::engine::Engine;
use crate::server::failed::{FailedJob, Hooks};
use crate::server::host::hostname;
use crate::server::options::{MAX_WORKERS, ServerOptions};
use crate::server::queues::Queues;
use crate::server::shutdown::{self, ServerHandle};
use crate::storage::{IntoStorage, ServerInfo, Storage};

/// What a server is made of; see [`Server::builder`].
#[derive(Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct ServerBuilder {
    storage: Arc<dyn Storage>,
    client: Client,
    jobs: Jobs,
    data: DataMap,
    data_twice: Vec<&'static str>,
    recurring: Vec<Recurring>,
    name: Option<String>,
    queues: Option<Vec<(String, f64)>>,
    weighted: bool,
    only_queues: bool,
    options: ServerOptions,
    workers: Option<usize>,
    queue_workers: BTreeMap<String, usize>,
    filters: Filters,
    hooks: Hooks,
}

impl ServerBuilder {
    /// The kinds it serves; several calls add up.
    pub fn jobs(mut self, jobs: Jobs) -> Self {
        self.jobs = self.jobs.merge(jobs);
        self
    }

    /// A value that handlers ask for as `Data<T>`.
    pub fn data<T: Send + Sync + 'static>(self, value: T) -> Self {
        self.data_arc(Arc::new(value))
    }

    /// A shared value, or a trait object: `data_arc::<dyn Gateway>(gateway)`.
    pub fn data_arc<T: ?Sized + Send + Sync + 'static>(mut self, value: Arc<T>) -> Self {
        if !self.data.insert(value) {
            self.data_twice.push(std::any::type_name::<T>());
        }
        self
    }

    /// Declares a recurring job; saved when the server starts. An unchanged definition keeps its next
    /// occurrence and an operator's pause.
    pub fn recurring(mut self, recurring: Recurring) -> Self {
        self.recurring.push(recurring);
        self
    }

    /// The server's name: `[A-Za-z0-9._@-]`, unique among those that live; made of host and process id
    /// by default. A server whose name another live one has stands by: it takes no jobs, and its health
    /// says so, until the other one stops or has been silent for 25 s.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// How many jobs run at once, over the number in [`options`](Self::options); 20 by default.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers);
        self
    }

    /// How many jobs of a queue run at once on this server, 1 to 10,000, over the number in
    /// [`options`](Self::options); as many as there are workers by default. A queue that is full holds up no other
    /// one. Nothing of such a queue is claimed ahead.
    ///
    /// [`workers`](Self::workers) stays the most in all. Where it is not said, and every queue that the server serves
    /// has a number, it is their sum.
    ///
    /// It is a number for each server; a [limit](crate::model::limit) holds on all of them together.
    ///
    /// # Example: five mails at once, beside twenty others
    /// ```
    /// # use jobkit::{Failure, Job, JobOptions, Jobs, MemoryStorage, Server};
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// # struct Send {}
    /// # impl Job for Send {
    /// #     const KIND: &'static str = "send";
    /// #     type Output = ();
    /// #     fn options() -> JobOptions { JobOptions::new().queue("mail") }
    /// # }
    /// # fn main() -> Result<(), jobkit::server::BuildError> {
    /// # let jobs = Jobs::new().handle(|_: Send, _| async { Ok::<_, Failure>(()) });
    /// let server = Server::builder(MemoryStorage::new())
    ///     .jobs(jobs)
    ///     .queue_workers("mail", 5)
    ///     .queue_workers("default", 20)
    ///     .build()?;
    /// # drop(server);
    /// # Ok(())
    /// # }
    /// ```
    pub fn queue_workers(mut self, queue: impl Into<String>, workers: usize) -> Self {
        self.queue_workers.insert(queue.into(), workers);
        self
    }

    /// The queues it serves, strictly in this order. By default it serves every queue its jobs name,
    /// and `default`, without preference.
    pub fn queues<Q: Into<String>>(mut self, queues: impl IntoIterator<Item = Q>) -> Self {
        self.queues = Some(queues.into_iter().map(|queue| (queue.into(), 1.0)).collect());
        self.weighted = false;
        self
    }

    /// The queues it serves, each first in line as often as its weight says; weights are over zero.
    pub fn weighted_queues<Q: Into<String>>(
        mut self,
        queues: impl IntoIterator<Item = (Q, u32)>,
    ) -> Self {
        let queues = queues.into_iter().map(|(queue, weight)| (queue.into(), f64::from(weight)));
        self.queues = Some(queues.collect());
        self.weighted = true;
        self
    }

    /// Accepts that some registered kinds name queues this server does not serve.
    pub fn only_queues(mut self) -> Self {
        self.only_queues = true;
        self
    }

    /// Wraps every run in `filter`. The first filter added is the outermost.
    pub fn perform_filter(mut self, filter: impl PerformFilter) -> Self {
        self.filters.perform.push(Arc::new(filter));
        self
    }

    /// Adds a filter that may change the outcome of a run: retry, fail, delete, snooze.
    pub fn outcome_filter(mut self, filter: impl OutcomeFilter) -> Self {
        self.filters.outcome.push(Arc::new(filter));
        self
    }

    /// Calls `hook` when a job has failed for good: the place for Sentry and alerts. Several are all called.
    ///
    /// It is called once the storage has noted the failure, whatever caused it: the handler, a panic, a time
    /// limit, arguments that do not fit, a result that cannot be kept, or servers that vanished too often.
    /// It is not called for attempts that are repeated, nor for jobs that a cancellation or a filter deleted.
    ///
    /// At most once: nobody calls it where the server's process ends between the storage's note and the call.
    /// Work that must not be missed is a continuation on failure. The hook runs between the claims of the
    /// server, so it should return quickly: spawn what takes longer. A panic in it is logged.
    ///
    /// # Example: alerts
    /// ```
    /// # use jobkit::{Failure, Job, Jobs, MemoryStorage, Server};
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// # struct Charge {}
    /// # impl Job for Charge { const KIND: &'static str = "charge"; type Output = (); }
    /// # fn alert(_text: &str) {}
    /// # fn main() -> Result<(), jobkit::server::BuildError> {
    /// # let jobs = Jobs::new().handle(|_: Charge, _| async { Ok::<_, Failure>(()) });
    /// let server = Server::builder(MemoryStorage::new())
    ///     .jobs(jobs)
    ///     .on_failed(|job| {
    ///         let why = job.error.as_ref().map_or("its servers vanished", |error| &error.message);
    ///         alert(&format!("{} {} failed for good: {why}", job.kind, job.id));
    ///     })
    ///     .build()?;
    /// # drop(server);
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_failed(mut self, hook: impl Fn(&FailedJob) + Send + Sync + 'static) -> Self {
        self.hooks.add(Arc::new(hook));
        self
    }

    /// The client that handlers are given, with its filters and codecs; one with default options
    /// otherwise. The server works on this client's storage.
    pub fn client(mut self, client: &Client) -> Self {
        self.client = client.clone();
        self.storage = self.client.shared_storage();
        self
    }

    /// The other options.
    pub fn options(mut self, options: ServerOptions) -> Self {
        self.options = options;
        self
    }

    /// Checks everything.
    ///
    /// # Errors
    /// All errors together: missing `Data`, two kinds of one name, a queue that nobody here serves, a
    /// bad schedule, options out of range.
    pub fn build(mut self) -> Result<Server, BuildError> {
        if let Some(workers) = self.workers {
            self.options = self.options.workers(workers);
        }
        self.name = self.name.or_else(|| self.options.name.clone());
        if let (None, Some(queues)) = (&self.queues, &self.options.queues) {
            self.queues = Some(queues.iter().map(|queue| (queue.clone(), 1.0)).collect());
        }
        let stated = std::mem::take(&mut self.queue_workers);
        self.options.queue_workers.extend(stated);
        let mut errors: Vec<Error> = Vec::new();
        let (kinds, twice) = self.jobs.by_name();
        for name in twice {
            errors.push(Error::invalid("jobs", format_args!("two jobs are named `{name}`")));
        }
        if kinds.is_empty() {
            errors.push(Error::invalid("jobs", "is empty: register jobs with `.jobs(jobs![…])`"));
        }
        if kinds.len() > bounds::SERVER_KINDS {
            let text = format!(
                "has {} kinds, where at most {} are allowed",
                kinds.len(),
                bounds::SERVER_KINDS
            );
            errors.push(Error::invalid("jobs", text));
        }
        let kind_names =
            collect(kinds.keys().map(|name| Name::new("kind", name.as_str())), &mut errors);
        self.check_data(&mut errors);
        self.check_kinds(&mut errors);
        let mut queues = self.build_queues(&mut errors);
        queues.most = self.most_of(&queues.names, &mut errors);
        if !queues.most.is_empty() && queues.names.iter().all(|it| queues.most.contains_key(it)) {
            let sum = queues.most.values().fold(0_usize, |sum, most| sum.saturating_add(*most));
            // So no queue waits for workers that another one has.
            if !self.options.workers_said {
                self.options.workers = sum.min(MAX_WORKERS);
            }
        }
        errors.splice(0..0, self.options.errors());
        let host = hostname().unwrap_or_else(|| "server".to_owned());
        let name = match &self.name {
            Some(name) => Name::new("server name", name.as_str()),
            None => Ok(default_name(&host)),
        };
        let name =
            name.map_err(|error| errors.push(error)).unwrap_or_else(|()| default_name(&host));
        let recurring = collect(self.recurring.into_iter().map(Recurring::into_spec), &mut errors);
        let mut seen = BTreeSet::new();
        for spec in &recurring {
            if !seen.insert(spec.id.clone()) {
                errors.push(Error::invalid(
                    "recurring",
                    format_args!("{:?} is declared twice", spec.id),
                ));
            }
        }
        if !errors.is_empty() {
            return Err(BuildError { errors });
        }
        let info = ServerInfo {
            name,
            incarnation: Incarnation::new(),
            pid: std::process::id(),
            host,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            workers: u32::try_from(self.options.workers).unwrap_or(u32::MAX),
            queues: queues.names.clone(),
            kinds: kind_names,
            started_at: SystemClock.now(),
            draining: false,
        };
        let engine = Engine::new(
            self.storage,
            self.client,
            info,
            self.options,
            queues,
            kinds,
            self.data,
            self.filters,
            self.hooks,
        );
        Ok(Server { engine: Arc::new(engine), recurring })
    }

    fn check_data(&self, errors: &mut Vec<Error>) {
        for name in &self.data_twice {
            errors
                .push(Error::invalid("data", format_args!("two values of type {name} are given")));
        }
        for kind in self.jobs.kinds() {
            let mut requirements = Requirements::default();
            (kind.requires)(&mut requirements);
            for missing in requirements.missing_in(&self.data) {
                let call = match missing.starts_with("dyn ") {
                    true => format!(".data_arc::<{missing}>(…)"),
                    false => ".data(…)".to_owned(),
                };
                let text =
                    format!("job `{}` needs Data<{missing}>: give it with `{call}`", kind.name);
                errors.push(Error::invalid("data", text));
            }
        }
    }

    fn check_kinds(&self, errors: &mut Vec<Error>) {
        for kind in self.jobs.kinds() {
            let options = &kind.options;
            let mut checks: Vec<_> =
                kind.bases.iter().map(|base| crate::jobs::upgrade::check_base(base)).collect();
            checks.push(check_versions(kind));
            checks.extend(options.retry.as_ref().map(|policy| policy.validate()));
            checks.extend(
                options
                    .max_attempts
                    .map(|n| crate::model::retry::RetryPolicy::none().max_attempts(n).validate()),
            );
            checks.extend(options.queue.map(|queue| Name::new("queue", queue).map(drop)));
            if options.priority.is_some_and(|priority| priority > bounds::MAX_PRIORITY) {
                checks.push(Err(Error::invalid("priority", "must be 0 to 9")));
            }
            if options.timeout.is_some_and(|timeout| timeout.is_zero() || timeout > MAX_TIMEOUT) {
                checks
                    .push(Err(Error::invalid("timeout", "must be over zero and at most 366 days")));
            }
            errors.extend(
                checks
                    .into_iter()
                    .filter_map(Result::err)
                    .map(|error| error.with("job", &kind.name)),
            );
        }
    }

    /// How many of each queue run at once, where that was said.
    fn most_of(&self, names: &[Name], errors: &mut Vec<Error>) -> BTreeMap<Name, usize> {
        let mut all = BTreeMap::new();
        for (queue, most) in &self.options.queue_workers {
            if !(1..=MAX_WORKERS).contains(most) {
                let text = format!("of `{queue}` are {most}, where 1 to 10,000 are allowed");
                errors.push(Error::invalid("queue_workers", text));
            }
            match names.iter().find(|name| name.as_str() == queue) {
                Some(name) => {
                    all.insert(name.clone(), *most);
                }
                None => {
                    let served: Vec<_> = names.iter().map(Name::as_str).collect();
                    let text = format!(
                        "name `{queue}`, which this server does not serve; it serves: {}",
                        served.join(", ")
                    );
                    errors.push(Error::invalid("queue_workers", text));
                }
            }
        }
        all
    }

    fn build_queues(&self, errors: &mut Vec<Error>) -> Queues {
        let wanted: BTreeSet<&str> =
            self.jobs.kinds().iter().map(|kind| kind.options.queue.unwrap_or("default")).collect();
        let Some(listed) = &self.queues else {
            let names: BTreeSet<&str> = wanted.into_iter().chain(["default"]).collect();
            let names = names
                .into_iter()
                .filter_map(|name| Name::new("queue", name).ok())
                .collect::<Vec<_>>();
            if names.len() > bounds::SERVER_QUEUES {
                let text = format!(
                    "are {}, as the jobs name them, where at most {} are allowed; list those to serve with `.queues(…)` and say `.only_queues()`",
                    names.len(),
                    bounds::SERVER_QUEUES
                );
                errors.push(Error::invalid("queues", text));
            }
            let weights = vec![1.0; names.len()];
            return Queues { names, weights, most: BTreeMap::new() };
        };
        if listed.is_empty() || listed.len() > bounds::SERVER_QUEUES {
            let text =
                format!("lists {}, where 1 to {} are allowed", listed.len(), bounds::SERVER_QUEUES);
            errors.push(Error::invalid("queues", text));
        }
        if listed.iter().any(|(_, weight)| *weight <= 0.0) {
            errors.push(Error::invalid("queues", "have a weight of zero"));
        }
        let mut seen = BTreeSet::new();
        for (queue, _) in listed {
            if !seen.insert(queue.as_str()) {
                errors.push(Error::invalid("queues", format_args!("name `{queue}` twice")));
            }
        }
        if !self.only_queues {
            for kind in self.jobs.kinds() {
                let queue = kind.options.queue.unwrap_or("default");
                if !seen.contains(queue) {
                    let text = format!(
                        "do not contain `{queue}`, where job `{}` waits; add it, or say `.only_queues()` if another server serves it",
                        kind.name
                    );
                    errors.push(Error::invalid("queues", text));
                }
            }
        }
        let names =
            collect(listed.iter().map(|(queue, _)| Name::new("queue", queue.as_str())), errors);
        let weights = match self.weighted {
            true => listed.iter().map(|(_, weight)| *weight).collect(),
            false => Vec::new(),
        };
        Queues { names, weights, most: BTreeMap::new() }
    }
}

fn check_versions(kind: &Kind) -> Result<()> {
    if kind.version == 0 {
        return Err(Error::invalid("version", "is 0, where versions begin at 1"));
    }
    match kind.upgraded.iter().find(|version| !(1..kind.version).contains(*version)) {
        Some(version) => {
            let text = format!(
                "{version} is upgraded to version {}, where only older ones can be",
                kind.version
            );
            Err(Error::invalid("version", text))
        }
        None => Ok(()),
    }
}

fn collect<T>(items: impl IntoIterator<Item = Result<T>>, errors: &mut Vec<Error>) -> Vec<T> {
    items.into_iter().filter_map(|item| item.map_err(|error| errors.push(error)).ok()).collect()
}

fn default_name(host: &str) -> Name {
    let host: String = host
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '-' })
        .take(32)
        .collect();
    let random = crate::model::ids::random() & 0xffff;
    Name::from_stored(format!("{host}-{}-{random:04x}", std::process::id()))
}

/// Why a server could not be built: every error.
#[derive(Debug)]
pub struct BuildError {
    errors: Vec<Error>,
}

impl BuildError {
    /// The errors; at least one.
    pub fn errors(&self) -> &[Error] {
        &self.errors
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server cannot be built")?;
        for error in &self.errors {
            write!(f, "\n- {error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for BuildError {}

impl From<BuildError> for Error {
    fn from(error: BuildError) -> Self {
        Self::new(crate::model::error::ErrorKind::Configuration, error.to_string())
    }
}

/// A server that was checked and not started yet.
#[derive(Debug)]
#[must_use = "a server does nothing until it is started"]
pub struct Server {
    engine: Arc<Engine>,
    recurring: Vec<RecurringSpec>,
}

impl Server {
    /// Begins to build a server on a storage.
    pub fn builder<I: IntoStorage>(storage: I) -> ServerBuilder {
        let storage = storage.into_storage();
        ServerBuilder {
            client: Client::new(Arc::clone(&storage)),
            storage,
            jobs: Jobs::new(),
            data: DataMap::default(),
            data_twice: Vec::new(),
            recurring: Vec::new(),
            name: None,
            queues: None,
            weighted: false,
            only_queues: false,
            options: ServerOptions::default(),
            workers: None,
            queue_workers: BTreeMap::new(),
            filters: Filters::default(),
            hooks: Hooks::default(),
        }
    }

    /// The parts of a server whose jobs are run one by one, by whoever holds them.
    pub(crate) fn into_parts(self) -> (Arc<Engine>, Vec<RecurringSpec>) {
        panics::install_hook();
        (self.engine, self.recurring)
    }

    /// Starts it: announces it, saves its recurring jobs, and begins to claim.
    ///
    /// # Errors
    /// The storage could not be reached, or refused.
    ///
    /// # Cancel safety
    /// A dropped future leaves at most an announced server, which is forgotten as silent.
    pub async fn start(self) -> Result<ServerHandle> {
        panics::install_hook();
        let engine = self.engine;
        engine.announce().await?;
        if !self.recurring.is_empty() {
            engine.client.save_specs(self.recurring).await?;
        }
        tracing::info!(
            server = %engine.info.name,
            workers = engine.options.workers,
            queues = ?engine.queues.names(),
            storage = engine.storage.backend(),
            "started"
        );
        Ok(ServerHandle::new(engine))
    }

    /// Starts it, and stops it gracefully at SIGTERM or SIGINT; a second signal ends it at once.
    ///
    /// # Errors
    /// See [`start`](Self::start).
    pub async fn run_until_signal(self) -> Result<()> {
        let handle = self.start().await?;
        tokio::select! {
            biased;
            () = shutdown::stop_signal() => {}
            ended = handle.join() => return ended,
        }
        handle.stop();
        tokio::select! {
            biased;
            () = shutdown::stop_signal() => {
                handle.abort();
                // Its tasks end by themselves; there is nothing to wait for.
                tokio::time::sleep(Duration::from_millis(10)).await;
                Ok(())
            }
            ended = handle.join() => ended,
        }
    }
}
