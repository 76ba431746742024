//! What a transaction of somebody else holds: whoever meets it goes on, and nobody waits for it.

use std::time::Duration;

use jobkit_core::batch::Starts;
use jobkit_core::edge::On;
use jobkit_core::record::{NewRecord, Occurrence};
use jobkit_core::recurring::{JobTemplate, Misfire, NextRun, Overlap, RecurringSpec};
use jobkit_core::state::{Keep, Retention, Start, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{
    Action, BatchOutcome, Change, ChangeOutcome, ChangeRequest, ClaimRequest, Claimed, Fire,
    FireJob, FireOutcome, Guard, Level, RenewAnswer, Renewal, SaveRecurring, Settle, SettleAnswer,
    Submission, SubmitRequest, Submitted, TriggerOutcome,
};
use jobkit_core::testing::Held;
use jobkit_core::unique::OnConflict;
use jobkit_core::{BatchId, ErrorKind, JobId, OperationId, Schedule, TimeZone};

use crate::fixtures::*;

/// How long a call may take beside what is held; within what storages wait for a lock, and more for a slow
/// machine.
const PATIENCE: Duration = Duration::from_secs(3);

/// A call beside what is held: it ends soon.
async fn soon<T>(call: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, call).await.expect("nobody waits for what a stranger holds")
}

async fn claim(env: &Env, server: &mut Claimer, max: usize) -> Claimed {
    server.sequence += 1;
    let request: ClaimRequest = server.request(server.sequence, max);
    soon(env.storage.claim(&env.call(), &request)).await.expect("claims")
}

async fn submit(env: &Env, submissions: &[Submission]) -> Vec<Submitted> {
    let request = SubmitRequest { submissions };
    soon(env.storage.submit(&env.call(), request)).await.expect("submits")
}

async fn is_stored(env: &Env, id: JobId) -> bool {
    env.find(id).await.is_some()
}

/// CLM-2, CLM-12, G13: a claim takes what nobody holds, parks nothing that it leaves, and says to come
/// again soon.
pub async fn a_claim_leaves_what_others_hold(env: Env) {
    let mut server = env.claimer("s").await;
    let [first, second]: [JobId; 2] = env.add_many(jobs(2)).await.try_into().expect("two");
    let Some(hold) = env.hold(Held::Job(first)).await else { return };
    let claimed = claim(&env, &mut server, 10).await;
    let ids: Vec<_> = claimed.jobs.iter().map(|job| job.lease.job).collect();
    assert_eq!(ids, [second]);
    let again = claimed.again_in.expect("it says when to come again");
    assert!(!again.is_zero() && again <= seconds(1), "{again:?}");
    drop(hold);
    assert_eq!(server.claim_ids(10).await, [first]);

    if env.storage.capabilities().level < Level::Standard {
        return;
    }
    let held = env.add(limited("held", 5)).await;
    let free = env.add(limited("free", 5)).await;
    let hold = env.hold(Held::Limit("held".into())).await.expect("as before");
    let claimed = claim(&env, &mut server, 10).await;
    let ids: Vec<_> = claimed.jobs.iter().map(|job| job.lease.job).collect();
    assert_eq!(ids, [free]);
    assert!(claimed.again_in.is_some_and(|again| !again.is_zero()), "{claimed:?}");
    assert_eq!(env.record(held).await.parked_at, None);
    drop(hold);
    assert_eq!(server.claim_ids(10).await, [held]);
}

