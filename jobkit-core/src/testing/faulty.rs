//! A storage that fails on demand.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Capabilities, Finding, Migrated, Storage};

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It goes through.
    None,
    /// It fails before anything is changed.
    Before,
    /// It is applied, and its answer is lost.
    AnswerLost,
    /// It fails with an error that no repetition mends, before anything is changed.
    Broken,
}

type Decide = Box<dyn FnMut(&'static str) -> Fault + Send>;

/// Wraps a storage and lets calls fail, before or after they are applied.
///
/// # Example: the answer of a submit is lost
/// ```
/// # use std::sync::Arc;
/// # use jobkit_core::{Client, Job, MemoryStorage, NewJob, Storage, testing::{Fault, FaultyStorage}};
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # struct Mail {}
/// # impl Job for Mail { const KIND: &'static str = "mail"; type Output = (); }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), jobkit_core::Error> {
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
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    planned: Vec<(&'static str, VecDeque<Fault>)>,
    decide: Option<Decide>,
    calls: Vec<(&'static str, usize)>,
}

impl FaultyStorage {
    /// Without faults until some are asked for.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self { inner, state: Arc::default() }
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

    /// No more faults.
    pub fn heal(&self) {
        let mut state = self.state();
        state.planned.clear();
        state.decide = None;
    }

    /// How often a method was called.
    pub fn calls(&self, method: &str) -> usize {
        self.state().calls.iter().find(|(name, _)| *name == method).map_or(0, |(_, calls)| *calls)
    }

    /// How often any method was called.
    pub fn all_calls(&self) -> usize {
        self.state().calls.iter().map(|(_, calls)| calls).sum()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        match self.fault(method) {
            Fault::None => call.await,
            Fault::Before => {
                Err(Error::new(ErrorKind::Unavailable, "a fault was asked for").during(method))
            }
            Fault::Broken => {
                Err(Error::new(ErrorKind::Internal, "a bug was asked for").during(method))
            }
            Fault::AnswerLost => {
                call.await?;
                let error = Error::new(ErrorKind::Unavailable, "a lost answer was asked for");
                Err(error.during(method).maybe_applied())
            }
        }
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
        self.inner.capabilities()
    }

    fn backend(&self) -> &'static str {
        self.inner.backend()
    }

    fn namespace(&self) -> &str {
        self.inner.namespace()
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
}
