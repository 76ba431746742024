//! Rescues, sweeps, purges, and forgets silent servers. Idempotent, on every server, jittered, in
//! bounded steps.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::backoff::Backoff;
use crate::model::bounds;
use crate::model::error::{ErrorKind, Result};
use crate::model::ids::jittered;
use crate::model::state::StateName;
use crate::operate::bulk::{self, Stepped};
use crate::server::engine::Engine;
use crate::storage::{Call, ExpiredLease, Pushes, RescueRequest, Step, WakeUpFilter};

/// How soon marks are swept after something was written.
const SWEEP_AFTER_ACTIVITY: Duration = Duration::from_millis(500);
/// The pauses between steps of a sweep that found something left and completed nothing: the first, and the
/// longest.
const SHORTEST_VAIN_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_VAIN_PAUSE: Duration = Duration::from_millis(500);
/// Steps of purge in one go; the rest waits for the next, so that it never crowds out other work.
const PURGE_STEPS: usize = 20;
/// The shortest pause between two goes.
const SHORTEST_PURGE_PAUSE: Duration = Duration::from_millis(50);
/// The shortest pause between two steps of a bulk operation.
const SHORTEST_BULK_PAUSE: Duration = Duration::from_millis(5);
/// Bulk operations that are looked at for one that can be carried out.
const BULKS: usize = 20;
/// How soon a failed task is tried again.
const RETRY: Duration = Duration::from_secs(1);

pub(super) async fn run(engine: Arc<Engine>) {
    tokio::join!(rescue(&engine), sweep(&engine), purge(&engine), drive_bulks(&engine));
}

fn report(engine: &Engine, result: &Result<()>) {
    match result {
        Ok(()) => engine.health.works("janitor"),
        Err(error) => engine.health.failed("janitor", error),
    }
}

/// Looks for expired leases, and takes them away on the second look, one renewal interval later: so an
/// outage of the database that is longer than a lease reruns nothing.
async fn rescue(engine: &Engine) {
    let interval = engine.options.rescue_interval();
    let between_looks = engine.options.renew_interval();
    let mut seen: Vec<ExpiredLease> = Vec::new();
    let mut seen_at = Instant::now();
    let mut pause = jittered(interval);
    while engine.sleep(pause).await {
        let second_look = seen_at.elapsed() >= between_looks;
        let request = RescueRequest {
            seen: if second_look { std::mem::take(&mut seen) } else { Vec::new() },
            crash_limit: engine.options.crash_limit,
            max: engine.step_items(),
        };
        match engine.bounded(engine.storage.rescue_expired(&Call::default(), &request)).await {
            Ok(rescue) => {
                report(engine, &Ok(()));
                for (job, state) in &rescue.rescued {
                    tracing::warn!(job = %job, state = %state, "lease expired, recovered the job");
                }
                let failed = rescue.rescued.iter().filter(|(_, state)| *state == StateName::Failed);
                for (job, _) in failed {
                    engine.report_crashed(*job).await;
                }
                if !rescue.rescued.is_empty() {
                    engine.signals.dispatcher.notify_one();
                    engine.signals.activity.notify_one();
                }
                if second_look || seen.is_empty() {
                    seen = rescue.expired;
                    seen_at = Instant::now();
                }
                // With leases to take, the second look follows as soon as it may.
                pause = match seen.is_empty() {
                    true => jittered(interval),
                    false => {
                        between_looks.saturating_sub(seen_at.elapsed()) + Duration::from_millis(10)
                    }
                };
            }
            Err(error) => {
                report(engine, &Err(error));
                // What was seen before an outage proves nothing about renewals during it.
                seen = Vec::new();
                pause = RETRY.min(interval);
            }
        }
    }
}

/// Completes marks soon after anything was written, else now and then.
async fn sweep(engine: &Engine) {
    let filter = WakeUpFilter { marks: true, ..WakeUpFilter::default() };
    let mut pushes = Pushes::subscribe(&*engine.storage, filter).await;
    let mut vain = Backoff::new(SHORTEST_VAIN_PAUSE, LONGEST_VAIN_PAUSE);
    loop {
        // Where pushes tell of marks, looking without one merely finds what a lost push left. Asked each
        // time: pushes may end.
        let idle = engine.options.janitor_interval * if pushes.are_offered() { 4 } else { 1 };
        let step = engine.bounded(engine.storage.sweep(&Call::default(), engine.step())).await;
        let pause = match &step {
            // Another sweeper is at what is left, or what is left was only looked at: it stays so for a while.
            Ok(Step { more: true, done: 0, .. }) => vain.next(),
            Ok(Step { more: true, .. }) => Duration::ZERO,
            Ok(Step { next_in: Some(next), .. }) => (*next).min(idle),
            Ok(_) => jittered(idle),
            Err(_) => RETRY,
        };
        if step.as_ref().is_ok_and(|step| step.done > 0 || !step.more) {
            vain.reset();
        }
        if step.as_ref().is_ok_and(|step| step.done > 0) {
            engine.signals.dispatcher.notify_one();
        }
        report(engine, &step.map(drop));
        tokio::select! {
            biased;
            () = engine.ended.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            () = engine.signals.activity.notified() => {
                if !engine.sleep(SWEEP_AFTER_ACTIVITY).await {
                    return;
                }
            }
            _ = pushes.next() => {
                if !engine.sleep(SWEEP_AFTER_ACTIVITY).await {
                    return;
                }
            }
        }
    }
}

