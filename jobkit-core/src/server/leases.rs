//! Renews what is held, in bulk, and proves the server's life.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::metrics;
use crate::model::clock::Timestamp;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::ids::source_now;
use crate::server::engine::Engine;
use crate::server::held::{HeldJob, Phase, StopCause, attempt};
use crate::storage::{
    Call, Heartbeat, Pushes, RenewAnswer, RenewRequest, Renewal, Renewed, WakeUpFilter,
};

/// How soon a failed renewal is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// How often a server that stands by asks for its name.
const STANDS_BY: Duration = Duration::from_secs(2);
/// By so much may the clock of this process differ from the storage's before health says so.
const SKEW: Duration = Duration::from_secs(60);
/// The longest time between two heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(10);

pub(super) async fn run(engine: Arc<Engine>) {
    // Apart, so that a heartbeat which is not answered lets no lease expire.
    tokio::join!(renewals(&engine), heartbeats(&engine), deadlines(&engine));
}

/// Goes on renewing what still runs after the server has stopped, since a handler on the blocking pool
/// cannot be ended: it keeps its lease until it ends, or the process does.
pub(super) async fn keep(engine: Arc<Engine>) {
    let mut settled_through = 0;
    loop {
        let runs = |job: &HeldJob| matches!(job.phase, Phase::Running(_));
        {
            let mut held = engine.held.lock();
            held.jobs.retain(|_, job| runs(job));
            // The process is to end, and that is no crash.
            held.jobs.values_mut().for_each(|job| job.started = false);
            if held.jobs.is_empty() {
                return;
            }
        }
        if let Err(error) = renew(&engine, &mut settled_through).await {
            tracing::debug!(error = %error, "renewing leases failed, retrying");
        }
        tokio::time::sleep(engine.options.renew_interval()).await;
    }
}

async fn renewals(engine: &Engine) {
    let interval = engine.options.renew_interval();
    let filter = WakeUpFilter { cancels_of: Some(engine.incarnation()), ..WakeUpFilter::default() };
    let mut pushes = Pushes::subscribe(&*engine.storage, filter).await;
    // The last claim up to which everything is known to be settled.
    let mut settled_through = 0;
    let mut pause = interval;
    loop {
        tokio::select! {
            biased;
            () = engine.ended.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            () = engine.signals.renew.notified() => {}
            // The renewal says whether it is true, and for which of ours.
            _ = pushes.next() => {}
        }
        let renewed = renew(engine, &mut settled_through).await;
        pause = next_try(engine, renewed, interval);
        engine.signals.renewed.notify_one();
    }
}

async fn heartbeats(engine: &Engine) {
    let interval = engine.options.renew_interval().min(HEARTBEAT);
    let mut drains = false;
    loop {
        let beat = heartbeat(engine).await;
        let mut pause = next_try(engine, beat, interval);
        if engine.stands_by() {
            pause = pause.min(STANDS_BY);
        }
        tokio::select! {
            biased;
            () = engine.ended.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            () = engine.signals.heartbeat.notified() => {}
            // A successor may have the name from now on.
            () = engine.quiet.cancelled(), if !drains => {
                drains = true;
                if let Err(error) = engine.announce().await {
                    tracing::debug!(error = %error, "the storage does not know that the server is draining");
                }
            }
        }
    }
}

/// Past its local deadline a lease may be gone: holders of limits must not go on.
async fn deadlines(engine: &Engine) {
    let longest = engine.options.renew_interval();
    loop {
        let now = Instant::now();
        let mut next = longest;
        for job in engine.held.lock().jobs.values_mut().filter(|job| job.limited) {
            match job.sure_until.checked_duration_since(now) {
                Some(left) if !left.is_zero() => next = next.min(left),
                _ => job.stop(StopCause::LeaseUnsure),
            }
        }
        if !engine.sleep(next).await {
            return;
        }
    }
}

fn next_try(engine: &Engine, result: Result<()>, interval: Duration) -> Duration {
    match result {
        Ok(()) => {
            engine.health.works("leases");
            interval
        }
        Err(error) => {
            engine.health.failed("leases", &error);
            RETRY.min(interval)
        }
    }
}

/// How long one call may take, so that the next one comes before leases expire.
fn limit(engine: &Engine) -> Duration {
    engine.options.renew_interval().min(HEARTBEAT)
}

/// Renews everything held, in chunks of whole claims, so that each range is listed completely.
async fn renew(engine: &Engine, settled_through: &mut u64) -> Result<()> {
    let (mut held, seen, last_taken) = {
        let held = engine.held.lock();
        let renewals: Vec<(u64, Renewal)> = held
            .jobs
            .iter()
            .map(|(this, job)| {
                let started = held.counts(*this, job);
                (job.claim, Renewal { lease: job.lease, started })
            })
            .collect();
        (renewals, held.seen_claim, held.last_taken)
    };
    // Claims that took nothing leave nothing to be given back, so a server that polls in vain is silent.
    if held.is_empty() && last_taken <= *settled_through {
        return Ok(());
    }
    let idle = held.is_empty();
    held.sort_unstable_by_key(|(claim, _)| *claim);
    let mut from = 1;
    let mut rest = held.as_slice();
    loop {
        let (chunk, through) = whole_claims(rest, seen, engine.step_items());
        let sent_at = Instant::now();
        let request = RenewRequest {
            incarnation: engine.incarnation(),
            sequences: from..=through,
            held: chunk.iter().map(|(_, renewal)| *renewal).collect(),
            lease: engine.options.lease,
        };
        let renewed =
            engine.within(limit(engine), engine.storage.renew(&Call::default(), &request)).await?;
        if renewed.answers.len() != request.held.len() {
            let text = "the storage answered another number of renewals";
            return Err(Error::new(ErrorKind::Internal, text));
        }
        apply(engine, &request, &renewed, sent_at);
        rest = &rest[chunk.len()..];
        from = through + 1;
        if through >= seen {
            // A storage gives back a bounded number at a time, and what others hold not at all.
            if idle && renewed.given_back.is_empty() {
                *settled_through = seen;
            }
            return Ok(());
        }
    }
}

