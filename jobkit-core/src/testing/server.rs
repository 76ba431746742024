//! A server for tests: in memory, in virtual time, one job after the other.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::client::{Client, ClientOptions, Recurring};
use crate::handlers::filter::{OutcomeFilter, PerformFilter};
use crate::handlers::registry::Jobs;
use crate::jobs::new_job::NewJob;
use crate::memory::MemoryStorage;
use crate::model::clock::{Clock, SystemClock, TestClock, Timestamp};
use crate::model::ids::JobId;
use crate::model::record::JobDetails;
use crate::model::state::StateName;
use crate::server::inline::Inline;
use crate::server::{FailedJob, Server, ServerBuilder, ServerOptions};
use crate::storage::{Call, JobQuery, JobQueue, JobStore, Monitoring, RecurringStore, StepRequest};
use crate::testing::{Fault, FaultyStorage};

/// Runs jobs as a server would, in memory and in virtual time: nothing happens but when the test says so.
///
/// Time stands still until [`advance`](Self::advance). Jobs run one after the other, in their order, in
/// the test's own task; retries, delays, continuations, batches and schedules work as on a server.
/// Time limits are not applied, since handlers run in real time.
///
/// Everything panics with a readable message: it is for tests.
///
/// # Example: a mail after ten minutes
/// ```
/// # use jobkit::{Client, Data, Failure, Job, Jobs, NewJob, testing::TestServer};
/// # use std::time::Duration;
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # struct Remind { user: u64 }
/// # impl Job for Remind { const KIND: &'static str = "remind"; type Output = (); }
/// async fn sign_up(jobs: &Client, user: u64) -> Result<(), jobkit::Error> {
///     jobs.enqueue(NewJob::new(Remind { user }).delay(Duration::from_secs(600))).await?;
///     Ok(())
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), jobkit::Error> {
/// let jobs = Jobs::new().handle(|_: Remind, _| async { Ok::<_, Failure>(()) });
/// let mut t = TestServer::new(jobs);
/// sign_up(&t.client(), 42).await?;
/// t.assert_enqueued(NewJob::new(Remind { user: 42 })).await;
///
/// t.run_until_idle().await;
/// assert_eq!(t.succeeded("remind").await, 0, "not yet");
/// t.advance(Duration::from_secs(600)).await;
/// assert_eq!(t.succeeded("remind").await, 1);
/// # Ok(())
/// # }
/// ```
pub struct TestServer {
    memory: MemoryStorage,
    storage: FaultyStorage,
    clock: TestClock,
    client: Client,
    builder: Option<ServerBuilder>,
    inline: Option<Inline>,
    vanish: bool,
    /// The kinds it serves, for those who name one.
    kinds: BTreeSet<String>,
}

/// A job as a test sees it.
#[derive(Clone, Debug)]
pub struct TestedJob(pub JobDetails);

impl TestServer {
    /// A server of these jobs, with an empty storage. Its clock begins at the present time.
    pub fn new(jobs: Jobs) -> Self {
        let clock = TestClock::at(SystemClock.now());
        let memory = MemoryStorage::with_clock(Arc::new(clock.clone()));
        // Job values are made in real time, while the storage's goes on by hours.
        memory.accept_any_id_age();
        let storage = FaultyStorage::new(Arc::new(memory.clone()));
        let options = ClientOptions::default().clock(Arc::new(clock.clone()));
        let client = Client::with_options(storage.clone(), options);
        let kinds = jobs.names().collect();
        let builder = Server::builder(storage.clone()).client(&client).jobs(jobs).name("test");
        let (builder, inline) = (Some(builder), None);
        Self { memory, storage, clock, client, builder, inline, vanish: false, kinds }
    }

    fn configure(mut self, change: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Self {
        let builder = self.builder.take().expect("configured before it runs");
        self.builder = Some(change(builder));
        self
    }

    /// A value that handlers ask for as `Data<T>`.
    #[must_use]
    pub fn data<T: Send + Sync + 'static>(self, value: T) -> Self {
        self.configure(|builder| builder.data(value))
    }

    /// A shared value, or a trait object.
    #[must_use]
    pub fn data_arc<T: ?Sized + Send + Sync + 'static>(self, value: Arc<T>) -> Self {
        self.configure(|builder| builder.data_arc(value))
    }

    /// A recurring job.
    #[must_use]
    pub fn recurring(self, recurring: Recurring) -> Self {
        self.configure(|builder| builder.recurring(recurring))
    }

    /// The options of its client, such as filters and codecs; before [`client`](Self::client) is
    /// called.
    #[must_use]
    pub fn client_options(mut self, change: impl FnOnce(ClientOptions) -> ClientOptions) -> Self {
        let options = ClientOptions::default().clock(Arc::new(self.clock.clone()));
        self.client = Client::with_options(self.storage.clone(), change(options));
        let client = self.client.clone();
        self.configure(|builder| builder.client(&client))
    }

    /// Wraps every run in `filter`.
    #[must_use]
    pub fn perform_filter(self, filter: impl PerformFilter) -> Self {
        self.configure(|builder| builder.perform_filter(filter))
    }

    /// Adds a filter that may change the outcome of a run.
    #[must_use]
    pub fn outcome_filter(self, filter: impl OutcomeFilter) -> Self {
        self.configure(|builder| builder.outcome_filter(filter))
    }

    /// A hook for jobs that failed for good.
    #[must_use]
    pub fn on_failed(self, hook: impl Fn(&FailedJob) + Send + Sync + 'static) -> Self {
        self.configure(|builder| builder.on_failed(hook))
    }

    /// The server's options; the lease, retries and limits of crashes matter here.
    #[must_use]
    pub fn options(self, options: ServerOptions) -> Self {
        self.configure(|builder| builder.options(options))
    }

    /// A client of its storage, as the application under test has it.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The storage between client and server, for faults on demand.
    pub fn storage(&self) -> &FaultyStorage {
        &self.storage
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Lets the next call of a storage method fail, before it is applied or with its answer lost.
    pub fn fail_next(&self, method: &'static str, fault: Fault) {
        self.storage.fail_next(method, fault);
    }

    /// The next job that runs ends without being settled, as if its worker had vanished then. It runs
    /// again when its lease has expired.
    pub fn lose_next_worker(&mut self) {
        self.vanish = true;
    }

    /// Runs whatever is due now, and what follows from it, until nothing is left to do.
    ///
    /// # Panics
    /// The server cannot be built, or jobs enqueue each other without end (100,000 runs).
    pub async fn run_until_idle(&mut self) {
        let mut inline = match self.inline.take() {
            Some(inline) => inline,
            None => self.build().await,
        };
        for _ in 0..100_000 {
            let housekeeping = repeated(async || inline.housekeeping().await).await;
            let claimed = repeated(async || inline.claim().await).await;
            match claimed {
                Some(job) => {
                    let end =
                        inline.run(job).await.expect("only kinds that are served are claimed");
                    if !std::mem::take(&mut self.vanish) {
                        settle(&inline, end, &self.storage).await;
                    }
                }
                None if housekeeping => {}
                None => {
                    self.inline = Some(inline);
                    return;
                }
            }
        }
        panic!("jobs went on after 100,000 runs: they enqueue each other without end");
    }

    async fn build(&mut self) -> Inline {
        let server = match self.builder.take().expect("built once").build() {
            Ok(server) => server,
            Err(errors) => panic!("{errors}"),
        };
        let (engine, recurring) = server.into_parts();
        if !recurring.is_empty() {
            self.client.save_specs(recurring).await.expect("schedules are checked");
        }
        Inline::start(engine).await.expect("the memory storage announces")
    }

    /// Lets time pass: everything that becomes due on the way runs at its instant.
    ///
    /// # Panics
    /// As [`run_until_idle`](Self::run_until_idle).
    pub async fn advance(&mut self, length: Duration) {
        let target = self.clock.now().plus(length);
        self.run_until_idle().await;
        while let Some(next) = self.next_due().await.filter(|next| *next <= target) {
            self.clock.set(next.max(self.clock.now()));
            self.run_until_idle().await;
        }
        self.clock.set(target);
        self.run_until_idle().await;
    }

    /// The next instant at which something is due: a delayed job, a schedule, the end of a lease.
    async fn next_due(&self) -> Option<Timestamp> {
        let step = StepRequest { max: 0 };
        let job =
            self.memory.promote_due(&Call::default(), step).await.expect("memory").next_due_at;
        let schedule = self.memory.due_recurring(&Call::default(), 0).await.expect("memory");
        let schedule = schedule.next_due_at;
        let held = self.list(StateName::Processing).await;
        let lease = held.into_iter().filter_map(|job| match job.0.record.head.state {
            crate::model::state::State::Processing(hold) => {
                Some(hold.expires_at.plus(Duration::from_micros(1)))
            }
            _ => None,
        });
        let now = self.clock.now();
        job.into_iter().chain(schedule).chain(lease).filter(|at| *at > now).min()
    }

    async fn list(&self, state: StateName) -> Vec<TestedJob> {
        let mut query = JobQuery { limit: crate::model::bounds::PAGE, ..JobQuery::new(state) };
        let mut jobs = Vec::new();
        loop {
            let page = self.memory.list(&query).await.expect("memory");
            for record in page.jobs {
                let job = self.memory.job(record.id).await.expect("memory");
                jobs.extend(job.map(TestedJob));
            }
            query.after = page.next;
            if query.after.is_none() {
                return jobs;
            }
        }
    }

    /// Every job that is stored, by the order in which it was enqueued.
    pub async fn jobs(&self) -> Vec<TestedJob> {
        let mut jobs = Vec::new();
        for state in StateName::ALL {
            jobs.extend(self.list(state).await);
        }
        jobs.sort_by_key(|job| job.0.record.sequence);
        jobs
    }

    /// One job.
    ///
    /// # Panics
    /// There is none.
    pub async fn job(&self, id: JobId) -> TestedJob {
        let job = self.memory.job(id).await.expect("memory");
        TestedJob(job.unwrap_or_else(|| panic!("there is no job {id}")))
    }

    /// How many jobs of a kind have succeeded.
    ///
    /// # Panics
    /// The server has no job of this kind, and none is stored: a misspelt name is not a zero.
    #[track_caller]
    pub fn succeeded(&self, kind: &str) -> impl Future<Output = usize> {
        let place = std::panic::Location::caller();
        async move {
            let jobs = self.jobs().await;
            let of_the_kind = || jobs.iter().filter(|job| job.0.record.kind == *kind);
            if !self.kinds.contains(kind) && of_the_kind().next().is_none() {
                let known: Vec<_> = self.kinds.iter().map(String::as_str).collect();
                panic!("{place}: no job is of kind `{kind}`; the kinds are: {}", known.join(", "));
            }
            of_the_kind().filter(|job| job.0.record.state() == StateName::Succeeded).count()
        }
    }

    /// Fails unless a job of this kind with these arguments was enqueued, in whatever state it is. Its
    /// options are not compared.
    ///
    /// # Panics
    /// There is none; the message lists what there is instead.
    #[track_caller]
    pub fn assert_enqueued<J>(&self, expected: NewJob<J>) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        async move {
            let expected = expected.into_record().expect("a valid job");
            let wanted = json(&expected.args);
            let mut jobs = self.jobs().await;
            for job in &mut jobs {
                // As its handler would see it; what cannot be opened is shown as it is.
                job.0.args = self.client.open_args(&job.0).unwrap_or_else(|_| job.0.args.clone());
            }
            let same =
                |job: &TestedJob| job.0.record.kind == expected.kind && json(&job.0.args) == wanted;
            if !jobs.iter().any(same) {
                let list: String = jobs.iter().map(|job| format!("\n  {job}")).collect();
                let list = if list.is_empty() { "\n  nothing".to_owned() } else { list };
                panic!("{place}: no job {} {wanted} was enqueued, but{list}", expected.kind);
            }
        }
    }

    /// Fails if a job of this kind was enqueued.
    ///
    /// # Panics
    /// There is one; the message lists all of the kind.
    #[track_caller]
    pub fn assert_none_enqueued(&self, kind: &str) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        async move {
            let jobs = self.jobs().await;
            let of_kind = jobs.iter().filter(|job| job.0.record.kind == *kind);
            let list: String = of_kind.map(|job| format!("\n  {job}")).collect();
            assert!(
                list.is_empty(),
                "{place}: no job of kind {kind} was expected, but there is{list}"
            );
        }
    }
}

