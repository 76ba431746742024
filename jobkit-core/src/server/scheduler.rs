//! Promotes due jobs, woken by a timer set to the next due instant.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::clock::Timestamp;
use crate::server::due_pushes::DuePushes;
use crate::server::engine::Engine;
use crate::server::supervisor;
use crate::storage::Call;

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
            match engine.bounded(engine.storage.promote_due(&Call::default(), engine.step())).await
            {
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
        if !wait(&engine, &mut due, storage_now, pause).await {
            return;
        }
    }
}

/// Waits until something may be due; `false` if the server has ended.
async fn wait(
    engine: &Engine,
    due: &mut DuePushes,
    storage_now: Option<Timestamp>,
    pause: Duration,
) -> bool {
    let began = Instant::now();
    let mut until = began + pause;
    let last = began + WITH_PUSHES;
    loop {
        tokio::select! {
            biased;
            () = engine.ended.cancelled() => return false,
            () = tokio::time::sleep_until(until) => {
                // Claims come as often as this would look, and each tells how long nothing is due. So it need
                // not ask, as long as claims are made.
                let told = engine.due_told.nothing_until(engine.options.max_poll_interval);
                let told = told.filter(|_| storage_now.is_some() && !due.are_pushed());
                match told.map(|told| told.min(last)).filter(|later| *later > until) {
                    Some(later) => until = later,
                    None => return true,
                }
            }
            // A retry was settled; its instant may be the next.
            () = engine.signals.scheduler.notified() => return true,
            () = due.earlier(storage_now, pause) => return true,
            at = engine.due_told.sooner(), if !due.are_pushed() => until = until.min(at),
        }
    }
}
