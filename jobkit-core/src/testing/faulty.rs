//! A storage that fails on demand.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use crate::model::clock::Timestamp;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::sync::lock;
use crate::storage::{
    Call, Capabilities, ChangeOutcome, ChangeRequest, ClaimRequest, Claimed, Finding, Fire,
    FireOutcome, LockLease, LockRequest, Migrated, RenewRequest, Renewed, Rescue, RescueRequest,
    SettleAnswer, SettleRequest, Step, Storage, SubmitRequest, Submitted, WakeUp, WakeUps,
};

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It goes through.
    None,
    /// It fails before anything is changed.
    Before,
    /// It is applied, and its answer is lost.
    AnswerLost,
    /// It goes through so much later.
    Late(Duration),
    /// It is applied at once, and its answer comes so much later.
    AnswerLate(Duration),
    /// It fails with an error that no repetition fixes, before anything is changed.
    Broken,
    /// It panics before anything is changed, as a bug of the storage may.
    Panic,
}

/// What a call asked and was answered, where an [`Observer`] looks closer than at its name.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are a method's request and its answer")]
pub enum ObservedCall<'a> {
    Submit(SubmitRequest<'a>, &'a [Submitted]),
    ChangeState(ChangeRequest<'a>, &'a [ChangeOutcome]),
    Claim(&'a ClaimRequest, &'a Claimed),
    Settle(&'a SettleRequest, &'a [SettleAnswer]),
    SettleAndClaim(&'a SettleRequest, &'a [SettleAnswer], &'a ClaimRequest, &'a Claimed),
    Renew(&'a RenewRequest, &'a Renewed),
    Rescue(&'a RescueRequest, &'a Rescue),
    Fire(&'a [Fire], &'a [FireOutcome]),
    Acquire(&'a LockRequest, &'a Option<LockLease>),
    /// Any other method, by its name.
    Other(&'static str),
}

/// Looks on as calls are applied.
pub trait Observer: Send + Sync {
    /// A call was applied just now; its answer is not on its way yet.
    fn applied(&self, call: &ObservedCall<'_>);
}

/// How long calls take, in addition to what the storage inside takes.
///
/// In virtual time (`#[tokio::test(start_paused = true)]`) it costs no time of the test. Tokio's timer goes by
/// milliseconds: shorter durations add up until they are one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Each call, whatever it carries: the way to the storage and back.
    pub call: Duration,
    /// Each item that a call submits, changes, settles, renews, writes or takes. Where settles and a claim go
    /// together, each pair of them is one item: so a job that is claimed and settled in passing counts once.
    pub item: Duration,
}