/// SET-12, REN-6, G5: what is held is answered as busy, and changes nothing; its neighbours are settled and
/// renewed.
pub async fn a_settle_and_a_renew_beside_a_held_job_are_busy(env: Env) {
    let mut server = env.claimer("s").await;
    env.add_many(jobs(2)).await;
    let leases: Vec<_> = server.claim(2).await.iter().map(|job| job.lease).collect();
    let Some(hold) = env.hold(Held::Job(leases[0].job)).await else { return };
    let held = leases.iter().map(|lease| Renewal { lease: *lease, started: true }).collect();
    let renewed = soon(server.renew(1..=1, held)).await;
    assert_eq!(renewed.answers[0], RenewAnswer::Busy);
    assert!(matches!(renewed.answers[1], RenewAnswer::Renewed { .. }), "{renewed:?}");
    assert!(renewed.given_back.is_empty());
    let settles = || leases.iter().map(|lease| Settle::new(*lease, Ending::Succeeded)).collect();
    let answers = soon(server.settle_all_once(settles())).await;
    assert_eq!(answers, [SettleAnswer::Busy, SettleAnswer::Settled(StateName::Succeeded)]);
    assert_eq!(env.state(leases[0].job).await, StateName::Processing);
    drop(hold);
    let answers = server.settle_all(settles()).await;
    assert_eq!(
        answers,
        [SettleAnswer::Settled(StateName::Succeeded), SettleAnswer::AlreadyApplied]
    );
}

/// SUB-18, G3, G11: a submission that meets what others hold is busy and leaves nothing; its neighbours are
/// stored.
pub async fn a_submit_beside_what_others_hold_is_busy(env: Env) {
    let parent = env.add(job()).await;
    let batch = BatchId::new();
    env.submit(batch_of(batch, Starts::WhenStarted, vec![member(batch)])).await;
    let replaced = env.add(keyed("replaced", OnConflict::ReturnExisting)).await;
    let same_id = job();
    let meets = [
        (Held::Key("key".into()), keyed("key", OnConflict::ReturnExisting)),
        (Held::Job(replaced), keyed("replaced", OnConflict::Replace)),
        (Held::Job(parent), after(parent, On::Success)),
        (Held::Batch(batch), after_batch(batch, On::Success)),
        (Held::Batch(batch), member(batch)),
        (Held::Limit("new".into()), limited("new", 1)),
        (Held::Job(same_id.id), same_id),
    ];
    for (held, meets) in meets {
        let Some(hold) = env.hold(held.clone()).await else { return };
        let neighbour = job();
        let (first, second) = (meets.id, neighbour.id);
        let both = [Submission::one(meets), Submission::one(neighbour)];
        let answers = submit(&env, &both).await;
        assert_eq!(answers[0], Submitted::Busy, "{held:?}");
        assert!(matches!(answers[1], Submitted::Created(_)), "{held:?}: {answers:?}");
        assert!(is_stored(&env, second).await && !is_stored(&env, first).await, "{held:?}");
        drop(hold);
        let answers = submit(&env, &both).await;
        let is_created = |answer: &Submitted| matches!(answer, Submitted::Created(_));
        assert!(answers.iter().all(is_created), "{held:?}: {answers:?}");
        assert!(is_stored(&env, first).await, "{held:?}");
    }
}

/// CHG-15: a change of what others hold is busy and changes nothing; its neighbours are changed.
pub async fn a_change_beside_a_held_job_is_busy(env: Env) {
    let ids = env.add_many(jobs(2)).await;
    let Some(hold) = env.hold(Held::Job(ids[0])).await else { return };
    let change = |job: &JobId| Change {
        operation: OperationId::new(),
        job: *job,
        guard: Guard::None,
        action: Action::Delete { keep: None },
    };
    let changes: Vec<_> = ids.iter().map(change).collect();
    let request = ChangeRequest { changes: &changes, actor: None };
    let outcomes = soon(env.storage.change_state(&env.call(), request)).await.expect("changes");
    assert_eq!(outcomes[0], ChangeOutcome::Busy);
    assert!(matches!(outcomes[1], ChangeOutcome::Changed { .. }), "{outcomes:?}");
    assert_eq!(env.states(&ids).await, [StateName::Enqueued, StateName::Deleted]);
    drop(hold);
    assert_eq!(env.delete(ids[0]).await, StateName::Deleted);
}

