//! The reference backend: everything in memory, under one mutex.
//!
//! It is the executable specification of the storage contract, and the storage of tests: every method
//! is the plainest reading of its contract that is still fast. What other backends spread over rows,
//! scripts or documents stands here in maps.

mod batches;
mod jobs;
mod keys;
mod limit_row;
mod limits;
mod lock;
mod log;
mod monitoring;
mod nested;
mod operations;
mod planted;
mod queue;
mod recurring;
mod servers;
mod sleepers;
mod state;
mod statistics;
mod storage;
mod strangers;
mod submit;
mod sweep;
mod transfer;
mod transitions;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::model::clock::{Clock, SystemClock, Timestamp};
use crate::model::ids::JobId;
use crate::model::sync::lock;
use crate::storage::{
    Call, Capabilities, Durability, Level, Support, TextSearch, WakeUpHub, WakeUpReach,
};

#[cfg(feature = "_planted")]
#[doc(hidden)]
pub use planted::Planted;
use sleepers::Sleepers;
use state::{Tables, Work};
pub use strangers::{Held, Hold};

/// A storage that lives as long as the process: for tests, and for work that may be lost.
///
/// Clones are handles to the same storage. Each storage is a namespace of its own.
///
/// # Example: a storage whose time stands still
/// ```
/// use std::sync::Arc;
/// use jobkit::MemoryStorage;
/// use jobkit::testing::TestClock;
///
/// let clock = TestClock::default();
/// let storage = MemoryStorage::with_clock(Arc::new(clock.clone()));
/// clock.advance(std::time::Duration::from_secs(60));
/// # drop(storage);
/// ```
#[derive(Clone)]
pub struct MemoryStorage {
    shared: Arc<Shared>,
    capabilities: Arc<Capabilities>,
}

struct Shared {
    clock: Arc<dyn Clock>,
    tables: Mutex<Tables>,
    hub: WakeUpHub,
}

impl MemoryStorage {
    /// An empty storage on the system's clock.
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// An empty storage on another clock, such as a [`TestClock`](crate::TestClock).
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        let mut capabilities = Capabilities::new(Level::Full);
        capabilities.wake_ups = WakeUpReach::All;
        capabilities.durability = Durability::Memory;
        capabilities.text_search = TextSearch::Window;
        capabilities.settle_and_claim = Support::Yes;
        let shared = Shared { clock, tables: Mutex::default(), hub: WakeUpHub::default() };
        Self { shared: Arc::new(shared), capabilities: Arc::new(capabilities) }
    }

    /// Keeps at most this many finished jobs of each state; any number by default, one at least. Servers
    /// remove what is beyond that, the oldest first, whatever the retention says: Succeeded, Failed and
    /// Deleted are counted apart, and what a batch still needs stays.
    ///
    /// An id is remembered as long as its record. So a number below what finishes in a minute shortens
    /// how long a repeated submit finds its job, and a caller who waits may find it gone.
    ///
    /// # Example: a storage that does not grow
    /// ```
    /// use jobkit::MemoryStorage;
    ///
    /// let storage = MemoryStorage::new().with_max_finished(100_000);
    /// # drop(storage);
    /// ```
    #[must_use]
    pub fn with_max_finished(mut self, max_finished: u64) -> Self {
        let max_finished = Some(max_finished.max(1));
        Arc::make_mut(&mut self.capabilities).max_finished = max_finished;
        self.lock().max_finished = max_finished;
        self
    }

    /// Tells claimers that sleep one by one, each once, as storages do that many processes share. For tests
    /// of what runs on those.
    #[doc(hidden)]
    pub fn tells_sleepers(self) -> Self {
        self.lock().sleepers = Some(Sleepers::default());
        self
    }

    /// Accepts ids whatever their time says, for a clock that a test moves away from that of the ids.
    pub(crate) fn accept_any_id_age(&self) {
        self.lock().any_id_age = true;
    }

    /// Makes the record of a waiting job undecodable, as damage in a database would; `false` if there
    /// is no such job. For tests of what happens then.
    #[doc(hidden)]
    pub fn make_unreadable(&self, id: JobId) -> bool {
        let mut tables = self.lock();
        let Some(place) = tables.find(id) else { return false };
        tables.job_mut(place).unreadable = true;
        true
    }

    /// A panic inside cannot leave a half-done step behind that matters more than going on: it is a
    /// bug that its test reports.
    fn lock(&self) -> MutexGuard<'_, Tables> {
        lock(&self.shared.tables)
    }

    /// Reads what depends on no time.
    fn read<R>(&self, f: impl FnOnce(&mut Tables) -> R) -> R {
        f(&mut self.lock())
    }

    /// Reads what depends on the time of the call.
    fn read_at<R>(&self, call: &Call, f: impl FnOnce(&mut Tables, Timestamp) -> R) -> R {
        let mut tables = self.lock();
        // Under the lock, so that instants grow in the order of commits.
        let now = call.time(&*self.shared.clock);
        f(&mut tables, now)
    }

    /// Changes, and tells listeners afterwards what became claimable, due, finished or cancelled.
    fn write<R>(&self, call: &Call, f: impl FnOnce(&mut Tables, &mut Work) -> R) -> R {
        let mut tables = self.lock();
        let mut work = Work::at(call.time(&*self.shared.clock));
        work.ended.extend(tables.late.drain(..));
        let marks = tables.marks.len();
        let answer = f(&mut tables, &mut work);
        tables.settle_down(&mut work);
        tables.stats.advance(work.now);
        let marked = work.marks || work.look_again.is_some() || tables.marks.len() > marks;
        let alone = tables.sleepers.is_some();
        let woken = tables.woken(&work);
        drop(tables);
        let hub = &self.shared.hub;
        if work.claimable && !alone {
            hub.work();
        }
        for claimer in woken {
            hub.work_for(claimer);
        }
        // A sweep answers itself what it has left.
        if marked && !work.sweeps {
            hub.marks();
        }
        if let Some(at) = work.due {
            hub.due(at);
        }
        for job in work.finished {
            hub.finished(job);
        }
        for job in work.cancelled {
            hub.cancel(job);
        }
        answer
    }
}

impl Default for MemoryStorage {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStorage").field("jobs", &self.lock().len()).finish_non_exhaustive()
    }
}
