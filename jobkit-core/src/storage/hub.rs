//! Pushes within one process, for storages that live in it.

use async_trait::async_trait;
use tokio::sync::{broadcast, watch};

use crate::clock::Timestamp;
use crate::ids::JobId;
use crate::storage::queue::{WakeUp, WakeUpFilter, WakeUps};

/// Tells listeners of the same process what happened in a storage.
///
/// Telling costs nothing while nobody listens. New work is a mere "look again", so that any number of
/// enqueues between two looks are one push.
#[derive(Debug)]
pub struct WakeUpHub {
    work: watch::Sender<()>,
    others: broadcast::Sender<WakeUp>,
}

impl Default for WakeUpHub {
    fn default() -> Self {
        Self { work: watch::Sender::new(()), others: broadcast::Sender::new(1024) }
    }
}

impl WakeUpHub {
    /// Work became claimable.
    pub fn work(&self) {
        self.work.send_replace(());
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
            work: (!filter.queues.is_empty()).then(|| self.work.subscribe()),
            others: (others.finished || others.due || others.cancels_of.is_some())
                .then(|| self.others.subscribe()),
            filter: filter.clone(),
        })
    }
}

struct Listener {
    work: Option<watch::Receiver<()>>,
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
                    Some(work) => work.changed().await.ok().map(|()| WakeUp::Work),
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