/// PRO-5, RES-6, PUR-7: what others hold is left, and what is beside it is promoted, rescued and removed.
pub async fn steps_leave_what_others_hold(env: Env) {
    let mut server = env.claimer("s").await;
    let later = || NewRecord { start: Start::After(seconds(10)), ..job() };
    let due = env.add_many(vec![later(), later()]).await;
    env.advance(10);
    let Some(hold) = env.hold(Held::Job(due[0])).await else { return };
    assert_eq!(soon(env.promote()).await, 1);
    assert_eq!(env.states(&due).await, [StateName::Scheduled, StateName::Enqueued]);
    drop(hold);
    assert_eq!(env.promote().await, 1);

    let claimed = server.claim(10).await;
    assert_eq!(claimed.len(), 2);
    env.advance(60);
    let seen = env.expired().await;
    env.advance(60);
    let hold = env.hold(Held::Job(due[0])).await.expect("as before");
    let rescued = soon(env.rescue(seen)).await.rescued;
    assert_eq!(rescued.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [due[1]]);
    drop(hold);
    env.rescue_all().await;
    assert_eq!(env.states(&due).await, [StateName::Enqueued; 2]);

    for job in server.claim(10).await {
        let retention = Retention::all(Keep::For(seconds(10)));
        let settle = Settle { retention, ..Settle::new(job.lease, Ending::Succeeded) };
        assert!(matches!(server.settle_with(settle).await, SettleAnswer::Settled(_)));
    }
    env.advance(4000);
    let hold = env.hold(Held::Job(due[0])).await.expect("as before");
    let request = jobkit_core::storage::StepRequest { max: 10 };
    let step = soon(env.storage.purge_expired(&env.call(), request)).await.expect("purges");
    assert_eq!((step.done, is_stored(&env, due[0]).await), (1, true));
    drop(hold);
    assert_eq!(env.purge().await, 1);
}

/// BAT-10, SWP-6: starting or cancelling a batch that others hold is busy; a sweep leaves its mark.
pub async fn a_held_batch_is_busy(env: Env) {
    let batch = BatchId::new();
    let job = member(batch);
    let id = job.id;
    env.submit(batch_of(batch, Starts::WhenStarted, vec![job])).await;
    let Some(hold) = env.hold(Held::Batch(batch)).await else { return };
    let started = soon(env.storage.start_batch(&env.call(), batch)).await;
    assert_eq!(started.expect("starts"), BatchOutcome::Busy);
    let cancelled = soon(env.storage.cancel_batch(&env.call(), batch)).await;
    assert_eq!(cancelled.expect("cancels"), BatchOutcome::Busy);
    assert_eq!(env.state(id).await, StateName::Awaiting);
    drop(hold);
    let started = env.storage.start_batch(&env.call(), batch).await.expect("starts");
    assert_eq!(started, BatchOutcome::Changed);
    assert_eq!(env.state(id).await, StateName::Enqueued);

    // More children than a step decides: a mark is left.
    let parent = env.add(crate::fixtures::job()).await;
    let children = env.add_many((0..150).map(|_| after(parent, On::Success)).collect()).await;
    env.changed(parent, Action::Delete { keep: None }).await;
    let states = env.states(&children).await;
    let open = states.iter().position(|state| *state == StateName::Awaiting).expect("some wait");
    let hold = env.hold(Held::Job(children[open])).await.expect("as before");
    let step = soon(env.sweep_once(500)).await;
    assert!(step.more || step.next_in.is_some(), "it is to come again: {step:?}");
    assert_eq!(env.state(children[open]).await, StateName::Awaiting);
    drop(hold);
    env.sweep().await;
    assert!(env.states(&children).await.iter().all(|state| *state == StateName::Deleted));
}

