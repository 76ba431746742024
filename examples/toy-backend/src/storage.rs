//! Opening, and `impl Storage`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use jobkit_core::storage::{
    Call, Capabilities, Durability, Finding, Level, Migrated, Severity, Storage, WakeUpHub,
    WakeUpReach,
};
use jobkit_core::{Clock, Error, ErrorKind, Result, SystemClock, Timestamp, bounds};

use crate::fault::Fault;
use crate::kv::Kv;
use crate::txn::Txn;

/// The version of what is written, as `migrate` tells it.
const SCHEMA: u32 = 1;

/// A storage in one file, for one process: small enough to be read, and not meant for anything else.
///
/// Clones, and storages opened on the same path, are handles to the same file.
///
/// # Example: a job that is there after the file was closed and opened again
/// ```
/// use toy_backend::ToyStorage;
///
/// # let folder = tempfile::tempdir()?;
/// let storage = ToyStorage::open(folder.path().join("jobs.toy"))?;
/// # drop(storage);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct ToyStorage {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    path: PathBuf,
    namespace: String,
    capabilities: Capabilities,
    kv: Mutex<Kv>,
    pub(crate) hub: WakeUpHub,
    fault: Option<Fault>,
}

/// The files that are open in this process, so that two handles on one path are one storage.
static OPEN: Mutex<BTreeMap<PathBuf, Weak<Shared>>> = Mutex::new(BTreeMap::new());

impl ToyStorage {
    // [guide: open]
    /// Opens a file, or makes it.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) when the file cannot be opened or another process has it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path.as_ref(), None)
    }

    fn open_with(path: &Path, fault: Option<Fault>) -> Result<Self> {
        let path = std::path::absolute(path).map_err(unavailable)?;
        let mut open = lock(&OPEN);
        open.retain(|_, storage| storage.strong_count() > 0);
        if let Some(shared) = open.get(&path).and_then(Weak::upgrade) {
            return Ok(Self { shared });
        }
        let kv = Mutex::new(Kv::open(&path).map_err(unavailable)?);
        let namespace = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let capabilities = capabilities();
        let hub = WakeUpHub::default();
        let shared = Shared { path: path.clone(), namespace, capabilities, kv, hub, fault };
        let shared = Arc::new(shared);
        open.insert(path, Arc::downgrade(&shared));
        Ok(Self { shared })
    }
    // [end]

    /// Opens a file with a fault planted.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    #[cfg(feature = "_faults")]
    #[doc(hidden)]
    pub fn open_faulty(path: impl AsRef<Path>, fault: Fault) -> Result<Self> {
        Self::open_with(path.as_ref(), Some(fault))
    }

    /// Damages what is kept beside a job, so that it cannot be decoded any more; `false` if there is no
    /// such job. For tests.
    ///
    /// # Errors
    /// The file could not be written.
    #[doc(hidden)]
    pub fn make_unreadable(&self, id: jobkit_core::JobId) -> Result<bool> {
        self.write(&Call::default(), |txn| {
            let Some(place) = txn.find(id) else { return Ok(false) };
            txn.tx.put(crate::keys::beside(place, "extras"), "{not json");
            Ok(true)
        })
    }

    // [guide: write]
    /// One call that changes: a transaction, and after its commit the word to those who wait.
    pub(crate) fn write<R>(
        &self,
        call: &Call,
        f: impl FnOnce(&mut Txn<'_>) -> Result<R>,
    ) -> Result<R> {
        let mut kv = lock(&self.shared.kv);
        // Under the lock, so that instants grow in the order of commits.
        let now = call.time(&SystemClock);
        let mut txn = Txn::new(kv.begin(), now, self.shared.fault);
        // An error drops the transaction: nothing has changed.
        let answer = f(&mut txn)?;
        txn.settle_down()?;
        let Txn { tx, told, .. } = txn;
        if tx.is_dirty() {
            #[cfg(feature = "_faults")]
            if self.shared.fault == Some(Fault::CommitIsNotWritten) {
                tx.commit_to_memory_alone();
                return Ok(answer);
            }
            tx.commit().map_err(not_writable)?;
        }
        drop(kv);
        let hub = &self.shared.hub;
        if told.work && self.shared.fault != Some(Fault::NobodyIsWoken) {
            hub.work();
        }
        let marks = told.marks || told.look_again.is_some();
        if marks && self.shared.fault != Some(Fault::MarksAreNotTold) {
            hub.marks();
        }
        if let Some(at) = told.due {
            hub.due(at);
        }
        told.finished.into_iter().for_each(|job| hub.finished(job));
        told.cancelled.into_iter().for_each(|job| hub.cancel(job));
        Ok(answer)
    }
    // [end]

    /// One call that only reads, what depends on no time.
    pub(crate) fn read<R>(&self, f: impl FnOnce(&Txn<'_>) -> Result<R>) -> Result<R> {
        self.read_at(&Call::default(), f)
    }

    /// One call that only reads.
    pub(crate) fn read_at<R>(
        &self,
        call: &Call,
        f: impl FnOnce(&Txn<'_>) -> Result<R>,
    ) -> Result<R> {
        let mut kv = lock(&self.shared.kv);
        let now = call.time(&SystemClock);
        f(&Txn::new(kv.begin(), now, self.shared.fault))
    }
}

// [guide: capabilities]
/// What the storage claims, and the suite holds it to.
fn capabilities() -> Capabilities {
    let level = if cfg!(feature = "step-8") { Level::Standard } else { Level::Core };
    let mut capabilities = Capabilities::new(level);
    // No other process can open the file, so everybody there is is told.
    capabilities.wake_ups = WakeUpReach::All;
    // What the operating system was given outlives the process, but without `fsync` not the machine.
    capabilities.durability = Durability::ProcessCrash;
    capabilities.step_items = bounds::STEP_ITEMS;
    capabilities
}
// [end]

/// A panic cannot leave half a transaction behind: it is dropped.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unavailable(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "the file cannot be opened").caused_by(error)
}

/// Nothing of the record counts: it was cut off again, or is cut off when the file is opened next.
fn not_writable(error: std::io::Error) -> Error {
    Error::new(ErrorKind::NotWritable, "the file cannot be written").caused_by(error)
}

#[async_trait]
impl Storage for ToyStorage {
    fn capabilities(&self) -> &Capabilities {
        &self.shared.capabilities
    }

    fn backend(&self) -> &'static str {
        "toy"
    }

    fn namespace(&self) -> &str {
        &self.shared.namespace
    }

    async fn migrate(&self) -> Result<Migrated> {
        // The first bytes of the file name its format, and `open` has checked them.
        Ok(Migrated { from: SCHEMA, to: SCHEMA })
    }

    async fn check(&self) -> Result<Vec<Finding>> {
        Ok(vec![Finding {
            severity: Severity::Info,
            code: "grows",
            message: "the file grows with every change and is never compacted; use a database"
                .into(),
        }])
    }

    async fn now(&self) -> Result<Timestamp> {
        Ok(SystemClock.now())
    }
}

impl fmt::Debug for ToyStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToyStorage").field("path", &self.shared.path).finish_non_exhaustive()
    }
}
