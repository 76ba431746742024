//! What is to be done with a schedule that is due.

use std::time::Duration;

use crate::model::clock::Timestamp;
use crate::model::ids::JobId;
use crate::model::record::Occurrence;
use crate::model::recurring::{Misfire, NextRun, RANGE, Ranges, RecurringRecord, RunOutcome};
use crate::storage::{Fire, FireJob};

/// How late an occurrence may be before the misfire policy applies.
const PUNCTUAL: Duration = Duration::from_secs(60);
/// The most occurrences of a schedule that are looked at in one step. Of more, the step skips a part that
/// is certain, and the next one goes on behind it. More than any policy fires.
const WINDOW: usize = RANGE as usize;
/// This many instants are computed before others get their turn on the thread.
const TURN: usize = 256;

/// A due occurrence.
struct Due {
    next: NextRun,
    /// It came in a pause that has ended by itself.
    paused: bool,
    /// Something between it and the one before was fired.
    apart: bool,
}

/// What to do with a schedule whose next occurrence is due: which occurrences are skipped, which one is
/// fired, and what comes next. Adds to `computed` how many instants that took.
pub(super) async fn plan(
    record: &RecurringRecord,
    now: Timestamp,
    computed: &mut usize,
) -> Option<Fire> {
    let spec = &record.spec;
    let first = record.next?;
    let is_due = |next: &NextRun| next.due_at <= now;
    // All that are due, the oldest first.
    let mut due = Vec::new();
    let mut at = Some(first);
    let mut apart = false;
    while let Some(next) = at.filter(is_due).filter(|_| due.len() < WINDOW) {
        // What was fired while the clock was ahead is not fired again.
        let fired_through = record.fired_through(next.nominal_at, now);
        match fired_through {
            Some(_) => apart = true,
            None => {
                let paused = record.fell_into_pause(&next);
                due.push(Due { next, paused, apart: std::mem::take(&mut apart) });
            }
        }
        at = spec.next_after(fired_through.unwrap_or(next.nominal_at));
        *computed += 1;
        if computed.is_multiple_of(TURN) {
            tokio::task::yield_now().await;
        }
    }
    if at == Some(first) {
        return None;
    }
    let more = at.as_ref().is_some_and(is_due);
    let from = first_kept(&due, spec.misfire, now);
    let mut skipped = Ranges::default();
    for due in &due[..from] {
        if due.apart {
            skipped.split();
        }
        let outcome = if due.paused { RunOutcome::Paused } else { RunOutcome::Misfired };
        skipped.add(due.next.nominal_at, outcome, now);
    }
    let mut kept = due[from..].iter().map(|due| due.next);
    // With more to look at, none of these is known to be among the latest.
    let fire = if more { None } else { kept.next() };
    let next = kept.next().or(at);
    Some(Fire {
        id: spec.id.clone(),
        expected: first.nominal_at,
        etag: record.etag,
        skipped: skipped.all,
        job: fire.map(|fire| fire_job(record, fire, now)),
        next,
    })
}

/// The first of the occurrences that are to be fired; all before it are skipped.
fn first_kept(due: &[Due], misfire: Misfire, now: Timestamp) -> usize {
    let wanted = match misfire {
        Misfire::RunOnce => 1,
        Misfire::RunAll { cap } => usize::try_from(cap).unwrap_or(usize::MAX),
        Misfire::Skip => 0,
    };
    let mut from = due.len();
    let fireable = due.iter().enumerate().rev().filter(|(_, due)| !due.paused);
    for (kept, (index, due)) in fireable.enumerate() {
        let is_late = now.since(due.next.due_at) > PUNCTUAL;
        if kept >= wanted && is_late {
            break;
        }
        from = index;
    }
    from
}

