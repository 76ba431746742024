//! Fires recurring jobs. Any server may; the storage decides.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::backoff::Backoff;
use crate::model::clock::Timestamp;
use crate::model::error::{ErrorKind, Result};
use crate::model::recurring::{NextRun, RANGE, RecurringRecord};
use crate::server::due_pushes::DuePushes;
use crate::server::engine::Engine;
use crate::server::recurring_plan::plan;
use crate::server::supervisor;
use crate::storage::{Call, DueRecurring, Fire, FireOutcome, SaveRecurring};

/// Schedules handled in one step.
const STEP: usize = 100;
/// Instants computed in one step, about: what is left waits for the next.
const COMPUTED: usize = RANGE as usize;
/// How often it looks when nothing is known to be due.
const LONGEST: Duration = Duration::from_secs(15);
/// And where the storage pushes new instants.
const WITH_PUSHES: Duration = Duration::from_secs(60);
const SHORTEST: Duration = Duration::from_millis(10);
/// How often all schedules are looked through for next occurrences that lie too far ahead.
const AUDIT: Duration = Duration::from_secs(300);
/// How soon again after some were found.
const AUDIT_AGAIN: Duration = Duration::from_secs(15);
/// A clock that goes back by more is a reason to look through them at once.
const WENT_BACK: Duration = Duration::from_secs(1);
/// How long a schedule that cannot be fired rests.
const REST: Duration = Duration::from_secs(60);
/// How many are named in health; the rest is counted.
const NAMED: usize = 5;

const PART: &str = "schedules";