/// The longest prefix that holds whole claims and fits a step, and the last claim it covers.
fn whole_claims(held: &[(u64, Renewal)], seen: u64, step: usize) -> (&[(u64, Renewal)], u64) {
    if held.len() <= step {
        return (held, seen);
    }
    let cut = held[step].0;
    match held.partition_point(|(claim, _)| *claim < cut) {
        // One claim is never larger than a step, so this is the first one, whole.
        0 => (&held[..held.partition_point(|(claim, _)| *claim <= cut)], cut),
        whole => (&held[..whole], cut - 1),
    }
}

fn apply(engine: &Engine, request: &RenewRequest, renewed: &Renewed, sent_at: Instant) {
    let mut held = engine.held.lock();
    for (renewal, answer) in request.held.iter().zip(&renewed.answers) {
        let Some(job) = held.jobs.get_mut(&attempt(&renewal.lease)) else { continue };
        if job.lease != renewal.lease {
            continue;
        }
        match answer {
            RenewAnswer::Renewed { cancel, .. } => {
                job.sure_until = sent_at + request.lease;
                job.counted = renewal.started;
                if cancel.is_some() {
                    job.stop(StopCause::Requested);
                }
            }
            RenewAnswer::Lost => {
                // Where it is being settled, its own answer tells.
                if matches!(job.phase, Phase::Running(_)) {
                    tracing::warn!(job = %renewal.lease.job, "lease lost, cancelling the handler");
                }
                // What waits for a worker is not started any more.
                job.sure_until = sent_at;
                job.stop(StopCause::LeaseLost);
            }
            RenewAnswer::Busy => {}
        }
    }
}

async fn heartbeat(engine: &Engine) -> Result<()> {
    let busy = {
        let held = engine.held.lock();
        held.jobs.values().filter(|job| matches!(job.phase, Phase::Running(_))).count()
    };
    let problems = engine.health.read().problems.len();
    metrics::server(&engine.info.name, engine.options.workers, busy, problems);
    let beat = Heartbeat {
        incarnation: engine.incarnation(),
        busy: u32::try_from(busy).unwrap_or(u32::MAX),
    };
    let asked_at = source_now();
    let answer =
        engine.within(limit(engine), engine.storage.heartbeat(&Call::default(), &beat)).await?;
    tell_skew(engine, asked_at, answer.now);
    if !answer.known {
        engine.announce().await?;
        engine.signals.dispatcher.notify_one();
        return Ok(());
    }
    if engine.clock.read(answer.now) {
        engine.health.works("clock");
    } else {
        engine
            .health
            .failed("clock", &"the storage's clock jumps, so nothing is promoted, fired or purged");
    }
    engine.set_paused(answer.paused);
    engine.follow(answer.command);
    if answer.bulk {
        engine.signals.bulk.notify_one();
    }
    Ok(())
}

/// Says in health that this process and the storage do not agree about the time. Ids have this process's
/// time, and the storage refuses those that are too far from its own.
fn tell_skew(engine: &Engine, asked_at: Timestamp, storage_now: Timestamp) {
    let answered_at = source_now();
    // The storage read its clock at some time in between.
    let (behind, ahead) = (asked_at.since(storage_now), storage_now.since(answered_at));
    let off = behind.max(ahead);
    if off <= SKEW {
        engine.health.works("clock_skew");
        return;
    }
    let (direction, off) = (if ahead > behind { "behind" } else { "ahead of" }, off.as_secs());
    let problem = format!(
        "this server's clock ({answered_at}) is {off} s {direction} the storage's ({storage_now}): set \
         both by NTP; jobs enqueued here are refused when it is 10 min ahead or 1 h behind"
    );
    engine.health.failed("clock_skew", &problem);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{Incarnation, JobId};
    use crate::model::record::{Lease, Locator};

    #[test]
    fn chunks_hold_whole_claims() {
        let incarnation = Incarnation::from_i64(1);
        let renewal = |claim| {
            let lease = Lease { job: JobId::new(), locator: Locator(0), fence: 1, incarnation };
            (claim, Renewal { lease, started: true })
        };
        let held: Vec<_> = (0..500).map(|i| renewal(i / 200 + 1)).collect();
        let (chunk, through) = whole_claims(&held, 9, 300);
        assert_eq!((chunk.len(), through), (200, 1));
        let (chunk, through) = whole_claims(&held[200..], 9, 300);
        assert_eq!((chunk.len(), through), (300, 9));
        assert_eq!(whole_claims(&[], 9, 300).1, 9);
    }
}
