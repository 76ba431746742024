//! Schedules that change while something is due, and clocks that go back.

use super::*;

fn hourly(id: &str) -> RecurringSpec {
    RecurringSpec { schedule: Schedule::cron("0 * * * *").expect("is valid"), ..spec(id) }
}

async fn pause(env: &Env, id: &str, change: PauseChange) {
    let paused = env.storage.pause_recurring(&env.call(), id, change).await;
    assert!(paused.expect("pauses"), "there is {id}");
}

/// The occurrences that were recorded: the first and last of each range, how many, and why.
async fn told(env: &Env, id: &str) -> Vec<(Timestamp, Timestamp, u32, RunOutcome)> {
    let runs = runs(env, id).await.into_iter();
    runs.map(|run| (run.nominal_at, run.through, run.count, run.outcome)).collect()
}

/// A minute of the schedules here, which count from 1970.
fn minute(env: &Env, n: i64) -> Timestamp {
    const MINUTE: i64 = 60_000_000;
    let now = env.now().as_micros();
    Timestamp::from_micros(now - now.rem_euclid(MINUTE) + n * MINUTE)
}

/// REC-1: the same definition saved again keeps the earlier of both next occurrences, whichever is given.
pub async fn saving_the_same_keeps_the_earlier_occurrence(env: Env) {
    let (soon, later) = (minute(&env, 1), minute(&env, 40_000));
    let outcome = save(&env, spec("a"), later).await;
    let SaveOutcome::Created { etag } = outcome else { panic!("{outcome:?}") };
    for (given, kept) in [(later, later), (soon, soon), (later, soon)] {
        assert_eq!(save(&env, spec("a"), given).await, SaveOutcome::Unchanged { etag });
        assert_eq!(record(&env, "a").await.next, next(kept));
        assert_eq!(due(&env, 10).await.next_due_at, Some(kept));
    }
    // One that had ended, too.
    let ended = || SaveRecurring { spec: spec("b"), next: None, if_etag: None };
    env.storage.save_recurring(&env.call(), &[ended()]).await.expect("saves");
    save(&env, spec("b"), soon).await;
    env.storage.save_recurring(&env.call(), &[ended()]).await.expect("saves");
    assert_eq!(record(&env, "b").await.next, next(soon));
}

/// REC-12, G10: what is due when another job or policy is saved for the same instants stays the next
/// occurrence, and is fired once.
pub async fn what_is_due_stays_due_when_the_job_is_replaced(env: Env) {
    let at = minute(&env, 0);
    save(&env, spec("a"), at).await;
    let mut other = spec("a");
    other.job.priority = 9;
    let outcome = save(&env, other, minute(&env, 1)).await;
    assert!(matches!(outcome, SaveOutcome::Replaced { .. }), "{outcome:?}");
    assert_eq!(record(&env, "a").await.next, next(at));
    assert_eq!(due(&env, 10).await.due.len(), 1);
    let job = fired(&fire_next(&env, "a").await);
    assert_eq!(env.details(job).await.record.priority, 9);
    assert_eq!(told(&env, "a").await, [(at, at, 1, RunOutcome::Fired { job })]);
    // Also one that waits for its jitter.
    let waiting = NextRun { nominal_at: at, due_at: env.after(100) };
    let save_waiting = SaveRecurring { spec: spec("b"), next: Some(waiting), if_etag: None };
    env.storage.save_recurring(&env.call(), &[save_waiting]).await.expect("saves");
    save(&env, RecurringSpec { misfire: Misfire::Skip, ..spec("b") }, minute(&env, 1)).await;
    assert_eq!(record(&env, "b").await.next, Some(waiting));
}