pub(super) async fn run(engine: Arc<Engine>) {
    let mut due = DuePushes::subscribe(&engine).await;
    let mut backoff = supervisor::retries();
    let mut scheduler = Scheduler::new(&engine);
    loop {
        // Asked each time: pushes may end.
        let longest = if due.are_pushed() { WITH_PUSHES } else { LONGEST };
        let mut storage_now = None;
        let pause = if engine.clock.is_trusted() {
            match scheduler.step(longest).await {
                Ok((now, pause)) => {
                    engine.health.works("recurring");
                    backoff.reset();
                    storage_now = Some(now);
                    pause
                }
                // A backend without recurring jobs: nothing to do, ever.
                Err(error) if error.kind() == ErrorKind::Unsupported => return,
                Err(error) => {
                    engine.health.failed("recurring", &error);
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
            () = due.earlier(storage_now, pause) => {}
        }
    }
}

struct Scheduler<'e> {
    engine: &'e Engine,
    /// Schedules that could not be fired: when they are tried again, and why they failed.
    failing: BTreeMap<String, (Instant, String)>,
    /// Schedules whose next occurrence lay too far ahead at the last audit, and where it was.
    ahead: Vec<String>,
    /// The last reading of the storage's clock.
    clock: Option<(Instant, Timestamp)>,
    audit_at: Instant,
    /// Between steps that moved nothing.
    vain: Backoff,
}

impl<'e> Scheduler<'e> {
    fn new(engine: &'e Engine) -> Self {
        Self {
            engine,
            failing: BTreeMap::new(),
            ahead: Vec::new(),
            clock: None,
            audit_at: Instant::now(),
            vain: supervisor::retries(),
        }
    }

    /// One step: the storage's clock, and how long nothing is due.
    async fn step(&mut self, longest: Duration) -> Result<(Timestamp, Duration)> {
        // Those that rest are due, too, and must not crowd out the others.
        let max = (STEP + self.failing.len()).min(self.engine.step_items());
        let storage = &self.engine.storage;
        let mut due = self.engine.bounded(storage.due_recurring(&Call::default(), max)).await?;
        if self.is_audit_due(due.now) && self.audit().await {
            due = self.engine.bounded(storage.due_recurring(&Call::default(), max)).await?;
        }
        let is_due = |id: &String| due.due.iter().any(|record| record.spec.id == *id);
        let now = Instant::now();
        self.failing.retain(|id, (retry_at, _)| *retry_at > now || is_due(id));
        let rests = |id: &str| self.failing.get(id).is_some_and(|(retry_at, _)| *retry_at > now);
        let (fires, all) = plans(&due, rests).await;
        let until_next = due.next_due_at.map_or(longest, |at| at.since(due.now));
        let mut pause = until_next.clamp(SHORTEST, longest);
        if !self.failing.is_empty() {
            pause = pause.min(LONGEST);
        }
        if !fires.is_empty() {
            let outcomes = fire(self.engine, &fires).await?;
            self.note(&fires, &outcomes);
            pause = match all && !outcomes.iter().any(has_moved) {
                // Another server was faster, or nothing can be done.
                true => self.vain.next().min(pause.max(SHORTEST)),
                false => {
                    self.vain.reset();
                    SHORTEST
                }
            };
        }
        self.report();
        Ok((due.now, pause))
    }

    fn note(&mut self, fires: &[Fire], outcomes: &[FireOutcome]) {
        for (fire, outcome) in fires.iter().zip(outcomes) {
            match outcome {
                FireOutcome::Failed(reason) => {
                    let failing = (Instant::now() + REST, reason.clone());
                    if self.failing.insert(fire.id.clone(), failing).is_none() {
                        tracing::warn!(recurring = %fire.id, %reason, "a schedule cannot be fired");
                    }
                }
                _ => {
                    self.failing.remove(&fire.id);
                }
            }
        }
        if outcomes.iter().any(|outcome| matches!(outcome, FireOutcome::Fired(_))) {
            self.engine.signals.dispatcher.notify_one();
        }
    }

    /// Whether all schedules should be looked through: now and then, and when the clock went back.
    fn is_audit_due(&mut self, storage_now: Timestamp) -> bool {
        let now = Instant::now();
        let went_back = self.clock.replace((now, storage_now)).is_some_and(|(at, reading)| {
            reading.plus(now.duration_since(at)).since(storage_now) > WENT_BACK
        });
        went_back || now >= self.audit_at
    }

    /// Looks for schedules whose next occurrence lies beyond the first that was not fired, since it was
    /// computed while the clock was ahead, and sets it anew; whether any was found.
    async fn audit(&mut self) -> bool {
        let ahead = self.engine.bounded(set_anew(self.engine)).await;
        let found = match ahead {
            Ok(ahead) => {
                self.ahead = ahead;
                !self.ahead.is_empty()
            }
            Err(error) => {
                tracing::debug!(error = %error, "checking schedules failed");
                self.audit_at = Instant::now() + AUDIT_AGAIN;
                return false;
            }
        };
        self.audit_at = Instant::now() + if found { AUDIT_AGAIN } else { AUDIT };
        found
    }

    fn report(&self) {
        let failing = self.failing.iter().map(|(id, (_, reason))| format!("`{id}`: {reason}"));
        let failing = listed("these schedules cannot be fired", failing);
        let ahead = listed(
            "the clock was ahead when the next occurrence of these schedules was computed, and it has \
             been computed again",
            self.ahead.iter().cloned(),
        );
        let problems: Vec<_> = failing.into_iter().chain(ahead).collect();
        match problems.is_empty() {
            true => self.engine.health.cleared(PART),
            false => self.engine.health.stands(PART, problems.join("; ")),
        }
    }
}

/// What is wrong, with the first few; `None` without any.
fn listed(what: &str, items: impl ExactSizeIterator<Item = String>) -> Option<String> {
    let all = items.len();
    let named: Vec<_> = items.take(NAMED).collect();
    match all - named.len() {
        _ if all == 0 => None,
        0 => Some(format!("{what}: {}", named.join(", "))),
        more => Some(format!("{what}: {} and {more} more", named.join(", "))),
    }
}

/// Saves each schedule with its first occurrence that was not fired, where the stored one lies beyond;
/// answers which.
async fn set_anew(engine: &Engine) -> Result<Vec<String>> {
    let storage = &engine.storage;
    let mut found = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = storage.list_recurring(after.as_deref(), STEP).await?;
        let Some(last) = page.last() else { return Ok(found) };
        after = Some(last.spec.id.clone());
        // After the schedules were read: a time from before would take for ahead what another server has
        // computed since, on a clock that was set forward meanwhile.
        let now = storage.now().await?;
        let earlier: Vec<_> = page.iter().filter_map(|record| earlier(record, now)).collect();
        for (id, next) in set_all(engine, &earlier).await? {
            let next = next.nominal_at;
            tracing::warn!(recurring = %id, ?next, "the clock went back, recomputed the next occurrence");
            found.push(format!("`{id}`"));
        }
        tokio::task::yield_now().await;
    }
}