/// Outcomes are kept until the storage answers, as on a server.
async fn settle(inline: &Inline, end: crate::server::inline::RunEnded, storage: &FaultyStorage) {
    let (subject, settle) = inline.settle_of(end);
    for _ in 0..1_000 {
        match inline.settle(&subject, settle.clone()).await {
            Ok(()) => return,
            Err(error) if error.is_retryable() => {}
            Err(error) => panic!("settling failed: {error}"),
        }
    }
    panic!("settling failed 1,000 times: {storage:?}");
}

async fn repeated<T>(mut call: impl AsyncFnMut() -> crate::model::error::Result<T>) -> T {
    for _ in 0..1_000 {
        match call().await {
            Ok(value) => return value,
            Err(error) if error.is_retryable() => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the storage failed 1,000 times");
}

fn json(bytes: &[u8]) -> serde_json::Value {
    serde_json::from_slice(bytes).unwrap_or_default()
}

impl fmt::Display for TestedJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = &self.0.record;
        write!(f, "{} {} is {}", record.kind, json(&self.0.args), record.state())?;
        if record.state() == StateName::Deleted {
            write!(f, " ({})", record.head.reason.as_str())?;
        }
        if let Some(error) = self.0.errors.last() {
            write!(f, " (attempt {} failed: {})", error.failures, error.detail.summary())?;
        }
        Ok(())
    }
}

impl fmt::Debug for TestServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestServer").field("now", &self.clock.now()).finish_non_exhaustive()
    }
}
