//! What a backend has to say of itself to be tested.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use jobkit_core::storage::{Capabilities, Durability, Level, Storage, TextSearch, WakeUpReach};
use jobkit_core::testing::Held;
use jobkit_core::{JobId, TestClock};

use crate::fixtures::Env;

/// A backend under test.
///
/// # Example
/// ```
/// use std::sync::Arc;
/// use conformance_tests::TestBackend;
/// use jobkit_core::{MemoryStorage, storage::Storage};
///
/// struct Memory;
///
/// impl TestBackend for Memory {
///     type Guard = MemoryStorage;
///
///     async fn setup() -> (Arc<dyn Storage>, MemoryStorage) {
///         let storage = MemoryStorage::new();
///         (Arc::new(storage.clone()), storage)
///     }
///
///     async fn reopen(guard: &MemoryStorage) -> Option<Arc<dyn Storage>> {
///         Some(Arc::new(guard.clone()))
///     }
/// }
/// ```
pub trait TestBackend: Send + Sync + 'static {
    /// What keeps the namespace alive and removes it when dropped, such as a temporary folder.
    type Guard: Send + Sync + 'static;

    /// An empty, migrated storage in a namespace of its own: schema, prefix, database or file.
    fn setup() -> impl Future<Output = (Arc<dyn Storage>, Self::Guard)> + Send;

    /// A second connection to the same namespace, as another process would have: for races between
    /// two clients, and for what survives a restart. `None` where there can be only one.
    fn reopen(guard: &Self::Guard) -> impl Future<Output = Option<Arc<dyn Storage>>> + Send {
        let _ = guard;
        std::future::ready(None)
    }

    /// An empty storage as `setup` makes it, but on this clock, and a second connection to it where there
    /// can be one, on the same clock. `None` where the clock is the server's: then rate
    /// limits are left out of the comparison with the model.
    fn setup_on(
        clock: TestClock,
    ) -> impl Future<Output = Option<(Connections, Self::Guard)>> + Send {
        let _ = clock;
        std::future::ready(None)
    }

    /// Holds something in a transaction of another connection, as a stranger would, until the answer is
    /// dropped: cases ask what the storage does beside it. `None` where there are no such locks, so that
    /// nothing can be held.
    fn hold(guard: &Self::Guard, held: Held) -> impl Future<Output = Option<Stranger>> + Send {
        let _ = (guard, held);
        std::future::ready(None)
    }

    /// An empty storage as `setup` makes it, but one that keeps `max_finished` finished jobs of each state
    /// ([`max_finished`](Capabilities::max_finished)); `None` where that is not offered.
    fn setup_bounded(
        max_finished: u64,
    ) -> impl Future<Output = Option<(Arc<dyn Storage>, Self::Guard)>> + Send {
        let _ = max_finished;
        std::future::ready(None)
    }

    /// Damages the stored record of a waiting job so that it cannot be decoded any more; `false` where
    /// that cannot be done.
    fn make_unreadable(guard: &Self::Guard, job: JobId) -> impl Future<Output = bool> + Send {
        let _ = (guard, job);
        std::future::ready(false)
    }
}

/// A stranger's transaction; dropping it ends it, and changes nothing.
pub type Stranger = Box<dyn Any + Send>;

/// Connections to one namespace; one at least.
pub type Connections = Vec<Arc<dyn Storage>>;

/// A boxed future, as the list of cases has it.
pub type CaseFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// [`TestBackend`] and its guard without their types, so that cases are compiled once.
pub(crate) trait Namespace: Send + Sync {
    fn reopen(&self) -> Boxed<'_, Option<Arc<dyn Storage>>>;
    fn make_unreadable(&self, job: JobId) -> Boxed<'_, bool>;
    fn hold(&self, held: Held) -> Boxed<'_, Option<Stranger>>;
    fn another(&self) -> Boxed<'static, Opened>;
    fn another_on(&self, clock: TestClock) -> Boxed<'static, Option<OnClock>>;
    fn another_bounded(&self, max_finished: u64) -> Boxed<'static, Option<Opened>>;
}

/// Connections on a clock that can be set, and what keeps the namespace.
type OnClock = (Connections, Arc<dyn Namespace>);

