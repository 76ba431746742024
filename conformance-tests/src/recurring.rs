//! Schedules and their occurrences.

use jobkit_core::edge::On;
use jobkit_core::record::{NewRecord, Occurrence};
use jobkit_core::recurring::{
    JobTemplate, Misfire, NextRun, Overlap, Pause, RecurringRecord, RecurringRun, RecurringSpec,
    RunOutcome,
};
use jobkit_core::refusal::Refusal;
use jobkit_core::state::{Reason, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{
    DueRecurring, Fire, FireJob, FireOutcome, PauseChange, SaveOutcome, SaveRecurring,
    TriggerOutcome,
};
use jobkit_core::unique::{OnConflict, Until};
use jobkit_core::{JobId, Schedule, TimeZone, Timestamp};

use crate::fixtures::*;

mod changes;

pub use self::changes::*;

fn spec(id: &str) -> RecurringSpec {
    RecurringSpec {
        id: id.into(),
        schedule: Schedule::every(seconds(60)).expect("a valid interval"),
        time_zone: TimeZone::UTC,
        misfire: Misfire::RunOnce,
        overlap: Overlap::Allow,
        jitter: seconds(0),
        starts_at: None,
        ends_at: None,
        job: JobTemplate::from_record(&job()).expect("can recur"),
    }
}

fn next(at: Timestamp) -> Option<NextRun> {
    Some(NextRun { nominal_at: at, due_at: at })
}

async fn save(env: &Env, spec: RecurringSpec, at: Timestamp) -> SaveOutcome {
    save_if(env, spec, at, None).await
}

async fn save_if(
    env: &Env,
    spec: RecurringSpec,
    at: Timestamp,
    if_etag: Option<u64>,
) -> SaveOutcome {
    let save = SaveRecurring { spec, next: next(at), if_etag };
    env.storage.save_recurring(&env.call(), &[save]).await.expect("saves").remove(0)
}

async fn record(env: &Env, id: &str) -> RecurringRecord {
    env.storage.recurring(id).await.expect("reads").expect("is saved")
}

async fn runs(env: &Env, id: &str) -> Vec<RecurringRun> {
    env.storage.recurring_runs(id, 1_000).await.expect("reads")
}

async fn due(env: &Env, max: usize) -> DueRecurring {
    env.storage.due_recurring(&env.call(), max).await.expect("reads")
}

/// A fire of the occurrence `expected`, which the next one follows a minute later.
fn fire_of(record: &RecurringRecord) -> Fire {
    let expected = record.next.expect("has a next occurrence").nominal_at;
    let occurrence = Occurrence { recurring: record.spec.id.clone(), nominal_at: expected };
    let job = record.spec.job.instantiate(JobId::new(), occurrence);
    Fire {
        id: record.spec.id.clone(),
        expected,
        etag: record.etag,
        skipped: Vec::new(),
        job: Some(FireJob { nominal_at: expected, job, overlap: record.spec.overlap }),
        next: next(expected.plus(seconds(60))),
    }
}

async fn fire(env: &Env, mut fire: Fire) -> FireOutcome {
    // An id has the time of the storage's clock, which judges it; this one may be far away.
    if let Some(job) = &mut fire.job
        && let Some(made) = job.job.id.created_at()
        && made.since(env.now()).max(env.now().since(made)) > seconds(60)
    {
        job.job.id = JobId::new_at(env.now());
    }
    env.storage.fire_recurring(&env.call(), &[fire]).await.expect("fires").remove(0)
}

/// Fires the next occurrence of a schedule, which is due by then.
async fn fire_next(env: &Env, id: &str) -> FireOutcome {
    let record = record(env, id).await;
    fire(env, fire_of(&record)).await
}

fn fired(outcome: &FireOutcome) -> JobId {
    match outcome {
        FireOutcome::Fired(job) => *job,
        other => panic!("not fired: {other:?}"),
    }
}

/// REC-1, G10: a new definition is stored with its next occurrence; the same again keeps the etag and the
/// earlier occurrence; a changed one replaces definition and next occurrence; a pause stays.
pub async fn saving_stores_a_definition_once(env: Env) {
    let (soon, later) = (env.after(30), env.after(600));
    let outcome = save(&env, spec("nightly"), soon).await;
    let SaveOutcome::Created { etag } = outcome else { panic!("{outcome:?}") };
    let stored = record(&env, "nightly").await;
    assert_eq!((&stored.spec, stored.etag, stored.next), (&spec("nightly"), etag, next(soon)));
    assert_eq!(
        (stored.last_nominal_at, stored.last_job, stored.created_at),
        (None, None, env.now())
    );
    env.advance(5);
    assert_eq!(save(&env, spec("nightly"), later).await, SaveOutcome::Unchanged { etag });
    assert_eq!(record(&env, "nightly").await, stored);
    let pause = Pause::new("ada", "holidays");
    let paused =
        env.storage.pause_recurring(&env.call(), "nightly", PauseChange::Pause(pause)).await;
    assert!(paused.expect("pauses"));
    let paused = record(&env, "nightly").await;
    assert_ne!(paused.etag, etag);
    let same = SaveOutcome::Unchanged { etag: paused.etag };
    assert_eq!(save(&env, spec("nightly"), later).await, same);
    let changed = RecurringSpec { overlap: Overlap::Skip, ..spec("nightly") };
    let outcome = save(&env, changed.clone(), later).await;
    let SaveOutcome::Replaced { etag } = outcome else { panic!("{outcome:?}") };
    let replaced = record(&env, "nightly").await;
    assert_eq!((&replaced.spec, replaced.etag, replaced.next), (&changed, etag, next(later)));
    assert_ne!(etag, paused.etag);
    let pause = replaced.pause.expect("a pause stays");
    assert_eq!((&*pause.by, &*pause.reason, pause.since), ("ada", "holidays", env.now()));
}

/// REC-1, G17: every part of a definition comes back as it was saved.
pub async fn a_definition_comes_back_as_it_was_saved(env: Env) {
    let mut new = NewRecord { priority: 8, tags: vec!["t".into()], ..limited("l", 3) };
    new.args = payload("{ \"b\": 1.50, \"a\": \"\u{1F980}\" }");
    new.unique = keyed("key", OnConflict::Reject).unique;
    new.extras_mut().metadata.insert("tenant".into(), "acme".into());
    let full = RecurringSpec {
        id: "Bericht \u{1F4CA} '; --".into(),
        schedule: Schedule::cron("0 2 * * MON-FRI").expect("a valid expression"),
        time_zone: TimeZone::parse("Europe/Berlin").expect("a zone"),
        misfire: Misfire::RunAll { cap: 7 },
        overlap: Overlap::Skip,
        jitter: seconds(90),
        starts_at: Some(env.now()),
        ends_at: Some(env.after(1_000_000)),
        job: JobTemplate::from_record(&new).expect("can recur"),
    };
    let at = NextRun { nominal_at: env.after(10), due_at: env.after(12) };
    let save = SaveRecurring { spec: full.clone(), next: Some(at), if_etag: Some(0) };
    env.storage.save_recurring(&env.call(), &[save]).await.expect("saves");
    let stored = record(&env, &full.id).await;
    assert_eq!((&stored.spec, stored.next), (&full, Some(at)));
    assert_eq!(stored.spec.job.args.get(), full.job.args.get());
}

/// REC-2, G20: a save guarded by an etag that does not fit changes nothing and answers the etag; a
/// definition out of range is refused, and disturbs no neighbour.
pub async fn a_guarded_save_that_does_not_fit_changes_nothing(env: Env) {
    let at = env.after(60);
    assert_eq!(save_if(&env, spec("a"), at, Some(7)).await, SaveOutcome::Changed { etag: 0 });
    let outcome = save_if(&env, spec("a"), at, Some(0)).await;
    let SaveOutcome::Created { etag } = outcome else { panic!("{outcome:?}") };
    let changed = RecurringSpec { overlap: Overlap::Skip, ..spec("a") };
    for wrong in [0, etag + 1] {
        let outcome = save_if(&env, changed.clone(), at, Some(wrong)).await;
        assert_eq!(outcome, SaveOutcome::Changed { etag });
    }
    assert_eq!(record(&env, "a").await.spec, spec("a"));
    let outcome = save_if(&env, changed, at, Some(etag)).await;
    assert!(matches!(outcome, SaveOutcome::Replaced { .. }), "{outcome:?}");
    let of = |spec| SaveRecurring { spec, next: next(at), if_etag: None };
    let saves = [
        of(RecurringSpec { misfire: Misfire::RunAll { cap: 0 }, ..spec("bad") }),
        of(spec("good")),
        of(spec("")),
    ];
    let outcomes = env.storage.save_recurring(&env.call(), &saves).await.expect("saves");
    assert!(matches!(
        &outcomes[0],
        SaveOutcome::Refused(Refusal::Invalid { field: "misfire", .. })
    ));
    assert!(matches!(outcomes[1], SaveOutcome::Created { .. }));
    assert!(matches!(outcomes[2], SaveOutcome::Refused(Refusal::Invalid { .. })));
    assert!(env.storage.recurring("bad").await.expect("reads").is_none());
}

/// REC-3: what is due is answered earliest first, with the next due instant of the rest.
pub async fn what_is_due_is_answered_earliest_first(env: Env) {
    assert_eq!(due(&env, 10).await.next_due_at, None);
    for (id, seconds) in [("c", 30), ("a", 20), ("d", 90), ("b", 10)] {
        save(&env, spec(id), env.after(seconds)).await;
    }
    let ended = SaveRecurring { spec: spec("ended"), next: None, if_etag: None };
    env.storage.save_recurring(&env.call(), &[ended]).await.expect("saves");
    let answer = due(&env, 10).await;
    assert!(answer.due.is_empty());
    assert_eq!((answer.next_due_at, answer.now), (Some(env.after(10)), env.now()));
    let ninety = env.after(90);
    env.advance(30);
    let answer = due(&env, 10).await;
    let names: Vec<_> = answer.due.iter().map(|it| it.spec.id.as_str()).collect();
    assert_eq!(names, ["b", "a", "c"]);
    assert_eq!(answer.next_due_at, Some(ninety));
    assert_eq!(due(&env, 2).await.due.len(), 2);
    // By the due instant, which jitter puts behind the nominal one.
    let jittered = NextRun { nominal_at: env.after(-5), due_at: env.after(5) };
    let save = SaveRecurring { spec: spec("j"), next: Some(jittered), if_etag: None };
    env.storage.save_recurring(&env.call(), &[save]).await.expect("saves");
    assert_eq!(due(&env, 10).await.next_due_at, Some(env.after(5)));
}

/// REC-4, REC-11, G10: a fire creates the job with its occurrence, records it and moves on, in one step;
/// repeated it is stale.
pub async fn a_fire_creates_the_job_and_moves_on(env: Env) {
    let at = env.now();
    save(&env, spec("a"), at).await;
    let fire_request = fire_of(&record(&env, "a").await);
    env.advance(3);
    let job = fired(&fire(&env, fire_request.clone()).await);
    let details = env.details(job).await;
    assert_eq!(details.record.state(), StateName::Enqueued);
    assert_eq!(details.history.entries[0].reason, Reason::Recurring);
    let occurrence = details.record.extras.expect("has extras").occurrence;
    assert_eq!(occurrence, Some(Occurrence { recurring: "a".into(), nominal_at: at }));
    let stored = record(&env, "a").await;
    assert_eq!((stored.last_nominal_at, stored.last_job), (Some(at), Some(job)));
    assert_eq!(stored.next, next(at.plus(seconds(60))));
    let run = RecurringRun {
        nominal_at: at,
        through: at,
        count: 1,
        outcome: RunOutcome::Fired { job },
        at: env.now(),
    };
    assert_eq!(runs(&env, "a").await, [run]);
    for _ in 0..2 {
        assert_eq!(fire(&env, fire_request.clone()).await, FireOutcome::Stale);
    }
    assert_eq!(record(&env, "a").await, stored);
    assert_eq!(env.claimer("s").await.claim_ids(10).await, [job]);
    let claimed = env.details(job).await.record.extras.expect("has extras").occurrence;
    assert_eq!(claimed.expect("an occurrence").nominal_at, at);
}

/// REC-4, G10: of any number of schedulers one fires an occurrence.
pub async fn of_many_schedulers_one_fires_an_occurrence(env: Env) {
    let other = env.second().await;
    save(&env, spec("a"), env.now()).await;
    const ROUNDS: usize = 25;
    for _ in 0..ROUNDS {
        let seen = record(&env, "a").await;
        let tasks = (0..8).map(|i| {
            let env = if i % 2 == 0 { env.clone() } else { other.clone() };
            let request = fire_of(&seen);
            tokio::spawn(async move { fire(&env, request).await })
        });
        let outcomes = join(tasks.collect()).await;
        let count = outcomes.iter().filter(|it| matches!(it, FireOutcome::Fired(_))).count();
        let stale = outcomes.iter().filter(|it| **it == FireOutcome::Stale).count();
        assert_eq!((count, stale), (1, 7), "{outcomes:?}");
    }
    let all = runs(&env, "a").await;
    assert_eq!(all.len(), ROUNDS);
    assert!(all.windows(2).all(|pair| pair[0].nominal_at > pair[1].nominal_at));
    assert_eq!(env.claimer("s").await.claim(500).await.len(), ROUNDS);
}

/// REC-4: an occurrence that is not the next one, a schedule that is not there: stale, and nothing
/// changes; neighbours are fired.
pub async fn a_fire_that_does_not_fit_is_stale(env: Env) {
    save(&env, spec("a"), env.now()).await;
    save(&env, spec("b"), env.now()).await;
    let stored = record(&env, "a").await;
    let mut wrong = fire_of(&stored);
    wrong.expected = env.after(60);
    let missing = Fire { id: "none".into(), ..fire_of(&stored) };
    let good = fire_of(&record(&env, "b").await);
    let fires = [wrong, missing, good];
    let outcomes = env.storage.fire_recurring(&env.call(), &fires).await.expect("fires");
    assert_eq!(outcomes[..2], [FireOutcome::Stale, FireOutcome::Stale]);
    let job = fired(&outcomes[2]);
    assert_eq!(record(&env, "a").await, stored);
    assert!(runs(&env, "a").await.is_empty());
    assert_eq!(env.claimer("s").await.claim_ids(10).await, [job]);
}

/// REC-5: with overlap skip no job is created while that of an earlier occurrence has not finished, its
/// retries included.
pub async fn an_overlapping_occurrence_is_skipped(env: Env) {
    save(&env, RecurringSpec { overlap: Overlap::Skip, ..spec("a") }, env.now()).await;
    let first = fired(&fire_next(&env, "a").await);
    let mut server = env.claimer("s").await;
    assert_eq!(fire_next(&env, "a").await, FireOutcome::Skipped);
    server.run_one(Ending::Retry { delay: seconds(900) }).await;
    assert_eq!(fire_next(&env, "a").await, FireOutcome::Skipped);
    let skipped = runs(&env, "a").await;
    assert_eq!(skipped.len(), 3);
    assert_eq!(skipped[0].outcome, RunOutcome::Overlapping { job: first });
    assert_eq!(record(&env, "a").await.last_job, Some(first));
    env.delete(first).await;
    let second = fired(&fire_next(&env, "a").await);
    assert_eq!(server.claim_ids(10).await, [second]);
    // Allowed, they run side by side.
    save(&env, spec("b"), env.now()).await;
    fired(&fire_next(&env, "b").await);
    fired(&fire_next(&env, "b").await);
}

/// REC-6, G11: an occurrence whose unique key is held is recorded as skipped, naming the holder, and the
/// schedule goes on.
pub async fn an_occurrence_whose_key_is_held_is_skipped(env: Env) {
    for (id, on_conflict) in [("a", OnConflict::Reject), ("b", OnConflict::ReturnExisting)] {
        let template = JobTemplate::from_record(&keyed(id, on_conflict)).expect("can recur");
        save(&env, RecurringSpec { job: template, ..spec(id) }, env.now()).await;
        let holder = env.add(keyed(id, OnConflict::Reject)).await;
        let before = record(&env, id).await;
        assert_eq!(fire_next(&env, id).await, FireOutcome::Skipped);
        let run = runs(&env, id).await.remove(0);
        assert_eq!(run.outcome, RunOutcome::KeyHeld { holder });
        let after = record(&env, id).await;
        assert_ne!(after.next, before.next);
        assert_eq!(after.last_nominal_at, before.next.map(|next| next.nominal_at));
        env.delete(holder).await;
        fired(&fire_next(&env, id).await);
    }
}

/// REC-6, SUB-15, G11: an occurrence whose key is held for a period by a job that has finished is recorded
/// as skipped, too.
pub async fn an_occurrence_within_the_period_of_a_key_is_skipped(env: Env) {
    let mut template = keyed("key", OnConflict::Reject);
    if let Some(unique) = &mut template.unique {
        unique.until = Until::Period(seconds(600));
    }
    let template = JobTemplate::from_record(&template).expect("can recur");
    save(&env, RecurringSpec { job: template, ..spec("a") }, env.now()).await;
    let holder = fired(&fire_next(&env, "a").await);
    assert_eq!(env.claimer("s").await.run_one(Ending::Succeeded).await, holder);
    env.advance(599);
    assert_eq!(fire_next(&env, "a").await, FireOutcome::Skipped);
    let run = runs(&env, "a").await.remove(0);
    assert_eq!(run.outcome, RunOutcome::KeyHeld { holder });
    env.advance(1);
    fired(&fire_next(&env, "a").await);
}

/// REC-4, G10, G20: an occurrence whose job is refused is recorded with the reason, and the schedule
/// goes on.
pub async fn an_occurrence_whose_job_is_refused_is_recorded(env: Env) {
    save(&env, spec("a"), env.now()).await;
    let mut request = fire_of(&record(&env, "a").await);
    if let Some(job) = &mut request.job {
        job.job.edges = after(JobId::new(), On::Any).edges;
    }
    assert_eq!(fire(&env, request).await, FireOutcome::Skipped);
    let run = runs(&env, "a").await.remove(0);
    assert!(
        matches!(&run.outcome, RunOutcome::Refused { reason } if !reason.is_empty()),
        "{run:?}"
    );
    fired(&fire_next(&env, "a").await);
}

/// REC-7, G10: occurrences that the call skips are recorded with their reason and range, with or without
/// one that is fired.
pub async fn skipped_occurrences_are_recorded_with_their_reason(env: Env) {
    let at = env.now();
    save(&env, spec("a"), at).await;
    let minute = |n: u64| at.plus(seconds(60 * n));
    let misfired = RecurringRun {
        nominal_at: at,
        through: minute(4),
        count: 5,
        outcome: RunOutcome::Misfired,
        at,
    };
    let mut request = fire_of(&record(&env, "a").await);
    request.skipped = vec![misfired.clone()];
    if let Some(job) = &mut request.job {
        job.nominal_at = minute(5);
    }
    request.next = next(minute(6));
    env.advance(310);
    let job = fired(&fire(&env, request).await);
    let stored = runs(&env, "a").await;
    assert_eq!(stored.len(), 2);
    assert_eq!(stored[0].outcome, RunOutcome::Fired { job });
    assert_eq!(stored[0].nominal_at, minute(5));
    assert_eq!(stored[1], RecurringRun { at: env.now(), ..misfired });
    assert_eq!(record(&env, "a").await.last_nominal_at, Some(minute(5)));
    let paused = RecurringRun {
        nominal_at: minute(6),
        through: minute(6),
        count: 1,
        outcome: RunOutcome::Paused,
        at: env.now(),
    };
    let mut request = fire_of(&record(&env, "a").await);
    (request.skipped, request.job, request.next) = (vec![paused], None, None);
    assert_eq!(fire(&env, request).await, FireOutcome::Skipped);
    let stored = record(&env, "a").await;
    assert_eq!((stored.next, stored.last_nominal_at), (None, Some(minute(6))));
    assert_eq!(runs(&env, "a").await[0].outcome, RunOutcome::Paused);
}

/// REC-8: a trigger creates a job beside the schedule and records it; the next occurrence stays.
pub async fn a_trigger_creates_a_job_beside_the_schedule(env: Env) {
    save(&env, spec("a"), env.after(600)).await;
    let before = record(&env, "a").await;
    let trigger = async |id: &str, job: &NewRecord| {
        env.storage.trigger_recurring(&env.call(), id, job).await.expect("triggers")
    };
    let job = job();
    assert_eq!(trigger("a", &job).await, TriggerOutcome::Created(job.id));
    assert_eq!(record(&env, "a").await, before);
    let run = runs(&env, "a").await.remove(0);
    assert_eq!((run.outcome, run.at), (RunOutcome::Triggered { job: job.id }, env.now()));
    assert_eq!(env.state(job.id).await, StateName::Enqueued);
    // Repeated it creates nothing.
    assert_eq!(trigger("a", &job).await, TriggerOutcome::Created(job.id));
    assert_eq!(runs(&env, "a").await.len(), 1);
    let missing = crate::fixtures::job();
    assert_eq!(trigger("none", &missing).await, TriggerOutcome::NotFound);
    assert!(env.find(missing.id).await.is_none());
    let holder = env.add(keyed("key", OnConflict::Reject)).await;
    let existing = keyed("key", OnConflict::ReturnExisting);
    assert_eq!(trigger("a", &existing).await, TriggerOutcome::Existing(holder));
    let refused = trigger("a", &keyed("key", OnConflict::Reject)).await;
    assert_eq!(refused, TriggerOutcome::Refused(Refusal::UniqueConflict { holder }));
}

/// REC-9: a paused schedule is neither due nor fired; resuming sets the next occurrence given; a pause
/// with an end lifts itself.
pub async fn a_paused_schedule_is_not_fired(env: Env) {
    save(&env, spec("a"), env.now()).await;
    let seen = record(&env, "a").await;
    let pause =
        async |change| env.storage.pause_recurring(&env.call(), "a", change).await.expect("pauses");
    assert!(pause(PauseChange::Pause(Pause::new("ada", "why"))).await);
    assert!(due(&env, 10).await.due.is_empty());
    assert_eq!(due(&env, 10).await.next_due_at, None);
    assert_eq!(fire(&env, fire_of(&seen)).await, FireOutcome::Stale);
    let resumed_at = env.after(120);
    assert!(pause(PauseChange::Resume { next: next(resumed_at) }).await);
    let resumed = record(&env, "a").await;
    assert_eq!((resumed.next, &resumed.pause), (next(resumed_at), &None));
    assert_ne!(resumed.etag, seen.etag);
    assert_eq!(due(&env, 10).await.next_due_at, Some(resumed_at));
    assert!(pause(PauseChange::Pause(Pause::new("ada", "why"))).await);
    assert_eq!(due(&env, 10).await.next_due_at, None, "what is paused is not to come");
    let until = Pause { until: Some(env.after(300)), ..Pause::new("ada", "why") };
    assert!(pause(PauseChange::Pause(until)).await);
    assert_eq!(due(&env, 10).await.next_due_at, Some(env.after(300)));
    env.advance(299);
    assert!(due(&env, 10).await.due.is_empty());
    env.advance(1);
    assert_eq!(due(&env, 10).await.due.len(), 1);
    fired(&fire_next(&env, "a").await);
    let missing = PauseChange::Resume { next: None };
    assert!(!env.storage.pause_recurring(&env.call(), "none", missing).await.expect("asks"));
}

/// REC-10, G10: a schedule that was removed and saved again never fires an instant that was fired
/// before.
pub async fn a_removed_schedule_remembers_what_it_fired(env: Env) {
    let at = env.now();
    save(&env, spec("a"), at).await;
    let job = fired(&fire_next(&env, "a").await);
    assert!(env.storage.remove_recurring(&env.call(), "a").await.expect("removes"));
    assert!(!env.storage.remove_recurring(&env.call(), "a").await.expect("removes"));
    assert!(env.storage.recurring("a").await.expect("reads").is_none());
    assert!(due(&env, 10).await.due.is_empty());
    let outcome = save(&env, spec("a"), at).await;
    assert!(matches!(outcome, SaveOutcome::Created { .. }), "{outcome:?}");
    assert_eq!(record(&env, "a").await.last_nominal_at, Some(at));
    assert_eq!(fire_next(&env, "a").await, FireOutcome::Skipped);
    assert_eq!(env.claimer("s").await.claim_ids(10).await, [job]);
    // It has moved on, and fires what comes after.
    assert_eq!(record(&env, "a").await.next, next(at.plus(seconds(60))));
    fired(&fire_next(&env, "a").await);
}

/// REC-4: the latest 100 occurrences of a schedule are kept, newest first; schedules are listed by id,
/// in pages.
pub async fn the_latest_hundred_occurrences_are_kept(env: Env) {
    save(&env, spec("a"), env.now()).await;
    for _ in 0..110 {
        fired(&fire_next(&env, "a").await);
    }
    let kept = runs(&env, "a").await;
    assert_eq!(kept.len(), 100);
    let last = record(&env, "a").await.last_nominal_at;
    assert_eq!(last, Some(kept[0].nominal_at));
    assert!(kept.windows(2).all(|pair| pair[0].nominal_at > pair[1].nominal_at));
    assert_eq!(env.storage.recurring_runs("a", 3).await.expect("reads"), kept[..3]);
    for id in ["c", "b", "é", "B"] {
        save(&env, spec(id), env.now()).await;
    }
    let list = async |after, limit| {
        let records = env.storage.list_recurring(after, limit).await.expect("lists");
        records.into_iter().map(|it| it.spec.id).collect::<Vec<_>>()
    };
    assert_eq!(list(None, 2).await, ["B", "a"]);
    assert_eq!(list(Some("a"), 10).await, ["b", "c", "é"]);
    assert_eq!(list(Some("b"), 10).await, ["c", "é"]);
}
