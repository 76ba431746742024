//! Waiting for jobs to finish: pushes where there are any, else one shared poll for all waiters.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::client::{Client, WaitError};
use crate::jobs::new_job::AsParent;
use crate::model::backoff::Backoff;
use crate::model::bounds::MAX_STEP_ITEMS;
use crate::model::edge::Parent;
use crate::model::error::{Error, Result};
use crate::model::ids::JobId;
use crate::model::record::{JobDetails, JobRecord};
use crate::model::state::StateName;
use crate::model::sync::lock;
use crate::storage::{JobSubmitted, Pushes, Storage, WakeUp, WakeUpFilter, caught};

/// A job that was enqueued, and the way to its result.
pub struct JobHandle<T = ()> {
    client: Client,
    id: JobId,
    submitted: JobSubmitted,
    _output: PhantomData<fn() -> T>,
}

impl<T> JobHandle<T> {
    pub(super) fn new(client: Client, id: JobId, submitted: JobSubmitted) -> Self {
        let id = match submitted {
            JobSubmitted::Existing(existing) => existing,
            _ => id,
        };
        Self { client, id, submitted, _output: PhantomData }
    }

    /// The id of the job; of the existing one where that stands in its place.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// What the storage said: stored now, stored before, or another job stands in its place.
    pub fn submitted(&self) -> JobSubmitted {
        self.submitted
    }
}

impl<T: DeserializeOwned> JobHandle<T> {
    /// Waits until the job has finished, and gives its result.
    ///
    /// When the time is up, the job is read once more, for which the storage has another second. If it has
    /// just finished, you get its result;
    /// otherwise [`WaitError::TimedOut`] says what it is doing, or what it waits for.
    ///
    /// # Errors
    /// [`WaitError`]: it failed, was deleted, has not finished in time, or the result does not decode.
    ///
    /// # Cancel safety
    /// A dropped future changes nothing; wait again at any time.
    pub async fn wait(&self, timeout: Duration) -> Result<T, WaitError> {
        match tokio::time::timeout(timeout, self.wait_for_end()).await {
            Ok(ended) => ended,
            Err(_) => self.look_once_more().await,
        }
    }

    async fn wait_for_end(&self) -> Result<T, WaitError> {
        loop {
            if !self.client.shared.waiting.finished(self.id).await {
                return Err(WaitError::Gone);
            }
            let look = caught(self.client.dyn_storage().job(self.id));
            let details = look.await.map_err(WaitError::Storage)?;
            match self.ended(details) {
                // Requeued between the two looks.
                Err(WaitError::TimedOut(_)) => {}
                ended => return ended,
            }
        }
    }

    async fn look_once_more(&self) -> Result<T, WaitError> {
        let look = caught(self.client.dyn_storage().job(self.id));
        match tokio::time::timeout(LAST_LOOK, look).await {
            Ok(Ok(details)) => self.ended(details),
            Ok(Err(_)) | Err(_) => Err(WaitError::TimedOut(None)),
        }
    }

    /// What the job gave; `TimedOut` while it has not finished.
    fn ended(&self, details: Option<JobDetails>) -> Result<T, WaitError> {
        let Some(mut details) = details else { return Err(WaitError::Gone) };
        match details.record.state() {
            StateName::Succeeded => {
                let result = details.result.take().unwrap_or_else(|| b"null"[..].into());
                let result = self.client.open_result(self.id, &result);
                serde_json::from_slice(&result.map_err(WaitError::Storage)?).map_err(|error| {
                    WaitError::Storage(Error::corrupt(format!(
                        "the result does not decode: {error}"
                    )))
                })
            }
            StateName::Failed => Err(WaitError::Failed(details.errors.pop().map(Box::new))),
            StateName::Deleted => Err(WaitError::Deleted(details.record.head.reason)),
            _ => Err(WaitError::TimedOut(Some(Box::new(details)))),
        }
    }
}

