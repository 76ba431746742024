//! [`Client`]: enqueues jobs, changes them, waits for them.

mod batch;
mod changes;
mod coalescer;
mod enqueue;
pub(crate) mod filter;
mod finished_jobs;
mod independent;
mod lock;
mod many;
mod operations;
mod recurring;
mod submitter;
mod transaction;
mod wait_error;
mod waiting;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tracing::Instrument;

use crate::client::filter::SubmitFilter;
use crate::jobs::codec::{Codec, Codecs, Place};
use crate::model::clock::{Clock, SystemClock, Timestamp};
use crate::model::error::{Error, Result};
use crate::model::record::NewRecord;
use crate::storage::{IntoStorage, Storage, Submission};

pub use batch::{Batch, BatchHandle};
pub use changes::Deleted;
pub use enqueue::{Enqueue, HasOutput};
pub use finished_jobs::FinishedJobs;
pub use lock::Lock;
pub use many::EnqueueMany;
pub use recurring::Recurring;
pub use transaction::{InTransaction, IntoSubmission, check_stands_alone, ids_of};
pub use wait_error::WaitError;
pub use waiting::JobHandle;

pub(crate) use changes::{repeated, unless};
use submitter::Submitter;
use waiting::WaitingRoom;

/// How a client behaves.
#[derive(Clone)]
#[non_exhaustive]
pub struct ClientOptions {
    submit_timeout: Duration,
    clock: Arc<dyn Clock>,
    filters: Vec<Arc<dyn SubmitFilter>>,
    codecs: Codecs,
}

impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientOptions")
            .field("submit_timeout", &self.submit_timeout)
            .field("filters", &self.filters.len())
            .field("codecs", &self.codecs)
            .finish_non_exhaustive()
    }
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            submit_timeout: Duration::from_secs(15),
            clock: Arc::new(SystemClock),
            filters: Vec::new(),
            codecs: Codecs::default(),
        }
    }
}

impl ClientOptions {
    /// How long `enqueue` repeats a submit that the storage did not answer; 15 s by default, a day at
    /// most. Zero gives up at the first error.
    #[must_use]
    pub fn submit_timeout(mut self, timeout: Duration) -> Self {
        self.submit_timeout = timeout.min(Duration::from_secs(24 * 3600));
        self
    }

    /// The clock for log lines; the system's by default.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Adds a filter that sees every job before it is submitted.
    ///
    /// # Example: a tag on everything this process enqueues
    /// ```
    /// use jobkit::ClientOptions;
    /// use jobkit::record::NewRecord;
    ///
    /// let options = ClientOptions::default().filter(|job: &mut NewRecord| {
    ///     job.tags.push("web".into());
    ///     Ok(())
    /// });
    /// # drop(options);
    /// ```
    #[must_use]
    pub fn filter(mut self, filter: impl SubmitFilter) -> Self {
        self.filters.push(Arc::new(filter));
        self
    }

    /// Adds a codec: the first one writes, all of them read.
    #[must_use]
    pub fn codec(mut self, codec: impl Codec) -> Self {
        self.codecs.push(codec);
        self
    }

    /// Whether jobs are submitted as they are.
    fn are_plain(&self) -> bool {
        self.filters.is_empty() && self.codecs.is_empty()
    }

    /// Lets the filters look at what is submitted, and seals the arguments.
    fn prepare(&self, job: &mut NewRecord, owner: &str) -> Result<()> {
        let id = job.id;
        for filter in &self.filters {
            filter.submit(job)?;
        }
        if job.id != id {
            let reason = "was fixed when the job value was made: handles and edges refer to it, so a filter cannot change it";
            return Err(Error::invalid("id", reason));
        }
        if !self.codecs.is_empty() {
            // Before they are sealed, since what is sealed is larger.
            job.check()?;
            let place = Place { owner, part: "args" };
            job.args = self.codecs.seal(place, std::mem::take(&mut job.args))?;
        }
        Ok(())
    }
}

