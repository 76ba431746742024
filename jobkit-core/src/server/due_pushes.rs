//! Pushes of instants that come before a timer would.

use std::time::Duration;

use tokio::time::Instant;

use crate::model::clock::Timestamp;
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