/// What a call answered, where a test alters it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Answer<'a> {
    /// What a claim took, alone or with settles.
    Claim(&'a mut Claimed),
    /// What a sweep did.
    Sweep(&'a mut Step),
}

type Alter = Box<dyn FnMut(Answer<'_>) + Send>;
type Loses = Box<dyn FnMut() -> bool + Send>;
type Decide = Box<dyn FnMut(&'static str) -> Fault + Send>;

/// Wraps a storage and lets calls fail, before or after they are applied.
///
/// # Example: the answer of a submit is lost
/// ```
/// # use std::sync::Arc;
/// # use jobkit::{Client, Job, MemoryStorage, NewJob, Storage, testing::{Fault, FaultyStorage}};
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # struct Mail {}
/// # impl Job for Mail { const KIND: &'static str = "mail"; type Output = (); }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), jobkit::Error> {
/// let storage = FaultyStorage::new(Arc::new(MemoryStorage::new()));
/// storage.fail_next("submit", Fault::AnswerLost);
/// let client = Client::new(storage.clone());
/// client.enqueue(NewJob::new(Mail {})).await?;
/// assert_eq!(storage.calls("submit"), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct FaultyStorage {
    pub(super) inner: Arc<dyn Storage>,
    capabilities: Arc<Capabilities>,
    state: Arc<Mutex<State>>,
    frozen: Arc<Frozen>,
}

#[derive(Default)]
struct Frozen {
    is: AtomicBool,
    ends: Notify,
}

#[derive(Default)]
struct State {
    planned: Vec<(&'static str, VecDeque<Fault>)>,
    decide: Option<Decide>,
    /// A planted fault.
    swaps: bool,
    loses: Option<Loses>,
    observer: Option<Arc<dyn Observer>>,
    alter: Option<Alter>,
    calls: Vec<(&'static str, usize)>,
    /// The largest set that each method was given.
    largest: BTreeMap<&'static str, usize>,
    pace: Pace,
    /// What calls have taken and nobody has waited for: less than a millisecond.
    owed: Duration,
}

impl FaultyStorage {
    /// Without faults until some are asked for.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        let capabilities = Arc::new(inner.capabilities().clone());
        Self { inner, capabilities, state: Arc::default(), frozen: Arc::default() }
    }

    /// Says something else of what the storage offers: fewer items a call, say. Without wake-ups it offers
    /// none.
    #[must_use]
    pub fn with_capabilities(mut self, change: impl FnOnce(&mut Capabilities)) -> Self {
        change(Arc::make_mut(&mut self.capabilities));
        self
    }

    /// Lets calls take their time from now on.
    pub fn pace(&self, pace: Pace) {
        self.state().pace = pace;
    }

    /// Lets the next call of a method fail; several calls add up, in order.
    pub fn fail_next(&self, method: &'static str, fault: Fault) {
        let mut state = self.state();
        match state.planned.iter_mut().find(|(name, _)| *name == method) {
            Some((_, faults)) => faults.push_back(fault),
            None => state.planned.push((method, [fault].into())),
        }
    }

    /// Asks a function about every call that nothing is planned for.
    pub fn decide(&self, decide: impl FnMut(&'static str) -> Fault + Send + 'static) {
        self.state().decide = Some(Box::new(decide));
    }

    /// Asks a function about every push whether it is lost.
    pub fn lose_pushes(&self, loses: impl FnMut() -> bool + Send + 'static) {
        self.state().loses = Some(Box::new(loses));
    }

    /// Swaps the answers of a flight's first and last submission: a planted fault.
    #[cfg(feature = "_planted")]
    #[doc(hidden)]
    pub fn swap_answers(&self) {
        self.state().swaps = true;
    }

    pub(super) fn swaps(&self) -> bool {
        self.state().swaps
    }

    /// Alters answers on their way back, so that they are those of a storage which this one is not: such as a
    /// claim that leaves what others hold.
    pub fn alter(&self, alter: impl FnMut(Answer<'_>) + Send + 'static) {
        self.state().alter = Some(Box::new(alter));
    }

    pub(super) fn altered(&self, answer: Answer<'_>) {
        if let Some(alter) = &mut self.state().alter {
            alter(answer);
        }
    }

    /// Lets someone look on.
    pub fn observe(&self, observer: Arc<dyn Observer>) {
        self.state().observer = Some(observer);
    }

    /// Calls neither begin nor return until [`thaw`](Self::thaw), as in a process that is stopped.
    pub fn freeze(&self) {
        self.frozen.is.store(true, Ordering::SeqCst);
    }

    /// Ends a [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.frozen.is.store(false, Ordering::SeqCst);
        self.frozen.ends.notify_waiters();
    }

    /// Waits until it is not frozen.
    pub async fn thawed(&self) {
        loop {
            let ends = self.frozen.ends.notified();
            tokio::pin!(ends);
            ends.as_mut().enable();
            if !self.frozen.is.load(Ordering::SeqCst) {
                return;
            }
            ends.await;
        }
    }

    /// No more faults.
    pub fn heal(&self) {
        let mut state = self.state();
        state.planned.clear();
        state.decide = None;
        state.loses = None;
    }

    /// How often a method was called.
    pub fn calls(&self, method: &str) -> usize {
        self.state().calls.iter().find(|(name, _)| *name == method).map_or(0, |(_, calls)| *calls)
    }

    /// How often each method was called.
    pub fn each_calls(&self) -> BTreeMap<&'static str, usize> {
        self.state().calls.iter().copied().collect()
    }

    /// How often any method was called.
    pub fn all_calls(&self) -> usize {
        self.state().calls.iter().map(|(_, calls)| calls).sum()
    }

    /// The largest set that a method was given: what it submits, settles, renews and so on, or the most that
    /// it may take.
    pub fn largest(&self, method: &str) -> usize {
        self.state().largest.get(method).copied().unwrap_or_default()
    }

    /// The largest set that each method was given.
    pub fn all_largest(&self) -> BTreeMap<&'static str, usize> {
        self.state().largest.clone()
    }

    /// Notes a set that a method was given.
    pub(super) fn given(&self, method: &'static str, items: usize) {
        let mut state = self.state();
        let largest = state.largest.entry(method).or_default();
        *largest = items.max(*largest);
    }

    /// Notes a set that a method was given, and takes the time for it.
    pub(super) async fn carry(&self, method: &'static str, items: usize) {
        self.given(method, items);
        self.take(items).await;
    }

    /// Takes the time of this many items.
    pub(super) async fn take(&self, items: usize) {
        let item = self.state().pace.item;
        self.pass(item * u32::try_from(items).unwrap_or(u32::MAX)).await;
    }

    async fn pass(&self, time: Duration) {
        if time.is_zero() {
            return;
        }
        let due = {
            let mut state = self.state();
            let owed = state.owed + time;
            let due = Duration::from_millis(u64::try_from(owed.as_millis()).unwrap_or(u64::MAX));
            state.owed = owed - due;
            due
        };
        match due.is_zero() {
            true => tokio::task::yield_now().await,
            false => tokio::time::sleep(due).await,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn fault(&self, method: &'static str) -> Fault {
        let mut state = self.state();
        match state.calls.iter_mut().find(|(name, _)| *name == method) {
            Some((_, calls)) => *calls += 1,
            None => state.calls.push((method, 1)),
        }
        let planned = state.planned.iter_mut().find(|(name, _)| *name == method);
        if let Some(fault) = planned.and_then(|(_, faults)| faults.pop_front()) {
            return fault;
        }
        state.decide.as_mut().map_or(Fault::None, |decide| decide(method))
    }

    pub(super) async fn call<T>(
        &self,
        method: &'static str,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        self.seen(method, call, |observer, _| observer.applied(&ObservedCall::Other(method))).await
    }

    /// A call whose request and answer are shown to the observer.
    pub(super) async fn seen<T>(
        &self,
        method: &'static str,
        call: impl Future<Output = Result<T>> + Send,
        show: impl FnOnce(&dyn Observer, &T) + Send,
    ) -> Result<T> {
        self.thawed().await;
        let fault = self.fault(method);
        let way = self.state().pace.call;
        self.pass(way).await;
        match fault {
            Fault::Before => {
                return Err(
                    Error::new(ErrorKind::Unavailable, "a fault was asked for").during(method)
                );
            }
            Fault::Broken => {
                return Err(Error::new(ErrorKind::Internal, "a bug was asked for").during(method));
            }
            Fault::Panic => panic!("a panic was asked for"),
            Fault::Late(pause) => {
                tokio::time::sleep(pause).await;
                self.thawed().await;
            }
            Fault::None | Fault::AnswerLost | Fault::AnswerLate(_) => {}
        }
        let answer = call.await?;
        let observer = self.state().observer.clone();
        if let Some(observer) = observer {
            show(&*observer, &answer);
        }
        if let Fault::AnswerLate(pause) = fault {
            tokio::time::sleep(pause).await;
        }
        self.thawed().await;
        match fault {
            Fault::AnswerLost => {
                let error = Error::new(ErrorKind::Unavailable, "a lost answer was asked for");
                Err(error.during(method).maybe_applied())
            }
            _ => Ok(answer),
        }
    }

    /// Pushes of the storage inside, each of which may be lost.
    pub(super) fn pushes(&self, inner: Box<dyn WakeUps>) -> Box<dyn WakeUps> {
        Box::new(Pushes { storage: self.clone(), inner })
    }
}

struct Pushes {
    storage: FaultyStorage,
    inner: Box<dyn WakeUps>,
}

#[async_trait]
impl WakeUps for Pushes {
    async fn next(&mut self) -> Option<WakeUp> {
        loop {
            let push = self.inner.next().await?;
            self.storage.thawed().await;
            let lost = self.storage.state().loses.as_mut().is_some_and(|loses| loses());
            if !lost {
                return Some(push);
            }
        }
    }

    async fn watch(&mut self, jobs: &[crate::model::ids::JobId]) -> Result<bool> {
        self.inner.watch(jobs).await
    }
}

impl fmt::Debug for FaultyStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyStorage").field("inner", &self.inner).finish_non_exhaustive()
    }
}

#[async_trait]
impl Storage for FaultyStorage {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn backend(&self) -> &'static str {
        self.inner.backend()
    }

    fn namespace(&self) -> &str {
        self.inner.namespace()
    }

    fn location(&self) -> Option<String> {
        self.inner.location()
    }

    async fn migrate(&self) -> Result<Migrated> {
        self.call("migrate", self.inner.migrate()).await
    }

    async fn check(&self) -> Result<Vec<Finding>> {
        self.call("check", self.inner.check()).await
    }

    async fn now(&self) -> Result<Timestamp> {
        self.call("now", self.inner.now()).await
    }

    async fn secret(&self, call: &Call, name: &str) -> Result<[u8; 32]> {
        self.call("secret", self.inner.secret(call, name)).await
    }
}