/// REC-12, G10: what is due when another schedule is saved is recorded as replaced; what is not due is
/// merely replaced.
pub async fn what_is_due_is_recorded_when_the_schedule_is_replaced(env: Env) {
    let first = minute(&env, -4);
    save(&env, spec("a"), first).await;
    let given = minute(&env, 77);
    save(&env, hourly("a"), given).await;
    let stored = record(&env, "a").await;
    assert_eq!((stored.next, stored.last_nominal_at), (next(given), Some(minute(&env, 0))));
    let replaced = (first, minute(&env, 0), 5, RunOutcome::Replaced);
    assert_eq!(told(&env, "a").await, [replaced]);
    assert_eq!(runs(&env, "a").await[0].at, env.now());
    assert!(due(&env, 10).await.due.is_empty());
    save(&env, spec("b"), minute(&env, 1)).await;
    save(&env, hourly("b"), given).await;
    assert!(told(&env, "b").await.is_empty());
    // In a pause it is recorded as such.
    save(&env, spec("c"), first).await;
    pause(&env, "c", PauseChange::Pause(Pause::new("ada", "why"))).await;
    env.advance(120);
    save(&env, hourly("c"), given).await;
    let outcomes: Vec<_> = told(&env, "c").await.into_iter().map(|run| (run.2, run.3)).collect();
    assert_eq!(outcomes, [(2, RunOutcome::Paused), (5, RunOutcome::Replaced)]);
}

/// REC-12, G10: what is due when a schedule is removed is recorded, and stands among its occurrences when it
/// is saved again.
pub async fn what_is_due_is_recorded_when_the_schedule_is_removed(env: Env) {
    let first = minute(&env, -2);
    for id in ["never fired", "fired"] {
        save(&env, spec(id), first).await;
    }
    let job = fired(&fire_next(&env, "fired").await);
    for id in ["never fired", "fired"] {
        assert!(env.storage.remove_recurring(&env.call(), id).await.expect("removes"));
        let count = if id == "fired" { 2 } else { 3 };
        let from = minute(&env, 1 - i64::from(count));
        let dropped = (from, minute(&env, 0), count, RunOutcome::Replaced);
        assert_eq!(told(&env, id).await, std::slice::from_ref(&dropped), "{id}");
        save(&env, spec(id), minute(&env, 1)).await;
        assert_eq!(told(&env, id).await, [dropped], "{id}");
        assert_eq!(record(&env, id).await.last_nominal_at, Some(minute(&env, 0)));
        fired(&fire_next(&env, id).await);
        assert_eq!(told(&env, id).await.len(), 2);
    }
    assert!(env.claimer("s").await.claim_ids(10).await.contains(&job));
    // With nothing due there is nothing to record.
    save(&env, spec("b"), minute(&env, 1)).await;
    assert!(env.storage.remove_recurring(&env.call(), "b").await.expect("removes"));
    assert!(told(&env, "b").await.is_empty());
}

/// REC-12, G10: a resume records what was due before the pause as misfired, and what came in it as paused.
pub async fn what_was_due_is_recorded_when_the_schedule_is_resumed(env: Env) {
    let first = minute(&env, -1);
    save(&env, spec("a"), first).await;
    pause(&env, "a", PauseChange::Pause(Pause::new("ada", "why"))).await;
    let (paused, missed) = (minute(&env, 1), minute(&env, 0));
    env.advance(180);
    let given = minute(&env, 1);
    pause(&env, "a", PauseChange::Resume { next: next(given) }).await;
    let told = told(&env, "a").await;
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[0], (paused, minute(&env, 0), 3, RunOutcome::Paused));
    assert_eq!(told[1], (first, missed, 2, RunOutcome::Misfired));
    let stored = record(&env, "a").await;
    assert_eq!((stored.next, stored.last_nominal_at), (next(given), Some(minute(&env, 0))));
    // Repeated it records nothing.
    pause(&env, "a", PauseChange::Resume { next: next(given) }).await;
    assert_eq!(runs(&env, "a").await.len(), 2);
}

/// REC-4: a fire that was planned for another definition is stale, though the occurrence is the same.
pub async fn a_fire_planned_before_a_change_is_stale(env: Env) {
    let at = minute(&env, 0);
    save(&env, spec("a"), at).await;
    let planned = fire_of(&record(&env, "a").await);
    save(&env, RecurringSpec { misfire: Misfire::Skip, ..spec("a") }, minute(&env, 1)).await;
    let stored = record(&env, "a").await;
    assert_eq!(stored.next.map(|next| next.nominal_at), Some(planned.expected));
    assert_eq!(fire(&env, planned).await, FireOutcome::Stale);
    assert_eq!(record(&env, "a").await, stored);
    fired(&fire_next(&env, "a").await);
}

