//! Pushes of instants that come before a timer would, and what claims tell where there are none.

use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::model::clock::Timestamp;
use crate::model::sync::lock;
use crate::server::engine::Engine;
use crate::storage::{Pushes, WakeUp, WakeUpFilter};

/// Pushes closer together than this are one, so that a thousand new instants are few looks.
const TOGETHER: Duration = Duration::from_millis(10);

/// Tells when something is due earlier than was known.
pub(super) struct DuePushes(Pushes);

impl DuePushes {
    pub(super) async fn subscribe(engine: &Engine) -> Self {
        let filter = WakeUpFilter { due: true, ..WakeUpFilter::default() };
        Self(Pushes::subscribe(&*engine.storage, filter).await)
    }

    /// Whether the storage pushes at all.
    pub(super) fn are_pushed(&self) -> bool {
        self.0.are_offered()
    }

    /// Waits for the push of an instant that lies before the end of `pause`, and then for that instant.
    /// `storage_now` is the storage's clock at the beginning of the pause, where it was read.
    ///
    /// # Cancel safety
    /// Dropping the future may lose the instant it waits for, which the end of the pause finds.
    pub(super) async fn earlier(&mut self, storage_now: Option<Timestamp>, pause: Duration) {
        let began = Instant::now();
        let mut at = None;
        loop {
            let reached = async {
                match at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let push = tokio::select! {
                biased;
                () = reached => return,
                push = self.0.next() => push,
            };
            let wait = match (push, storage_now) {
                (WakeUp::Due(due), Some(now)) => due.since(now).saturating_sub(began.elapsed()),
                _ => Duration::ZERO,
            };
            let due = Instant::now() + wait.max(TOGETHER);
            if due < began + pause && at.is_none_or(|at| due < at) {
                at = Some(due);
            }
        }
    }
}

/// The next due instant, as the last claim that named one told it.
///
/// A server that gets no pushes polls for work, and such a claim says how long nothing is due: then nobody
/// else needs to ask for that.
#[derive(Debug, Default)]
pub(crate) struct DueTold {
    last: Mutex<Option<Told>>,
    sooner: Notify,
}

#[derive(Clone, Copy, Debug)]
struct Told {
    told_at: Instant,
    due_at: Instant,
}

impl DueTold {
    pub(super) fn tell(&self, due_at: Instant) {
        let told = Told { told_at: Instant::now(), due_at };
        let before = lock(&self.last).replace(told);
        if before.is_none_or(|before| due_at < before.due_at) {
            self.sooner.notify_one();
        }
    }

    /// Until when nothing is due, where a claim told it a moment ago: `moment` is how long that counts.
    pub(super) fn nothing_until(&self, moment: Duration) -> Option<Instant> {
        let told = (*lock(&self.last))?;
        let until = told.due_at.min(told.told_at + moment);
        (until > Instant::now()).then_some(until)
    }

    /// Waits until a claim tells of an instant that is due sooner than was told before.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(super) async fn sooner(&self) -> Instant {
        loop {
            self.sooner.notified().await;
            if let Some(told) = *lock(&self.last) {
                return told.due_at;
            }
        }
    }
}
