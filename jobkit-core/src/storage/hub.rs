//! Pushes within one process, for storages that live in it.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use async_trait::async_trait;
use tokio::sync::{Notify, broadcast, mpsc};

use crate::model::clock::Timestamp;
use crate::model::error::Result;
use crate::model::ids::{Incarnation, JobId};
use crate::model::sync::lock;
use crate::storage::queue::{WakeUp, WakeUpFilter, WakeUps};

/// Tells listeners of the same process what happened in a storage.
///
/// Telling costs nothing while nobody listens. New work is a mere "look again", so that any number of
/// enqueues between two looks are one push.
#[derive(Debug)]
pub struct WakeUpHub {
    work: Arc<Bell>,
    marks: Arc<Bell>,
    /// The bells of claimers that are told one by one.
    claimers: Mutex<BTreeMap<Incarnation, Weak<Bell>>>,
    watched: Arc<Watched>,
    others: broadcast::Sender<WakeUp>,
    /// Rings once, when the storage is gone.
    gone: Arc<Bell>,
}

impl Default for WakeUpHub {
    fn default() -> Self {
        Self {
            work: Arc::default(),
            marks: Arc::default(),
            claimers: Mutex::default(),
            watched: Arc::default(),
            others: broadcast::Sender::new(1024),
            gone: Arc::default(),
        }
    }
}

impl WakeUpHub {
    /// Work became claimable: tells everybody who listens for work.
    pub fn work(&self) {
        self.work.ring();
    }

    /// Work became claimable: tells this claimer alone.
    pub fn work_for(&self, claimer: Incarnation) {
        if let Some(bell) = lock(&self.claimers).get(&claimer).and_then(Weak::upgrade) {
            bell.ring();
        }
    }

    /// Work was left to sweeps.
    pub fn marks(&self) {
        self.marks.ring();
    }

    /// Something is due at `at`.
    pub fn due(&self, at: Timestamp) {
        self.tell(WakeUp::Due(at));
    }

    /// A job finished.
    pub fn finished(&self, job: JobId) {
        self.watched.finished(job);
    }

    /// The cancellation of a running job was requested.
    pub fn cancel(&self, job: JobId) {
        self.tell(WakeUp::Cancel(job));
    }

    fn tell(&self, push: WakeUp) {
        if self.others.receiver_count() > 0 {
            // An error means that the last listener has just gone.
            let _ = self.others.send(push);
        }
    }

    /// A listener.
    pub fn subscribe(&self, filter: &WakeUpFilter) -> Box<dyn WakeUps> {
        let claimer = filter.claimer.filter(|_| !filter.queues.is_empty());
        Box::new(Listener {
            work: (!filter.queues.is_empty()).then(|| Listening::to(&self.work)),
            alone: claimer.map(|claimer| Listening::to(&self.bell_of(claimer))),
            marks: filter.marks.then(|| Listening::to(&self.marks)),
            others: (filter.due || filter.cancels_of.is_some()).then(|| self.others.subscribe()),
            watches: None,
            gone: Listening::to(&self.gone),
            watched: Arc::clone(&self.watched),
            filter: filter.clone(),
        })
    }

    fn bell_of(&self, claimer: Incarnation) -> Arc<Bell> {
        let mut claimers = lock(&self.claimers);
        claimers.retain(|_, bell| bell.strong_count() > 0);
        if let Some(bell) = claimers.get(&claimer).and_then(Weak::upgrade) {
            return bell;
        }
        let bell = Arc::default();
        claimers.insert(claimer, Arc::downgrade(&bell));
        bell
    }
}

/// Who waits for the ends of which jobs.
#[derive(Debug, Default)]
struct Watched {
    /// How many jobs are watched, so that an end that nobody waits for takes no lock.
    count: AtomicUsize,
    jobs: Mutex<HashMap<JobId, Vec<mpsc::UnboundedSender<JobId>>>>,
}

impl Watched {
    fn watch(&self, ids: &[JobId], told: &mpsc::UnboundedSender<JobId>) {
        let mut jobs = lock(&self.jobs);
        for id in ids {
            let listeners = jobs.entry(*id).or_default();
            if !listeners.iter().any(|it| it.same_channel(told)) {
                listeners.push(told.clone());
            }
        }
        self.count.store(jobs.len(), Ordering::SeqCst);
    }