/// Retention, and servers that have been silent.
///
/// It goes now and then, sooner where something expires before, and where a number bounds finished jobs,
/// whenever this server has finished a small part of that number. Each server counts its own, so that many
/// together look as often as one that finishes as much as they do.
async fn purge(engine: &Engine) {
    let shortest = engine.options.janitor_interval;
    let interval = shortest * 4;
    let mut pause = jittered(interval);
    let mut looked_for_dead = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = engine.ended.cancelled() => return,
            () = engine.finished.enough() => {}
            () = tokio::time::sleep(pause) => {
                // All that has gathered, however little was finished of late.
                engine.finished.begin_anew();
            }
        }
        pause = jittered(interval);
        if !engine.clock.is_trusted() {
            continue;
        }
        let began = Instant::now();
        let done = purge_once(engine).await;
        if let Ok(step) = &done {
            pause = match step {
                // As much again soon, so that retention keeps pace with whatever is enqueued; in between,
                // others write for twice as long.
                Step { more: true, .. } => {
                    (began.elapsed() * 2).clamp(SHORTEST_PURGE_PAUSE, interval)
                }
                // What is due now and was left is held by others, or still needed.
                Step { next_in: Some(next), .. } if !next.is_zero() => {
                    jittered((*next).clamp(shortest, interval))
                }
                _ => pause,
            };
        }
        let mut result = done.map(drop);
        if result.is_ok() && looked_for_dead.elapsed() >= shortest {
            looked_for_dead = began;
            result = remove_dead(engine).await;
        }
        report(engine, &result);
    }
}

/// Carries out bulk operations, as soon as a heartbeat tells of one.
async fn drive_bulks(engine: &Engine) {
    loop {
        tokio::select! {
            biased;
            () = engine.ended.cancelled() => return,
            () = engine.signals.bulk.notified() => {}
        }
        loop {
            let began = Instant::now();
            let step = engine.bounded(bulk_step(engine)).await;
            let pause = match &step {
                // In between, others write for five times as long.
                Ok(Some(Stepped::Went(_))) => {
                    (began.elapsed() * bulk::PACE).clamp(SHORTEST_BULK_PAUSE, RETRY)
                }
                Ok(Some(Stepped::Ended(record))) => {
                    tracing::info!(
                        operation = %record.id, done = record.done, skipped = record.skipped,
                        refused = record.refused, "bulk operation finished"
                    );
                    SHORTEST_BULK_PAUSE
                }
                // Somebody else is at it; a heartbeat tells again if that one is gone.
                Ok(Some(Stepped::Theirs(_) | Stepped::Unknown) | None) => break,
                Err(error) if error.kind() == ErrorKind::Unsupported => break,
                Err(_) => RETRY,
            };
            let failed = step.is_err();
            report(engine, &step.map(drop));
            if !engine.sleep(pause).await {
                return;
            }
            if failed {
                break;
            }
        }
    }
}

/// The next step of the oldest operation that has not ended and can be carried out.
async fn bulk_step(engine: &Engine) -> Result<Option<Stepped>> {
    let storage = &*engine.storage;
    let mut last = None;
    // One that somebody else is at, or that cannot be carried out, does not hold up the others.
    for record in storage.bulks(BULKS).await?.iter().filter(|bulk| bulk.ended_at.is_none()) {
        match bulk::step(storage, record.id).await {
            Ok(went @ (Stepped::Went(_) | Stepped::Ended(_))) => return Ok(Some(went)),
            Err(error) if error.is_retryable() => return Err(error),
            Ok(other) => last = Some(other),
            Err(error) => {
                tracing::warn!(operation = %record.id, %error, "bulk operation failed");
            }
        }
    }
    Ok(last)
}

/// Some steps; the answer of the last. Since others write between two of them, as many jobs go as this
/// server finishes, however busy it is.
async fn purge_once(engine: &Engine) -> Result<Step> {
    let finished = engine.finished.begin_anew();
    let steps = match finished {
        0 => PURGE_STEPS,
        // What it is behind grows less with each go, and others have their turn all the same.
        finished => (1 + 2 * finished / bounds::MAX_STEP_ITEMS).min(PURGE_STEPS),
    };
    let mut step = Step::default();
    for _ in 0..steps {
        step =
            engine.bounded(engine.storage.purge_expired(&Call::default(), engine.step())).await?;
        if !step.more {
            break;
        }
        tokio::task::yield_now().await;
    }
    Ok(step)
}

async fn remove_dead(engine: &Engine) -> Result<()> {
    let call = Call::default();
    let removed = engine.storage.remove_dead(&call, engine.options.dead_after);
    for server in engine.bounded(removed).await? {
        tracing::warn!(server = %server, "removed a server that was silent for too long; its jobs are recovered when their leases expire");
    }
    Ok(())
}
