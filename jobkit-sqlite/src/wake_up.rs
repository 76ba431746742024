//! Wake-ups: at once within the process; by polling `data_version` for other processes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use jobkit_core::storage::{WakeUp, WakeUpFilter, WakeUps};
use jobkit_core::{JobId, Result};
use tokio::sync::watch;

use crate::storage::{Inner, SqliteStorage};

/// A listener of the hub that also hears of other processes.
struct Listener {
    near: Box<dyn WakeUps>,
    far_work: Option<watch::Receiver<()>>,
    far_others: Option<watch::Receiver<()>>,
    storage: Weak<Inner>,
    sleepers: Arc<AtomicUsize>,
}

pub(crate) fn subscribe(storage: &SqliteStorage, filter: &WakeUpFilter) -> Box<dyn WakeUps> {
    let shared = &storage.inner.shared;
    Box::new(Listener {
        near: shared.hub.subscribe(filter),
        far_work: (!filter.queues.is_empty()).then(|| shared.foreign_work.subscribe()),
        far_others: (filter.marks || filter.due || filter.cancels_of.is_some())
            .then(|| shared.foreign_others.subscribe()),
        storage: Arc::downgrade(&storage.inner),
        sleepers: Arc::clone(&shared.sleepers),
    })
}

/// While it exists, the writer polls for other processes.
struct SleepGuard(Arc<AtomicUsize>);

impl Drop for SleepGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn changed(from: &mut Option<watch::Receiver<()>>) -> bool {
    match from {
        Some(from) => from.changed().await.is_ok(),
        None => std::future::pending().await,
    }
}

#[async_trait]
impl WakeUps for Listener {
    async fn next(&mut self) -> Option<WakeUp> {
        let first = self.sleepers.fetch_add(1, Ordering::SeqCst) == 0;
        let _guard = SleepGuard(Arc::clone(&self.sleepers));
        if first && let Some(storage) = self.storage.upgrade() {
            storage.watch();
        }
        tokio::select! {
            push = self.near.next() => push,
            open = changed(&mut self.far_work) => open.then_some(WakeUp::Work),
            open = changed(&mut self.far_others) => open.then_some(WakeUp::Lost),
        }
    }

    async fn watch(&mut self, jobs: &[JobId]) -> Result<bool> {
        if self.far_others.is_none() {
            let storage = self.storage.upgrade();
            self.far_others = storage.map(|it| it.shared.foreign_others.subscribe());
        }
        self.near.watch(jobs).await
    }
}