/// A connection, and what keeps the namespace.
type Opened = (Arc<dyn Storage>, Arc<dyn Namespace>);

struct Guarded<B: TestBackend>(B::Guard);

impl<B: TestBackend> Namespace for Guarded<B> {
    fn reopen(&self) -> Boxed<'_, Option<Arc<dyn Storage>>> {
        Box::pin(B::reopen(&self.0))
    }

    fn make_unreadable(&self, job: JobId) -> Boxed<'_, bool> {
        Box::pin(B::make_unreadable(&self.0, job))
    }

    fn hold(&self, held: Held) -> Boxed<'_, Option<Stranger>> {
        Box::pin(B::hold(&self.0, held))
    }

    fn another(&self) -> Boxed<'static, Opened> {
        Box::pin(open::<B>())
    }

    fn another_on(&self, clock: TestClock) -> Boxed<'static, Option<OnClock>> {
        Box::pin(async {
            let (clients, guard) = B::setup_on(clock).await?;
            let namespace: Arc<dyn Namespace> = Arc::new(Guarded::<B>(guard));
            Some((clients, namespace))
        })
    }

    fn another_bounded(&self, max_finished: u64) -> Boxed<'static, Option<Opened>> {
        Box::pin(async move {
            let (storage, guard) = B::setup_bounded(max_finished).await?;
            let namespace: Arc<dyn Namespace> = Arc::new(Guarded::<B>(guard));
            Some((storage, namespace))
        })
    }
}

async fn open<B: TestBackend>() -> Opened {
    let (storage, guard) = B::setup().await;
    (storage, Arc::new(Guarded::<B>(guard)))
}

/// Cases that need the same of a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Group {
    /// Every storage: jobs, queues, locks and servers.
    Core,
    /// [`Level::Standard`]: edges, batches, keys, limits, recurring jobs and logs.
    Standard,
    /// [`Level::Full`]: monitoring and operations.
    Full,
    /// [`WakeUpReach::Process`] or more: pushes.
    Push,
    /// [`Durability::ProcessCrash`] or more: what is there after closing and opening again.
    Durable,
    /// [`TextSearch::Window`] or more.
    Search,
}

