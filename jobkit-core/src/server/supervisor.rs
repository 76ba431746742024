//! Background processes: each goes on forever, whatever happens to it.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;

use crate::model::backoff::Backoff;
use crate::server::engine::Engine;

/// Runs a process until the server ends. A panic, which is a bug, restarts it with back-off.
pub(super) async fn supervise<F, Fut>(engine: Arc<Engine>, part: &'static str, process: F)
where
    F: Fn(Arc<Engine>) -> Fut,
    Fut: Future<Output = ()>,
{
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
    while !engine.ended.is_cancelled() {
        match AssertUnwindSafe(process(Arc::clone(&engine))).catch_unwind().await {
            Ok(()) => return,
            Err(_) => {
                engine.health.failed(part, &"panicked, which is a bug in jobkit or the storage")
            }
        }
        engine.sleep(backoff.next()).await;
    }
}

/// The pauses between tries of a call to the storage.
pub(super) const fn retries() -> Backoff {
    Backoff::new(Duration::from_millis(50), Duration::from_secs(5))
}