/// LIM-10, SET-7, G13: a slot of a limit that others hold is freed with its job, and given to the next
/// waiter by a sweep.
pub async fn a_slot_of_a_held_limit_is_given_by_a_sweep(env: Env) {
    let mut server = env.claimer("s").await;
    env.add_many(vec![limited("l", 1), limited("l", 1)]).await;
    let first = server.claim(10).await;
    assert_eq!(first.len(), 1);
    let Some(hold) = env.hold(Held::Limit("l".into())).await else { return };
    let settle = Settle::new(first[0].lease, Ending::Succeeded);
    let answers = soon(server.settle_all_once(vec![settle])).await;
    assert_eq!(answers, [SettleAnswer::Settled(StateName::Succeeded)]);
    let limit = jobkit_core::limit::Limit::new("l", 2);
    let defined = soon(env.storage.define_limit(&env.call(), &limit)).await;
    assert_eq!(defined.expect_err("it is held").kind(), ErrorKind::Unavailable);
    drop(hold);
    env.sweep().await;
    assert_eq!(server.claim(10).await.len(), 1);
}

/// REC-15, G10: an occurrence of a schedule that others hold is busy and stays due; so is one whose key is
/// held, and what changes the schedule.
pub async fn an_occurrence_beside_a_held_schedule_stays_due(env: Env) {
    let spec = RecurringSpec {
        id: "nightly".into(),
        schedule: Schedule::every(seconds(60)).expect("a valid interval"),
        time_zone: TimeZone::UTC,
        misfire: Misfire::RunOnce,
        overlap: Overlap::Allow,
        jitter: seconds(0),
        starts_at: None,
        ends_at: None,
        job: JobTemplate::from_record(&keyed("key", OnConflict::ReturnExisting))
            .expect("can recur"),
    };
    let next = |at| Some(NextRun { nominal_at: at, due_at: at });
    let save = SaveRecurring { spec, next: next(env.now()), if_etag: None };
    env.storage.save_recurring(&env.call(), std::slice::from_ref(&save)).await.expect("saves");
    let record = env.storage.recurring("nightly").await.expect("reads").expect("is saved");
    let occurrence = Occurrence { recurring: "nightly".into(), nominal_at: env.now() };
    let job = record.spec.job.instantiate(JobId::new_at(env.now()), occurrence);
    let fire = [Fire {
        id: "nightly".into(),
        expected: env.now(),
        etag: record.etag,
        skipped: Vec::new(),
        job: Some(FireJob { nominal_at: env.now(), job: job.clone(), overlap: Overlap::Allow }),
        next: next(env.after(60)),
    }];
    for held in [Held::Schedule("nightly".into()), Held::Key("key".into())] {
        let Some(hold) = env.hold(held.clone()).await else { return };
        let outcomes = soon(env.storage.fire_recurring(&env.call(), &fire)).await.expect("fires");
        assert_eq!(outcomes, [FireOutcome::Busy], "{held:?}");
        let triggered = soon(env.storage.trigger_recurring(&env.call(), "nightly", &job)).await;
        assert_eq!(triggered.expect("triggers"), TriggerOutcome::Busy, "{held:?}");
        assert!(!is_stored(&env, job.id).await);
        let due = env.storage.due_recurring(&env.call(), 10).await.expect("reads").due;
        assert_eq!(due.len(), 1, "{held:?}");
        drop(hold);
    }
    let hold = env.hold(Held::Schedule("nightly".into())).await.expect("as before");
    let saved = soon(env.storage.save_recurring(&env.call(), &[save])).await.expect("saves");
    assert_eq!(saved, [jobkit_core::storage::SaveOutcome::Busy]);
    let removed = soon(env.storage.remove_recurring(&env.call(), "nightly")).await;
    assert_eq!(removed.expect_err("it is held").kind(), ErrorKind::Unavailable);
    drop(hold);
    let outcomes = env.storage.fire_recurring(&env.call(), &fire).await.expect("fires");
    assert_eq!(outcomes, [FireOutcome::Fired(job.id)]);
    assert!(is_stored(&env, job.id).await);
}