    fn finished(&self, job: JobId) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut jobs = lock(&self.jobs);
        for listener in jobs.remove(&job).into_iter().flatten() {
            // An error means that it has just gone.
            let _ = listener.send(job);
        }
        self.count.store(jobs.len(), Ordering::SeqCst);
    }

    fn forget(&self, told: &mpsc::UnboundedSender<JobId>) {
        let mut jobs = lock(&self.jobs);
        jobs.retain(|_, listeners| {
            listeners.retain(|it| !it.same_channel(told));
            !listeners.is_empty()
        });
        self.count.store(jobs.len(), Ordering::SeqCst);
    }
}

/// How often something happened. Unlike a watch channel it wakes listeners in the order in which they
/// came, so that a run with one thread can be repeated.
#[derive(Debug, Default)]
struct Bell {
    count: AtomicU64,
    notify: Notify,
}

impl Bell {
    fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    fn ring(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.notify.notify_waiters();
    }
}

impl Drop for WakeUpHub {
    fn drop(&mut self) {
        self.gone.ring();
    }
}

struct Listening {
    of: Arc<Bell>,
    seen: u64,
}

impl Listening {
    fn to(bell: &Arc<Bell>) -> Self {
        Self { of: Arc::clone(bell), seen: bell.count() }
    }

    /// Waits for what was not heard yet; without a bell it never ends.
    async fn hears(this: &mut Option<Self>, push: WakeUp) -> WakeUp {
        match this {
            Some(this) => this.changed().await,
            None => std::future::pending().await,
        }
        push
    }

    /// Waits for what was not heard yet.
    async fn changed(&mut self) {
        loop {
            let notified = self.of.notify.notified();
            tokio::pin!(notified);
            // Before the look, so that nothing comes between.
            notified.as_mut().enable();
            let count = self.of.count();
            if count != self.seen {
                self.seen = count;
                return;
            }
            notified.await;
        }
    }
}

struct Listener {
    work: Option<Listening>,
    alone: Option<Listening>,
    marks: Option<Listening>,
    others: Option<broadcast::Receiver<WakeUp>>,
    watches: Option<(mpsc::UnboundedSender<JobId>, mpsc::UnboundedReceiver<JobId>)>,
    watched: Arc<Watched>,
    gone: Listening,
    filter: WakeUpFilter,
}

impl Listener {
    const fn wants(&self, push: WakeUp) -> bool {
        match push {
            WakeUp::Due(_) => self.filter.due,
            WakeUp::Cancel(_) => self.filter.cancels_of.is_some(),
            WakeUp::Finished(_) | WakeUp::Work | WakeUp::Marks | WakeUp::Lost => true,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some((told, _)) = &self.watches {
            self.watched.forget(told);
        }
    }
}

#[async_trait]
impl WakeUps for Listener {
    async fn next(&mut self) -> Option<WakeUp> {
        loop {
            let other = async {
                match &mut self.others {
                    Some(others) => match others.recv().await {
                        Ok(push) => Some(push),
                        Err(broadcast::error::RecvError::Lagged(_)) => Some(WakeUp::Lost),
                        Err(broadcast::error::RecvError::Closed) => None,
                    },
                    None => std::future::pending().await,
                }
            };
            let finished = async {
                match &mut self.watches {
                    Some((_, ends)) => ends.recv().await.map(WakeUp::Finished),
                    None => std::future::pending().await,
                }
            };
            // What is kept in a bounded buffer goes first; a look that waits is not lost.
            let push = tokio::select! {
                biased;
                () = self.gone.changed() => return None,
                push = other => push?,
                push = finished => push?,
                push = Listening::hears(&mut self.work, WakeUp::Work) => push,
                push = Listening::hears(&mut self.alone, WakeUp::Work) => push,
                push = Listening::hears(&mut self.marks, WakeUp::Marks) => push,
            };
            if self.wants(push) {
                return Some(push);
            }
        }
    }

    async fn watch(&mut self, jobs: &[JobId]) -> Result<bool> {
        let (told, _) = self.watches.get_or_insert_with(mpsc::unbounded_channel);
        self.watched.watch(jobs, told);
        Ok(true)
    }
}