impl Group {
    /// The name in the list of groups.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Standard => "standard",
            Self::Full => "full",
            Self::Push => "push",
            Self::Durable => "durable",
            Self::Search => "search",
        }
    }

    /// The groups that a storage with these capabilities has to run.
    pub fn of(capabilities: &Capabilities) -> Vec<Self> {
        let level = capabilities.level;
        [
            (Self::Core, true),
            (Self::Standard, level >= Level::Standard),
            (Self::Full, level >= Level::Full),
            (Self::Push, capabilities.wake_ups != WakeUpReach::None),
            (Self::Durable, capabilities.durability > Durability::Memory),
            (Self::Search, capabilities.text_search != TextSearch::None),
        ]
        .into_iter()
        .filter_map(|(group, needed)| needed.then_some(group))
        .collect()
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One case of the suite.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Case {
    /// Its domain, which is also the name of its source file.
    pub domain: &'static str,
    /// Its name: a sentence.
    pub name: &'static str,
    /// What it needs.
    pub group: Group,
    /// Runs it; panics when the backend fails it.
    pub run: fn(Env) -> CaseFuture,
}

impl Case {
    #[doc(hidden)]
    pub const fn new(
        domain: &'static str,
        name: &'static str,
        group: Group,
        run: fn(Env) -> CaseFuture,
    ) -> Self {
        Self { domain, name, group, run }
    }

    /// What the case's documentation says it proves: `SUB-2, G2: …`.
    pub fn proves(&self) -> String {
        let start = format!("async fn {}(", self.name);
        let mut sources = crate::SOURCES.iter().filter(|(domain, _)| *domain == self.domain);
        let before =
            sources.find_map(|(_, text)| text.split_once(&start)).map_or("", |(before, _)| before);
        let docs = before.lines().rev().skip(1).map_while(|line| line.strip_prefix("///"));
        let mut lines: Vec<&str> = docs.map(str::trim).collect();
        lines.reverse();
        lines.join(" ")
    }

    /// The ids of the contract's bullets and of the guarantees that it proves.
    pub fn contract(&self) -> Vec<String> {
        let proves = self.proves();
        let ids = proves.split_once(':').map_or("", |(ids, _)| ids);
        ids.split(',').map(|id| id.trim().to_owned()).filter(|id| !id.is_empty()).collect()
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::{}::{}", self.group, self.domain, self.name)
    }
}

/// How long a case may take before it counts as hanging.
const DEADLINE: Duration = Duration::from_secs(120);

/// Who asks for more sequences than a test run has time for waits for them.
fn deadline() -> Duration {
    let patient = std::env::var_os("JOBKIT_MODEL_SEQUENCES").is_some();
    if patient { DEADLINE * 60 } else { DEADLINE }
}

/// Runs one case on a runtime of its own with two threads.
///
/// # Panics
/// When the backend fails the case, or takes two minutes for it.
pub fn run<B: TestBackend>(groups: &'static [Group], case: fn(Env) -> CaseFuture) {
    if let Err(panic) = run_named::<B>(groups, "case", case) {
        std::panic::resume_unwind(panic);
    }
}

/// Runs one case of the suite alone, as `domain::name` names it; the words it failed with.
///
/// For a backend that is being written, which chooses the cases that must be green so far, and for faults
/// planted on purpose, which a case must turn red.
///
/// # Errors
/// What the case panicked with, or that there is no such case.
///
/// # Example: one case of a storage
/// ```
/// # use std::sync::Arc;
/// # use conformance_tests::TestBackend;
/// # use jobkit_core::{MemoryStorage, storage::Storage};
/// # struct Memory;
/// # impl TestBackend for Memory {
/// #     type Guard = ();
/// #     async fn setup() -> (Arc<dyn Storage>, ()) { (Arc::new(MemoryStorage::new()), ()) }
/// # }
/// conformance_tests::try_case::<Memory>("locks::a_held_lock_is_not_given_to_another")?;
/// # Ok::<(), String>(())
/// ```
pub fn try_case<B: TestBackend>(name: &str) -> Result<(), String> {
    let named = |case: &&Case| name.split_once("::") == Some((case.domain, case.name));
    let case = crate::CASES.iter().find(named).ok_or_else(|| format!("no case is named {name}"))?;
    let (_, capabilities) = describe::<B>();
    // A few bytes for as long as the process lives, as the cases want them.
    let groups: &'static [Group] = Box::leak(Group::of(&capabilities).into_boxed_slice());
    attempt::<B>(groups, case).map_err(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str);
        words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panicked").to_owned()
    })
}

/// Runs one case on threads that bear its name; what it panicked with.
pub(crate) fn attempt<B: TestBackend>(
    groups: &'static [Group],
    case: &Case,
) -> Result<(), Box<dyn Any + Send>> {
    run_named::<B>(groups, case.name, case.run)
}

/// What a backend is called, and what it claims.
pub(crate) fn describe<B: TestBackend>() -> (&'static str, Capabilities) {
    let runtime = runtime("describe");
    runtime.block_on(async {
        let (storage, _namespace) = open::<B>().await;
        (storage.backend(), storage.capabilities().clone())
    })
}

fn runtime(name: &str) -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name(name)
        .enable_all()
        .build()
        .expect("a runtime starts")
}

fn run_named<B: TestBackend>(
    groups: &'static [Group],
    name: &str,
    case: fn(Env) -> CaseFuture,
) -> Result<(), Box<dyn Any + Send>> {
    let runtime = runtime(name);
    let outcome = runtime.block_on(async {
        // On a worker thread, so that a case that never yields does not stop its deadline.
        let case = tokio::spawn(async move {
            let (storage, namespace) = open::<B>().await;
            let env = Env::new(storage, namespace, groups).await;
            case(env).await;
        });
        tokio::time::timeout(deadline(), case).await
    });
    match outcome {
        Ok(Ok(())) => Ok(()),
        Ok(Err(failed)) => {
            // Tasks that wait for what will never come must not keep the test from ending.
            runtime.shutdown_background();
            Err(failed.into_panic())
        }
        Err(_) => {
            runtime.shutdown_background();
            Err(Box::new(format!("the case did not end within {:?}", deadline())))
        }
    }
}