fn earlier(record: &RecurringRecord, now: Timestamp) -> Option<(&RecurringRecord, NextRun)> {
    if record.pause.as_ref().is_some_and(|pause| pause.holds(now)) {
        return None;
    }
    Some((record, record.recomputed_next(now)?))
}

/// Sets next occurrences, each only where the schedule is as it was read: another server may have set or
/// fired it meanwhile. Answers which were set.
async fn set_all<'r>(
    engine: &Engine,
    earlier: &[(&'r RecurringRecord, NextRun)],
) -> Result<Vec<(&'r str, NextRun)>> {
    let mut set = Vec::new();
    let (going, over): (Vec<_>, Vec<_>) = earlier.iter().partition(|(it, _)| it.next.is_some());
    let fires = going.iter().filter_map(|(record, next)| {
        Some(Fire {
            id: record.spec.id.clone(),
            expected: record.next?.nominal_at,
            etag: record.etag,
            skipped: Vec::new(),
            job: None,
            next: Some(*next),
        })
    });
    let fires: Vec<_> = fires.collect();
    if !fires.is_empty() {
        let outcomes = engine.storage.fire_recurring(&Call::default(), &fires).await?;
        let is_set = |outcome: &FireOutcome| matches!(outcome, FireOutcome::Skipped);
        let applied = going.iter().zip(&outcomes).filter(|(_, outcome)| is_set(outcome));
        set.extend(applied.map(|((record, next), _)| (record.spec.id.as_str(), *next)));
    }
    // One that was over while the clock was ahead has none that could be compared.
    let saves = over.iter().map(|(record, next)| SaveRecurring {
        spec: record.spec.clone(),
        next: Some(*next),
        if_etag: Some(record.etag),
    });
    let saves: Vec<_> = saves.collect();
    if !saves.is_empty() {
        engine.storage.save_recurring(&Call::default(), &saves).await?;
        set.extend(over.iter().map(|(record, next)| (record.spec.id.as_str(), *next)));
    }
    Ok(set)
}

/// What to do with the schedules that are due; whether that is all of it.
async fn plans(due: &DueRecurring, rests: impl Fn(&str) -> bool) -> (Vec<Fire>, bool) {
    let mut fires = Vec::new();
    let mut computed = 0;
    for record in due.due.iter().filter(|record| !rests(&record.spec.id)) {
        if computed >= COMPUTED {
            return (fires, false);
        }
        fires.extend(plan(record, due.now, &mut computed).await);
    }
    (fires, true)
}

async fn fire(engine: &Engine, fires: &[Fire]) -> Result<Vec<FireOutcome>> {
    let mut outcomes = Vec::with_capacity(fires.len());
    match engine.bounded(engine.storage.fire_recurring(&Call::default(), fires)).await {
        Ok(together) => outcomes = together,
        Err(error) if error.is_retryable() || error.kind() == ErrorKind::Unsupported => {
            return Err(error);
        }
        // One of them is poisoned, and the others must not suffer.
        Err(_) => {
            for fire in fires {
                let alone = std::slice::from_ref(fire);
                match engine.bounded(engine.storage.fire_recurring(&Call::default(), alone)).await {
                    Ok(answer) => outcomes.extend(answer),
                    Err(error) if error.is_retryable() => return Err(error),
                    Err(error) => outcomes.push(FireOutcome::Failed(error.to_string())),
                }
            }
        }
    }
    for (fire, outcome) in fires.iter().zip(&outcomes) {
        tracing::debug!(recurring = %fire.id, outcome = ?outcome, "an occurrence was due");
    }
    Ok(outcomes)
}

/// Fires what is due, once; how many schedules moved on.
pub(super) async fn fire_due(engine: &Engine) -> Result<usize> {
    let due = engine.storage.due_recurring(&Call::default(), STEP.min(engine.step_items())).await?;
    let (fires, _) = plans(&due, |_| false).await;
    if fires.is_empty() {
        return Ok(0);
    }
    Ok(fire(engine, &fires).await?.iter().filter(|outcome| has_moved(outcome)).count())
}

fn has_moved(outcome: &FireOutcome) -> bool {
    matches!(outcome, FireOutcome::Fired(_) | FireOutcome::Skipped)
}