fn fire_job(record: &RecurringRecord, fire: NextRun, now: Timestamp) -> FireJob {
    let occurrence = Occurrence { recurring: record.spec.id.clone(), nominal_at: fire.nominal_at };
    // The storage judges the id by its own clock, and this process may have another.
    let job = record.spec.job.instantiate(JobId::new_at(now), occurrence);
    FireJob { nominal_at: fire.nominal_at, job, overlap: record.spec.overlap }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::recurring::testing::{at, every_minute};
    use crate::model::recurring::{Fired, Pause, RecurringSpec};
    use crate::model::schedule::Schedule;

    async fn planned(record: &RecurringRecord, now: Timestamp) -> Fire {
        plan(record, now, &mut 0).await.expect("due")
    }

    fn told(fire: &Fire) -> (Option<Timestamp>, u32, Option<Timestamp>) {
        let skipped = fire.skipped.iter().map(|range| range.count).sum();
        (
            fire.job.as_ref().map(|job| job.nominal_at),
            skipped,
            fire.next.map(|next| next.nominal_at),
        )
    }

    /// Plans until nothing is due, as a storage would carry it out: how many were fired and skipped, and
    /// the first that was fired.
    async fn catch_up(
        record: &mut RecurringRecord,
        now: Timestamp,
    ) -> (u32, u32, Option<Timestamp>) {
        let (mut fired, mut skipped, mut first) = (0, 0, None);
        while record.next.is_some_and(|next| next.due_at <= now) {
            let mut computed = 0;
            let fire = plan(record, now, &mut computed).await.expect("due");
            assert!(computed <= WINDOW, "a step is bounded");
            let before = record.next;
            fire.move_on(record, now);
            if let Some(job) = &fire.job {
                record.note_fired(job.nominal_at);
                first = first.or(Some(job.nominal_at));
                fired += 1;
            }
            skipped += fire.skipped.iter().map(|range| range.count).sum::<u32>();
            assert_ne!(record.next, before, "a step moves on");
        }
        (fired, skipped, first)
    }

    #[tokio::test]
    async fn a_punctual_occurrence_is_fired_whatever_the_policy() {
        for misfire in [Misfire::RunOnce, Misfire::RunAll { cap: 5 }, Misfire::Skip] {
            let fire = planned(&every_minute(misfire), at(61)).await;
            assert_eq!(told(&fire), (Some(at(60)), 0, Some(at(120))), "{misfire:?}");
        }
    }

    #[tokio::test]
    async fn of_two_that_are_due_the_punctual_ones_are_fired_whatever_the_policy() {
        for misfire in [Misfire::RunOnce, Misfire::RunAll { cap: 1 }, Misfire::Skip] {
            let mut record = every_minute(misfire);
            // The one at 60 is a minute late, and not more.
            assert_eq!(catch_up(&mut record, at(120)).await, (2, 0, Some(at(60))), "{misfire:?}");
        }
        let mut record = every_minute(Misfire::Skip);
        assert_eq!(catch_up(&mut record, at(121)).await, (1, 1, Some(at(120))));
    }

    #[tokio::test]
    async fn what_was_missed_goes_by_the_policy() {
        // 60, 120 … 600 are due at 605.
        for (misfire, fired, skipped, next) in [
            (Misfire::RunOnce, 600, 9, 660),
            (Misfire::Skip, 600, 9, 660),
            (Misfire::RunAll { cap: 3 }, 480, 7, 540),
            (Misfire::RunAll { cap: 50 }, 60, 0, 120),
        ] {
            let fire = planned(&every_minute(misfire), at(605)).await;
            assert_eq!(told(&fire), (Some(at(fired)), skipped, Some(at(next))), "{misfire:?}");
        }
    }

    #[tokio::test]
    async fn all_that_the_cap_allows_are_fired_of_any_number() {
        for missed in [99, 100, 101, 9_999, 10_000, 10_001, 10_003, 25_000] {
            let mut record = every_minute(Misfire::RunAll { cap: 100 });
            let (fired, skipped, first) = catch_up(&mut record, at(60 * missed)).await;
            let missed_by = i64::from(skipped) + i64::from(fired);
            assert_eq!((i64::from(fired), missed_by), (missed.min(100), missed), "{missed}");
            assert_eq!(first, Some(at(60 * (missed - 99).max(1))), "the latest, of {missed}");
        }
    }

    #[tokio::test]
    async fn one_is_fired_of_any_number() {
        for missed in [2, 10_000, 10_001, 25_000] {
            let now = at(60 * missed + 59);
            let once = catch_up(&mut every_minute(Misfire::RunOnce), now).await;
            assert_eq!((once.0, i64::from(once.1)), (1, missed - 1));
            let late = |mut record: RecurringRecord| {
                record.spec.schedule = Schedule::every(Duration::from_secs(3600)).expect("valid");
                record
            };
            let now = at(3600 * missed + 61);
            let once = catch_up(&mut late(every_minute(Misfire::RunOnce)), now).await;
            assert_eq!((once.0, once.2), (1, Some(at(3600 * missed))));
            let none = catch_up(&mut late(every_minute(Misfire::Skip)), now).await;
            assert_eq!(none.0, 0);
        }
    }

    #[tokio::test]
    async fn every_occurrence_with_a_jitter_longer_than_the_interval_is_fired() {
        let mut record = every_minute(Misfire::RunOnce);
        record.spec = RecurringSpec {
            schedule: Schedule::every(Duration::from_secs(2)).expect("valid"),
            jitter: Duration::from_secs(12),
            ..record.spec
        };
        record.next = record.spec.next_after(at(0));
        let mut fired = 0;
        for tenth in 0..600 {
            let now = at(0).plus(Duration::from_millis(tenth * 100));
            let (these, skipped, _) = catch_up(&mut record, now).await;
            assert_eq!(skipped, 0);
            fired += these;
        }
        assert!((28..=30).contains(&fired), "{fired} of 29 in a minute");
    }

    #[tokio::test]
    async fn occurrences_in_a_pause_that_ended_are_skipped_as_paused() {
        let mut record = every_minute(Misfire::RunAll { cap: 50 });
        record.pause = Some(Pause { since: at(0), until: Some(at(300)), ..Pause::new("ann", "x") });
        let fire = planned(&record, at(310)).await;
        assert_eq!(told(&fire), (Some(at(300)), 4, Some(at(360))));
        assert_eq!(fire.skipped[0].outcome, RunOutcome::Paused);
        // What was due before the pause is not among them.
        record.pause =
            Some(Pause { since: at(90), until: Some(at(300)), ..Pause::new("ann", "x") });
        let fire = planned(&record, at(310)).await;
        assert_eq!(told(&fire), (Some(at(60)), 0, Some(at(120))));
        record.next = Some(NextRun { nominal_at: at(120), due_at: at(120) });
        assert_eq!(told(&planned(&record, at(310)).await), (Some(at(300)), 3, Some(at(360))));
    }

    #[tokio::test]
    async fn what_was_fired_while_the_clock_was_ahead_is_stepped_over() {
        let mut record = every_minute(Misfire::RunAll { cap: 50 });
        record.note_fired(at(120));
        record.note_fired(at(180));
        let fire = planned(&record, at(241)).await;
        assert_eq!(told(&fire), (Some(at(60)), 0, Some(at(240))));
        record.next = Some(NextRun { nominal_at: at(120), due_at: at(120) });
        assert_eq!(told(&planned(&record, at(200)).await), (None, 0, Some(at(240))));
        record.fired = Fired::default();
        record.last_nominal_at = Some(at(120));
        assert_eq!(told(&planned(&record, at(200)).await), (Some(at(180)), 0, Some(at(240))));
    }

    #[tokio::test]
    async fn a_gap_of_years_is_recorded_in_bounded_parts() {
        let fire = planned(&every_minute(Misfire::RunOnce), at(3600 * 24 * 365)).await;
        let (job, skipped, next) = told(&fire);
        assert_eq!((job, skipped), (None, RANGE - 1));
        assert_eq!(next, Some(at(60 * i64::from(RANGE))));
    }

    #[tokio::test]
    async fn the_id_of_its_job_has_the_time_of_the_storage() {
        let now = at(-86_400 * 30);
        let mut record = every_minute(Misfire::RunOnce);
        record.next = Some(NextRun { nominal_at: now, due_at: now });
        let job = planned(&record, now).await.job.expect("fires");
        let made = job.job.id.created_at().expect("has a time");
        assert_eq!(made.as_millis(), now.as_millis());
    }
}
