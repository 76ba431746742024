//! Promotes due jobs, woken by a timer set to the next due instant.

use std::sync::Arc;
use std::time::Duration;

use crate::server::due_pushes::DuePushes;
use crate::server::engine::Engine;
use crate::server::supervisor;

/// The shortest time between two looks, so that a thousand instants in a second are few steps.
const SHORTEST: Duration = Duration::from_millis(10);
/// How often it looks where the storage pushes new instants.
const WITH_PUSHES: Duration = Duration::from_secs(60);

pub(super) async fn run(engine: Arc<Engine>) {
    let mut due = DuePushes::subscribe(&engine).await;
    let mut backoff = supervisor::retries();
    loop {
        // Asked each time: pushes may end.
        let longest = if due.are_pushed() { WITH_PUSHES } else { engine.options.max_poll_interval };
        let mut storage_now = None;
        let pause = if engine.clock.is_trusted() {
            match engine.bounded(engine.storage.promote_due(engine.step())).await {
                Ok(promoted) => {
                    engine.health.works("scheduler");
                    engine.clock.read(promoted.now);
                    backoff.reset();
                    storage_now = Some(promoted.now);
                    if promoted.count > 0 {
                        engine.signals.dispatcher.notify_one();
                    }
                    match promoted.next_due_at {
                        _ if promoted.count >= engine.step().max => Duration::ZERO,
                        Some(next) => next.since(promoted.now).clamp(SHORTEST, longest),
                        None => longest,
                    }
                }
                Err(error) => {
                    engine.health.failed("scheduler", &error);
                    backoff.next()
                }
            }
        } else {
            Duration::from_secs(1)
        };
        tokio::select! {
            biased;
            () = engine.ended.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            // A retry was settled; its instant may be the next.
            () = engine.signals.scheduler.notified() => {}
            () = due.earlier(storage_now, pause) => {}
        }
    }
}
