//! Background processes: each goes on forever, whatever happens to it.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;

use crate::model::ids::jittered;
use crate::server::engine::Engine;

/// Runs a process until the server ends. A panic, which is a bug, restarts it with back-off.
pub(super) async fn supervise<F, Fut>(engine: Arc<Engine>, part: &'static str, process: F)
where
    F: Fn(Arc<Engine>) -> Fut,
    Fut: Future<Output = ()>,
{
    let mut pause = Duration::from_millis(100);
    while !engine.ended.is_cancelled() {
        match AssertUnwindSafe(process(Arc::clone(&engine))).catch_unwind().await {
            Ok(()) => return,
            Err(_) => {
                engine.health.failed(part, &"panicked, which is a bug in jobkit or the storage")
            }
        }
        engine.sleep(jittered(pause)).await;
        pause = (pause * 2).min(Duration::from_secs(10));
    }
}

/// The growing pauses between tries.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_secs(5);

    pub(super) fn new() -> Self {
        Self { next: Self::FIRST }
    }

    /// How long to wait now; the next time longer.
    pub(super) fn next(&mut self) -> Duration {
        let pause = jittered(self.next);
        self.next = (self.next * 2).min(Self::LONGEST);
        pause
    }

    pub(super) fn reset(&mut self) {
        self.next = Self::FIRST;
    }
}