/// A schedule that fired twice when the clock was 30 days ahead, before it went back; the first of these
/// occurrences.
async fn fired_ahead(env: &Env, id: &str) -> Timestamp {
    let (now, today) = (env.now(), minute(env, 0));
    save(env, spec(id), today).await;
    fired(&fire_next(env, id).await);
    env.advance(30 * 86_400);
    let ahead = minute(env, 0);
    let mut late = fire_of(&record(env, id).await);
    late.skipped = vec![RecurringRun {
        nominal_at: today.plus(seconds(60)),
        through: minute(env, -1),
        count: 10_000,
        outcome: RunOutcome::Misfired,
        at: env.now(),
    }];
    if let Some(job) = &mut late.job {
        job.nominal_at = ahead;
    }
    late.next = next(minute(env, 1));
    fired(&fire(env, late).await);
    fired(&fire_next(env, id).await);
    env.move_to(now);
    ahead
}

/// REC-13, G10: after the clock has gone back, a schedule fires what lies before the occurrences that it fired
/// ahead; when their time comes, these are not fired again.
pub async fn what_was_fired_ahead_of_the_clock_is_not_fired_again(env: Env) {
    let ahead = fired_ahead(&env, "a").await;
    let stored = record(&env, "a").await;
    let recomputed =
        stored.recomputed_next(env.now()).expect("its next occurrence is too far ahead");
    assert_eq!(recomputed.nominal_at, minute(&env, 1));
    assert_eq!(
        save(&env, spec("a"), recomputed.nominal_at).await,
        SaveOutcome::Unchanged { etag: stored.etag }
    );
    env.advance(60);
    assert_eq!(due(&env, 10).await.due.len(), 1);
    fired(&fire_next(&env, "a").await);
    let moved = record(&env, "a").await;
    assert_eq!((moved.next, moved.recomputed_next(env.now())), (next(minute(&env, 1)), None));
    for n in [0, 1] {
        // Planned by a server that does not look at what was fired.
        let at = ahead.plus(seconds(60 * n));
        save(&env, RecurringSpec { overlap: Overlap::Skip, ..spec("a") }, at).await;
        save(&env, spec("a"), at).await;
        env.move_to(at);
        assert_eq!(fire_next(&env, "a").await, FireOutcome::Skipped);
    }
    env.advance(60);
    fired(&fire_next(&env, "a").await);
    assert_eq!(env.claimer("s").await.claim(100).await.len(), 5);
}

/// REC-13, REC-10, G10: so it does when it was removed and saved again.
pub async fn a_schedule_removed_after_the_clock_was_ahead_fires_what_is_left(env: Env) {
    let ahead = fired_ahead(&env, "a").await;
    assert!(env.storage.remove_recurring(&env.call(), "a").await.expect("removes"));
    save(&env, spec("a"), minute(&env, 1)).await;
    env.advance(60);
    fired(&fire_next(&env, "a").await);
    let stored = record(&env, "a").await;
    assert!(stored.has_fired(ahead, env.now()) && !stored.has_fired(minute(&env, 1), env.now()));
    // A pause and its end revive it, too.
    fired_ahead(&env, "b").await;
    pause(&env, "b", PauseChange::Pause(Pause::new("ada", "why"))).await;
    pause(&env, "b", PauseChange::Resume { next: next(minute(&env, 1)) }).await;
    env.advance(60);
    fired(&fire_next(&env, "b").await);
}

/// REC-14: a schedule whose last job cannot be read disturbs none of those that are fired with it; it goes on
/// itself, or says why it does not.
pub async fn a_schedule_that_cannot_be_fired_disturbs_no_neighbour(env: Env) {
    let at = minute(&env, 0);
    for id in ["a", "b", "c"] {
        save(&env, RecurringSpec { overlap: Overlap::Skip, ..spec(id) }, at).await;
    }
    let last = fired(&fire_next(&env, "b").await);
    if !env.make_unreadable(last).await {
        return;
    }
    let mut fires = Vec::new();
    for id in ["a", "b", "c"] {
        fires.push(fire_of(&record(&env, id).await));
    }
    let outcomes = env.storage.fire_recurring(&env.call(), &fires).await.expect("fires");
    fired(&outcomes[0]);
    fired(&outcomes[2]);
    let moved = record(&env, "b").await.next != next(fires[1].expected);
    let failed = matches!(outcomes[1], FireOutcome::Failed(_));
    assert_eq!(moved, !failed, "{:?}", outcomes[1]);
    assert_ne!(outcomes[1], FireOutcome::Stale);
}
