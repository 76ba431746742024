//! Promotes due jobs, woken by a timer set to the next due instant.

use std::sync::Arc;
use std::time::Duration;

use crate::bounds::MAX_STEP_ITEMS;
use crate::clock::Timestamp;
use crate::server::engine::Engine;
use crate::server::supervisor::Backoff;
use crate::storage::{OtherPushes, StepRequest, WakeUp, WakeUpFilter, WakeUps};

/// The shortest time between two looks, so that a thousand instants in a second are few steps.
const SHORTEST: Duration = Duration::from_millis(10);
/// How often it looks where the storage pushes new instants.
const WITH_PUSHES: Duration = Duration::from_secs(30);

pub(super) async fn run(engine: Arc<Engine>) {
    let filter = WakeUpFilter {
        queues: Vec::new(),
        others: OtherPushes { due: true, ..OtherPushes::default() },
    };
    let mut pushes = engine.storage.wake_ups(filter).await.ok().flatten();
    let longest = if pushes.is_some() { WITH_PUSHES } else { engine.options.max_poll_interval };
    let mut backoff = Backoff::new();
    loop {
        let mut storage_now = None;
        let pause = if engine.clock.is_trusted() {
            match engine.storage.promote_due(StepRequest::default()).await {
                Ok(promoted) => {
                    engine.health.works("scheduler");
                    engine.clock.read(promoted.now);
                    backoff.reset();
                    storage_now = Some(promoted.now);
                    if promoted.count > 0 {
                        engine.signals.dispatcher.notify_one();
                    }
                    match promoted.next_due_at {
                        _ if promoted.count >= MAX_STEP_ITEMS => Duration::ZERO,
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
            () = engine.ended.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            // A retry was settled; its instant may be the next.
            () = engine.signals.scheduler.notified() => {}
            earlier = earlier_due(&mut pushes, storage_now, pause) => {
                if !engine.sleep(earlier).await {
                    return;
                }
            }
        }
    }
}

/// Waits for a push of an instant that comes before the timer would; answers how long it is until
/// then.
async fn earlier_due(
    pushes: &mut Option<Box<dyn WakeUps>>,
    storage_now: Option<Timestamp>,
    pause: Duration,
) -> Duration {
    let began = tokio::time::Instant::now();
    loop {
        let Some(source) = pushes else { std::future::pending().await };
        match source.next().await {
            Some(WakeUp::Due(at)) => {
                let Some(now) = storage_now.map(|now| now.plus(began.elapsed())) else {
                    return Duration::ZERO;
                };
                let wait = at.since(now);
                if wait < pause.saturating_sub(began.elapsed()) {
                    return wait.min(SHORTEST);
                }
            }
            Some(_) => return SHORTEST,
            None => *pushes = None,
        }
    }
}