impl<T> Clone for JobHandle<T> {
    fn clone(&self) -> Self {
        Self {
            client: self.client.clone(),
            id: self.id,
            submitted: self.submitted,
            _output: PhantomData,
        }
    }
}

impl<T> fmt::Debug for JobHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobHandle")
            .field("id", &self.id)
            .field("submitted", &self.submitted)
            .finish()
    }
}

impl<T> AsParent for JobHandle<T> {
    fn as_parent(&self) -> Parent {
        Parent::Job(self.id)
    }
}

/// `None` while it runs; whether the job still exists once it has finished.
type Fate = Option<bool>;

/// The first and the longest pause between two looks at a storage that does not push.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);
/// The pause between two looks at everything where the storage tells what finished. Shorter than
/// [`STALLED`], since a look is the sign of life of the task that looks.
const TOLD: Duration = Duration::from_secs(2);
/// How long one call to the storage may take.
const CALL_LIMIT: Duration = Duration::from_secs(15);
/// How long the look at a job may take that was waited for in vain.
const LAST_LOOK: Duration = Duration::from_secs(1);
/// After how long without a look another task looks: the runtime of the first one stands still, or the
/// storage does not answer it.
const STALLED: Duration = Duration::from_secs(5);

/// All who wait, and the one task that looks for them.
pub(super) struct WaitingRoom {
    storage: Weak<dyn Storage>,
    state: Arc<Mutex<Room>>,
    // A new waiter, so that the task looks at once.
    came: Arc<Notify>,
}

#[derive(Default)]
struct Room {
    waiters: BTreeMap<JobId, watch::Sender<Fate>>,
    /// The task that looks, by its number, and when it was last seen to do so.
    looker: Option<(u64, Instant)>,
    lookers: u64,
}

impl Room {
    /// The number of the task that is to begin, unless one looks.
    fn begin_looker(&mut self) -> Option<u64> {
        if self.looker.is_some_and(|(_, seen_at)| seen_at.elapsed() < STALLED) {
            return None;
        }
        self.lookers += 1;
        self.looker = Some((self.lookers, Instant::now()));
        Some(self.lookers)
    }

    /// Notes that a task looks; `false` when another one has taken its place.
    fn looks(&mut self, number: u64) -> bool {
        let is_mine = self.looker.is_some_and(|(looker, _)| looker == number);
        if is_mine {
            self.looker = Some((number, Instant::now()));
        }
        is_mine
    }
}

impl WaitingRoom {
    pub(super) fn new(storage: &Arc<dyn Storage>) -> Self {
        Self { storage: Arc::downgrade(storage), state: Arc::default(), came: Arc::default() }
    }

    /// Waits until the job has finished; `false` if it does not exist.
    async fn finished(&self, id: JobId) -> bool {
        loop {
            // Without an answer the task that looked went with its runtime; another one begins.
            if let Some(exists) = self.look_for(id).await {
                return exists;
            }
        }
    }

    async fn look_for(&self, id: JobId) -> Option<bool> {
        let mut fate = lock(&self.state)
            .waiters
            .entry(id)
            .or_insert_with(|| watch::Sender::new(None))
            .subscribe();
        self.came.notify_one();
        loop {
            self.ensure_looker();
            let ended = fate.wait_for(Option::is_some);
            if let Ok(ended) = tokio::time::timeout(STALLED, ended).await {
                return ended.ok().and_then(|fate| *fate);
            }
        }
    }

    /// Begins to look, unless a task does.
    fn ensure_looker(&self) {
        let Some(number) = lock(&self.state).begin_looker() else { return };
        let looker = Looker { number, room: Arc::clone(&self.state) };
        tokio::spawn(look(looker, self.storage.clone(), Arc::clone(&self.came)));
    }
}

/// The one task that looks. However it ends, those who wait learn it and begin another.
struct Looker {
    number: u64,
    room: Arc<Mutex<Room>>,
}

