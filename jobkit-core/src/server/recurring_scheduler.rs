//! Fires recurring jobs. Any server may; the storage decides.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::error::{ErrorKind, Result};
use crate::ids::JobId;
use crate::record::Occurrence;
use crate::recurring::{Misfire, NextRun, RecurringRecord, RecurringRun, RunOutcome};
use crate::server::due_pushes::DuePushes;
use crate::server::engine::Engine;
use crate::server::supervisor::Backoff;
use crate::storage::{DueRecurring, Fire, FireJob, FireOutcome};

/// Schedules handled in one step.
const STEP: usize = 100;
/// How late an occurrence may be before the misfire policy applies.
const PUNCTUAL: Duration = Duration::from_secs(60);
/// How often it looks when nothing is known to be due.
const LONGEST: Duration = Duration::from_secs(15);
/// And where the storage pushes new instants.
const WITH_PUSHES: Duration = Duration::from_secs(60);
const SHORTEST: Duration = Duration::from_millis(10);
/// The most occurrences recorded as one range.
const RANGE: u32 = 10_000;

pub(super) async fn run(engine: Arc<Engine>) {
    let mut due = DuePushes::subscribe(&engine).await;
    let longest = if due.are_pushed() { WITH_PUSHES } else { LONGEST };
    let mut backoff = Backoff::new();
    loop {
        let mut storage_now = None;
        let pause = if engine.clock.is_trusted() {
            match step(&engine, longest).await {
                Ok((now, pause)) => {
                    engine.health.works("recurring");
                    backoff.reset();
                    storage_now = Some(now);
                    pause
                }
                // A backend without recurring jobs: nothing to do, for ever.
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

/// One step: the storage's clock, and how long nothing is due.
async fn step(engine: &Engine, longest: Duration) -> Result<(Timestamp, Duration)> {
    let due = engine.bounded(engine.storage.due_recurring(STEP, None)).await?;
    if due.due.is_empty() {
        let next = due.next_due_at.map_or(longest, |at| at.since(due.now));
        return Ok((due.now, next.clamp(SHORTEST, longest)));
    }
    let outcomes = fire(engine, &due).await?;
    if outcomes.iter().any(|outcome| matches!(outcome, FireOutcome::Fired(_))) {
        engine.signals.dispatcher.notify_one();
    }
    Ok((due.now, SHORTEST))
}

async fn fire(engine: &Engine, due: &DueRecurring) -> Result<Vec<FireOutcome>> {
    let fires: Vec<_> = due.due.iter().filter_map(|record| plan(record, due.now)).collect();
    let outcomes = engine.bounded(engine.storage.fire_recurring(&fires, None)).await?;
    for (fire, outcome) in fires.iter().zip(&outcomes) {
        tracing::debug!(recurring = %fire.id, outcome = ?outcome, "an occurrence was due");
    }
    Ok(outcomes)
}

/// Fires what is due, once; how many schedules moved on.
pub(super) async fn fire_due(engine: &Engine) -> Result<usize> {
    let due = engine.storage.due_recurring(STEP, None).await?;
    Ok(fire(engine, &due).await?.len())
}

/// What to do with a schedule whose next occurrence is due: which occurrences are skipped, which one is
/// fired, and what comes next. Pure.
fn plan(record: &RecurringRecord, now: Timestamp) -> Option<Fire> {
    let spec = &record.spec;
    let first = record.next?;
    let mut skipped = Ranges::default();
    let mut fire = None;
    let mut at = Some(first);
    let mut seen = 0;
    // Occurrences that fell into a pause which has ended by itself.
    while let Some(next) = at.filter(|next| is_due(next, now) && fell_into_pause(record, next)) {
        skipped.add(next.nominal_at, RunOutcome::Paused, now);
        at = spec.next_after(next.nominal_at);
        seen += 1;
        if seen >= RANGE {
            return Some(fire_of(record, first, skipped, None, at));
        }
    }
    // All that are due now, the oldest first; of a long gap a bounded part at a time.
    let mut due = Vec::new();
    while let Some(next) = at.filter(|next| is_due(next, now)) {
        due.push(next);
        at = spec.next_after(next.nominal_at);
        if due.len() >= RANGE as usize {
            break;
        }
    }
    let more = at.is_some_and(|next| is_due(&next, now));
    let is_late = |next: &NextRun| now.since(next.due_at) > PUNCTUAL;
    match spec.misfire {
        Misfire::RunOnce => {
            let last = if more { None } else { due.pop() };
            skipped.extend(&due, now);
            fire = last;
        }
        Misfire::Skip => {
            let last = if more { None } else { due.pop_if(|last| !is_late(last)) };
            skipped.extend(&due, now);
            fire = last;
        }
        Misfire::RunAll { cap } => {
            let cap = usize::try_from(cap).unwrap_or(usize::MAX);
            if more {
                skipped.extend(&due, now);
            } else {
                let too_many = due.len().saturating_sub(cap);
                skipped.extend(&due[..too_many], now);
                // One at a time: the next step fires the one after.
                fire = due.get(too_many).copied();
                at = due.get(too_many + 1).copied().or(at);
            }
        }
    }
    Some(fire_of(record, first, skipped, fire, at))
}

fn is_due(next: &NextRun, now: Timestamp) -> bool {
    next.due_at <= now
}

fn fell_into_pause(record: &RecurringRecord, next: &NextRun) -> bool {
    record.pause.as_ref().is_some_and(|pause| {
        next.due_at >= pause.since && pause.until.is_some_and(|until| next.due_at < until)
    })
}

fn fire_of(
    record: &RecurringRecord,
    first: NextRun,
    skipped: Ranges,
    fire: Option<NextRun>,
    next: Option<NextRun>,
) -> Fire {
    let job = fire.map(|fire| {
        let occurrence =
            Occurrence { recurring: record.spec.id.clone(), nominal_at: fire.nominal_at };
        FireJob {
            nominal_at: fire.nominal_at,
            job: record.spec.job.instantiate(JobId::new(), occurrence),
            overlap: record.spec.overlap,
        }
    });
    Fire { id: record.spec.id.clone(), expected: first.nominal_at, skipped: skipped.0, job, next }
}

/// Skipped occurrences, neighbours with one reason as one range.
#[derive(Default)]
struct Ranges(Vec<RecurringRun>);

impl Ranges {
    fn add(&mut self, nominal_at: Timestamp, outcome: RunOutcome, now: Timestamp) {
        match self.0.last_mut() {
            Some(range) if range.outcome == outcome && range.count < RANGE => {
                range.through = nominal_at;
                range.count += 1;
            }
            _ => {
                self.0.push(RecurringRun {
                    nominal_at,
                    through: nominal_at,
                    count: 1,
                    outcome,
                    at: now,
                });
            }
        }
    }

    fn extend(&mut self, missed: &[NextRun], now: Timestamp) {
        for next in missed {
            self.add(next.nominal_at, RunOutcome::Misfired, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recurring::{JobTemplate, Overlap, Pause, RecurringSpec};
    use crate::schedule::{Schedule, TimeZone};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(1_767_225_600_000_000 + seconds * 1_000_000)
    }

    fn every_minute(misfire: Misfire) -> RecurringRecord {
        let job =
            crate::record::NewRecord::new(JobId::new(), crate::Name::from_stored("k"), *b"{}");
        let spec = RecurringSpec {
            id: "r".into(),
            schedule: Schedule::cron("* * * * *").expect("valid"),
            time_zone: TimeZone::UTC,
            misfire,
            overlap: Overlap::Allow,
            jitter: Duration::ZERO,
            starts_at: None,
            ends_at: None,
            job: JobTemplate::from_record(&job).expect("valid"),
        };
        RecurringRecord {
            next: Some(NextRun { nominal_at: at(60), due_at: at(60) }),
            spec,
            etag: 1,
            last_nominal_at: None,
            last_job: None,
            pause: None,
            created_at: at(0),
        }
    }

    fn told(fire: &Fire) -> (Option<Timestamp>, u32, Option<Timestamp>) {
        let skipped = fire.skipped.iter().map(|range| range.count).sum();
        (
            fire.job.as_ref().map(|job| job.nominal_at),
            skipped,
            fire.next.map(|next| next.nominal_at),
        )
    }

    #[test]
    fn a_punctual_occurrence_is_fired_whatever_the_policy() {
        for misfire in [Misfire::RunOnce, Misfire::RunAll { cap: 5 }, Misfire::Skip] {
            let fire = plan(&every_minute(misfire), at(61)).expect("due");
            assert_eq!(told(&fire), (Some(at(60)), 0, Some(at(120))), "{misfire:?}");
        }
    }

    #[test]
    fn what_was_missed_goes_by_the_policy() {
        // 60, 120 … 600 are due at 605.
        let fire = |misfire| told(&plan(&every_minute(misfire), at(605)).expect("due"));
        assert_eq!(fire(Misfire::RunOnce), (Some(at(600)), 9, Some(at(660))));
        assert_eq!(fire(Misfire::Skip), (Some(at(600)), 9, Some(at(660))));
        assert_eq!(fire(Misfire::RunAll { cap: 3 }), (Some(at(480)), 7, Some(at(540))));
        assert_eq!(fire(Misfire::RunAll { cap: 50 }), (Some(at(60)), 0, Some(at(120))));
    }

    #[test]
    fn occurrences_in_a_pause_that_ended_are_skipped_as_paused() {
        let mut record = every_minute(Misfire::RunAll { cap: 50 });
        record.pause = Some(Pause { since: at(0), until: Some(at(300)), ..Pause::new("ann", "x") });
        let fire = plan(&record, at(310)).expect("due");
        assert_eq!(told(&fire), (Some(at(300)), 4, Some(at(360))));
        assert_eq!(fire.skipped[0].outcome, RunOutcome::Paused);
    }

    #[test]
    fn a_gap_of_years_is_recorded_in_bounded_parts() {
        let fire = plan(&every_minute(Misfire::RunOnce), at(3600 * 24 * 365)).expect("due");
        let (job, skipped, next) = told(&fire);
        assert_eq!((job, skipped), (None, RANGE));
        assert_eq!(next, Some(at(60 * (i64::from(RANGE) + 1))));
    }
}