/// Enqueues jobs into a storage. Cheap to clone; clones share round trips.
///
/// It is the same type for every storage, so functions take `&Client`; a transaction finds its storage behind
/// it, see [`within`](Self::within).
///
/// # Example: enqueue and wait
/// ```
/// # use jobkit::{Client, Job, MemoryStorage, NewJob};
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # struct Add { a: u32, b: u32 }
/// # impl Job for Add { const KIND: &'static str = "add"; type Output = u32; }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), jobkit::Error> {
/// let client = Client::new(MemoryStorage::new());
/// let sum = client.enqueue(NewJob::new(Add { a: 1, b: 2 })).await?;
/// println!("job {}", sum.id());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

/// What all clones of a client have in common.
pub(crate) struct Shared {
    storage: Arc<dyn Storage>,
    options: ClientOptions,
    submitter: Submitter,
    waiting: WaitingRoom,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("storage", &self.shared.storage).finish_non_exhaustive()
    }
}

impl Client {
    /// A client of a storage, an `Arc` of one, or an `Arc<dyn Storage>`.
    pub fn new<I: IntoStorage>(storage: I) -> Self {
        Self::with_options(storage, ClientOptions::default())
    }

    /// A client with options of its own.
    pub fn with_options<I: IntoStorage>(storage: I, options: ClientOptions) -> Self {
        let storage = storage.into_storage();
        let shared = Arc::new(Shared {
            submitter: Submitter::new(&storage),
            waiting: WaitingRoom::new(&storage),
            storage,
            options,
        });
        Self { shared }
    }

    /// The storage, for what it alone answers.
    ///
    /// # Example: its figures
    /// ```
    /// # use jobkit::{Client, MemoryStorage};
    /// # use jobkit::ops::prometheus::Figures;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), jobkit::Error> {
    /// let client = Client::new(MemoryStorage::new());
    /// println!("{}", Figures::read(client.storage()).await?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn storage(&self) -> &dyn Storage {
        &*self.shared.storage
    }

    /// The storage, shared: to be kept, or for a server of one's own.
    pub fn shared_storage(&self) -> Arc<dyn Storage> {
        Arc::clone(&self.shared.storage)
    }

    /// The storage as what it is, if it is of this type; for backends, whose transactions need it.
    pub fn storage_as<S: Storage>(&self) -> Option<&S> {
        let storage: &dyn Any = self.storage();
        storage.downcast_ref()
    }

    /// Enqueues a job, a tuple or `Vec` of jobs (a flow, atomic), or a [`Batch`].
    ///
    /// Returns when it is stored. A submit whose answer is lost is repeated with the same ids for
    /// `submit_timeout` (15 s), so that it makes no second job.
    ///
    /// # Errors
    /// Invalid input names the field; a conflict says with what; otherwise the storage could not be
    /// reached in time. After an error that [may have been applied](crate::Applied::Unknown), enqueue
    /// the same (cloned) job value again.
    ///
    /// # Cancel safety
    /// A dropped future leaves it open whether the job was stored.
    pub async fn enqueue<E: Enqueue>(&self, jobs: E) -> Result<E::Handle> {
        jobs.enqueue(self).instrument(tracing::debug_span!("enqueue")).await
    }

    /// Applies this client's filters and codecs, for backends that submit inside a caller's transaction.
    ///
    /// # Errors
    /// A filter's refusal.
    #[doc(hidden)]
    pub fn prepare(&self, submission: &mut Submission) -> Result<()> {
        self.shared.prepare(&mut submission.jobs)
    }

    /// Reads what this client's codecs made.
    pub fn codecs(&self) -> &Codecs {
        &self.shared.options.codecs
    }

    /// The wall clock of this process, for what it tells people.
    pub(crate) fn clock_now(&self) -> Timestamp {
        self.shared.options.clock.now()
    }

    /// A job whose arguments are sealed as those of a submitted one are, its filters left out.
    pub(crate) fn sealed(&self, mut job: NewRecord) -> Result<NewRecord> {
        if !self.codecs().is_empty() {
            job.check()?;
            let owner = job.id.to_string();
            let place = Place { owner: &owner, part: "args" };
            job.args = self.codecs().seal(place, std::mem::take(&mut job.args))?;
        }
        self.shared.storage.capabilities().check_payload(job.args.len())?;
        Ok(job)
    }

    fn dyn_storage(&self) -> &Arc<dyn Storage> {
        &self.shared.storage
    }
}