impl Drop for Looker {
    fn drop(&mut self) {
        let mut room = lock(&self.room);
        if room.looks(self.number) {
            room.looker = None;
            room.waiters.clear();
        }
    }
}

impl Looker {
    /// The jobs that somebody waits for; `None` when there is nothing to do for this task.
    fn wanted(&self) -> Option<BTreeSet<JobId>> {
        let mut room = lock(&self.room);
        room.waiters.retain(|_, waiter| waiter.receiver_count() > 0);
        if !room.looks(self.number) || room.waiters.is_empty() {
            return None;
        }
        Some(room.waiters.keys().copied().collect())
    }

    fn found(&self, ids: &[JobId], records: Vec<Option<JobRecord>>) {
        let mut room = lock(&self.room);
        room.looks(self.number);
        for (id, record) in ids.iter().zip(records) {
            let fate = match record {
                None => Some(false),
                Some(record) if record.state().is_finished() => Some(true),
                Some(_) => continue,
            };
            if let Some(waiter) = room.waiters.remove(id) {
                waiter.send_replace(fate);
            }
        }
    }
}

/// Why the task looks again.
enum Look {
    /// A job that somebody waits for has finished.
    Finished(JobId),
    /// Somebody else waits.
    Came,
    /// A push may have been lost, or it is time to look at everything.
    All,
}

/// Looks for finished jobs until nobody waits any more.
async fn look(looker: Looker, storage: Weak<dyn Storage>, came: Arc<Notify>) {
    let mut pushes = match storage.upgrade() {
        Some(storage) => Pushes::subscribe(&*storage, WakeUpFilter::default()).await,
        None => return,
    };
    let mut backoff = Backoff::new(SHORTEST, LONGEST);
    // The jobs whose end the storage tells.
    let mut watched: BTreeSet<JobId> = BTreeSet::new();
    let mut why = Look::All;
    let mut all_at = Instant::now();
    while let Some(wanted) = looker.wanted() {
        let Some(storage) = storage.upgrade() else { return };
        watched.retain(|id| wanted.contains(id));
        let mut new: Vec<JobId> = wanted.difference(&watched).copied().collect();
        // Before the look, so that nothing ends between the two.
        if pushes.are_offered() && !new.is_empty() && pushes.watch(&new).await {
            watched.extend(&new);
        }
        let is_told = watched.len() == wanted.len();
        let ids = match why {
            Look::Finished(id) => {
                new.extend(wanted.get(&id));
                new
            }
            Look::Came if is_told => new,
            Look::Came | Look::All => wanted.into_iter().collect(),
        };
        for ids in ids.chunks(MAX_STEP_ITEMS) {
            match tokio::time::timeout(CALL_LIMIT, caught(storage.jobs(ids))).await {
                Ok(Ok(records)) => looker.found(ids, records),
                Ok(Err(error)) => {
                    tracing::debug!(error = %error, "reading finished jobs failed")
                }
                Err(_) => tracing::debug!("reading finished jobs took too long"),
            }
        }
        drop(storage);
        match why {
            Look::Finished(_) => {}
            Look::Came if is_told => {}
            // Where ends are told, looking at everything merely finds what a lost push left.
            Look::Came | Look::All => {
                let pause = if is_told { TOLD } else { backoff.next_exact() };
                all_at = Instant::now() + pause;
            }
        }
        why = tokio::select! {
            biased;
            () = tokio::time::sleep_until(all_at) => Look::All,
            () = came.notified() => {
                backoff.reset();
                Look::Came
            }
            why = next_finished(&mut pushes) => why,
        }
    }
}

/// The next reason to look that the storage gives.
async fn next_finished(pushes: &mut Pushes) -> Look {
    loop {
        match pushes.next().await {
            WakeUp::Finished(id) => return Look::Finished(id),
            WakeUp::Lost => return Look::All,
            _ => {}
        }
    }
}
