//! Pushes within one process, for storages that live in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::sync::{Notify, broadcast};

use crate::model::clock::Timestamp;
use crate::model::ids::JobId;
use crate::storage::queue::{WakeUp, WakeUpFilter, WakeUps};

/// Tells listeners of the same process what happened in a storage.
///
/// Telling costs nothing while nobody listens. New work is a mere "look again", so that any number of
/// enqueues between two looks are one push.
#[derive(Debug)]
pub struct WakeUpHub {
    work: Arc<NewWork>,
    others: broadcast::Sender<WakeUp>,
}

impl Default for WakeUpHub {
    fn default() -> Self {
        Self { work: Arc::default(), others: broadcast::Sender::new(1024) }
    }
}

impl WakeUpHub {
    /// Work became claimable.
    pub fn work(&self) {
        self.work.tell();
    }

    /// Something is due at `at`.
    pub fn due(&self, at: Timestamp) {
        self.tell(WakeUp::Due(at));
    }

    /// A job finished.
    pub fn finished(&self, job: JobId) {
        self.tell(WakeUp::Finished(job));
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
        let others = filter.others;
        Box::new(Listener {
            work: (!filter.queues.is_empty())
                .then(|| Working { of: Arc::clone(&self.work), seen: self.work.count() }),
            others: (others.finished || others.due || others.cancels_of.is_some())
                .then(|| self.others.subscribe()),
            filter: filter.clone(),
        })
    }
}

/// How often work became claimable. Unlike a watch channel it wakes listeners in the order in which they
/// came, so that a run with one thread can be repeated.
#[derive(Debug, Default)]
struct NewWork {
    count: AtomicU64,
    closed: AtomicBool,
    notify: Notify,
}

impl NewWork {
    fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    fn tell(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.notify.notify_waiters();
    }
}

impl Drop for WakeUpHub {
    fn drop(&mut self) {
        self.work.closed.store(true, Ordering::SeqCst);
        self.work.tell();
    }
}

struct Working {
    of: Arc<NewWork>,
    seen: u64,
}

impl Working {
    /// Waits for work that was not seen yet; `false` when the storage is gone.
    async fn changed(&mut self) -> bool {
        loop {
            let notified = self.of.notify.notified();
            tokio::pin!(notified);
            // Before the look, so that nothing comes between.
            notified.as_mut().enable();
            let count = self.of.count();
            if count != self.seen {
                self.seen = count;
                return !self.of.closed.load(Ordering::SeqCst);
            }
            notified.await;
        }
    }
}

struct Listener {
    work: Option<Working>,
    others: Option<broadcast::Receiver<WakeUp>>,
    filter: WakeUpFilter,
}

impl Listener {
    fn wants(&self, push: WakeUp) -> bool {
        let others = self.filter.others;
        match push {
            WakeUp::Finished(_) => others.finished,
            WakeUp::Due(_) => others.due,
            WakeUp::Cancel(_) => others.cancels_of.is_some(),
            WakeUp::Work | WakeUp::Lost => true,
        }
    }
}

#[async_trait]
impl WakeUps for Listener {
    async fn next(&mut self) -> Option<WakeUp> {
        loop {
            let work = async {
                match &mut self.work {
                    Some(work) => work.changed().await.then_some(WakeUp::Work),
                    None => std::future::pending().await,
                }
            };
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
            // What is kept in a bounded buffer goes first; a look that waits is not lost.
            let push = tokio::select! {
                biased;
                push = other => push?,
                push = work => push?,
            };
            if self.wants(push) {
                return Some(push);
            }
        }
    }
}
