//! Changes by the hand of a client or person.

use jobkit_core::record::NewRecord;
use jobkit_core::refusal::Refusal;
use jobkit_core::state::{Keep, Reason, Retention, Start, State, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{
    Action, Change, ChangeOutcome, ChangeRequest, Guard, JobSubmitted, Settle, SettleAnswer,
    Submission,
};
use jobkit_core::{JobId, OperationId, Timestamp};

use crate::fixtures::*;

/// A fresh job in each state that core storages know: all but Awaiting.
async fn in_state(env: &Env, state: StateName) -> JobId {
    let start = match state {
        StateName::Scheduled => Start::After(seconds(600)),
        _ => Start::Now,
    };
    let id = env.add(NewRecord { start, ..job() }).await;
    match state {
        StateName::Deleted => {
            env.delete(id).await;
        }
        StateName::Processing | StateName::Succeeded | StateName::Failed => {
            let mut server = env.claimer("helper").await;
            let lease = server.claim_one().await.lease;
            assert_eq!(lease.job, id, "nothing else is waiting");
            if state == StateName::Succeeded {
                server.settled(lease, Ending::Succeeded).await;
            } else if state == StateName::Failed {
                server.settled(lease, Ending::Failed(Reason::Permanent)).await;
            }
        }
        _ => {}
    }
    assert_eq!(env.state(id).await, state);
    id
}

/// Takes a job out of the way of the next one.
async fn clear(env: &Env, id: JobId) {
    let state = env.state(id).await;
    if !state.is_finished() {
        env.change(id, Action::Delete { keep: None }).await;
    }
}

/// CHG-1, G1: every action in every state is applied as the state machine says, or refused without a
/// trace.
pub async fn every_action_is_applied_or_refused_as_the_table_says(env: Env) {
    use StateName::{Deleted, Enqueued, Failed, Processing, Scheduled, Succeeded};
    let later = env.after(900);
    let actions = [
        ("requeue", Action::Requeue { run_at: None }),
        ("requeue later", Action::Requeue { run_at: Some(later) }),
        ("delete", Action::Delete { keep: None }),
        ("reschedule", Action::Reschedule { run_at: later }),
        ("run now", Action::RunNow),
        ("move", Action::Move { queue: None, priority: Some(7) }),
    ];
    let allowed = [
        (Scheduled, "delete", Deleted),
        (Scheduled, "reschedule", Scheduled),
        (Scheduled, "run now", Enqueued),
        (Scheduled, "move", Scheduled),
        (Enqueued, "delete", Deleted),
        (Enqueued, "reschedule", Scheduled),
        (Enqueued, "move", Enqueued),
        (Processing, "delete", Processing),
        (Succeeded, "requeue", Enqueued),
        (Succeeded, "requeue later", Scheduled),
        (Succeeded, "delete", Deleted),
        (Failed, "requeue", Enqueued),
        (Failed, "requeue later", Scheduled),
        (Failed, "delete", Deleted),
        (Deleted, "requeue", Enqueued),
        (Deleted, "requeue later", Scheduled),
    ];
    for state in [Scheduled, Enqueued, Processing, Succeeded, Failed, Deleted] {
        for (what, action) in &actions {
            let id = in_state(&env, state).await;
            let before = env.details(id).await;
            let outcome = env.change(id, action.clone()).await;
            let after = env.details(id).await;
            let to = allowed.iter().find(|it| (it.0, it.1) == (state, what)).map(|it| it.2);
            match (&outcome, to) {
                (ChangeOutcome::Changed { state: told, version }, Some(to)) => {
                    assert_eq!((*told, after.record.state()), (to, to), "{state}, {what}");
                    assert_eq!(*version, after.record.head.version, "{state}, {what}");
                    assert!(*version > before.record.head.version, "{state}, {what}");
                }
                (ChangeOutcome::Cancelling, Some(Processing)) => {}
                (ChangeOutcome::Refused(Refusal::State { state: told }), None) => {
                    assert_eq!(*told, state, "{what}");
                    assert_eq!(after, before, "{state}, {what}");
                }
                _ => panic!("{state}, {what}: {outcome:?}"),
            }
            clear(&env, id).await;
        }
    }
}

/// CHG-2: a change whose guard does not fit is refused, telling state and version; one that fits is
/// applied.
pub async fn a_guard_that_does_not_fit_refuses_the_change(env: Env) {
    let id = env.add(job()).await;
    let guarded = async |guard| {
        let operation = OperationId::new();
        let action = Action::Move { queue: None, priority: Some(6) };
        env.change_as(Change { operation, job: id, guard, action }).await
    };
    let before = env.details(id).await;
    let version = before.record.head.version;
    let changed = Refusal::Changed { state: StateName::Enqueued, version };
    for guard in [
        Guard::State(StateName::Scheduled),
        Guard::Version(version + 1),
        Guard::Version(version - 1),
    ] {
        assert_eq!(guarded(guard).await, ChangeOutcome::Refused(changed.clone()));
    }
    assert_eq!(env.details(id).await, before);
    let outcome = guarded(Guard::Version(version)).await;
    assert!(matches!(outcome, ChangeOutcome::Changed { .. }), "{outcome:?}");
    let outcome = guarded(Guard::Version(version)).await;
    assert!(matches!(outcome, ChangeOutcome::Refused(Refusal::Changed { .. })), "{outcome:?}");
    let outcome = guarded(Guard::State(StateName::Enqueued)).await;
    assert!(matches!(outcome, ChangeOutcome::Changed { .. }), "{outcome:?}");
}

/// CHG-2: of many who change the same version one is first.
pub async fn of_many_guarded_changes_one_is_applied(env: Env) {
    let other = env.second().await;
    for _ in 0..10 {
        let id = env.add(job()).await;
        let version = env.record(id).await.head.version;
        let tasks = (0..12_i32).map(|i| {
            let env = if i % 2 == 0 { env.clone() } else { other.clone() };
            tokio::spawn(async move {
                let guard = Guard::Version(version);
                let action =
                    Action::Move { queue: None, priority: Some(u8::try_from(i % 10).unwrap_or(0)) };
                let change = Change { operation: OperationId::new(), job: id, guard, action };
                match env.change_as(change).await {
                    ChangeOutcome::Changed { .. } => true,
                    ChangeOutcome::Refused(Refusal::Changed { .. }) => false,
                    outcome => panic!("{outcome:?}"),
                }
            })
        });
        let applied = join(tasks.collect()).await.into_iter().filter(|it| *it).count();
        assert_eq!(applied, 1);
        assert_eq!(env.record(id).await.head.version, version + 1);
    }
}

/// CHG-3: repeating an operation that was the job's last change answers `AlreadyApplied` and changes
/// nothing, whatever its guard says by then.
pub async fn a_repeated_change_is_applied_once(env: Env) {
    let id = in_state(&env, StateName::Failed).await;
    let version = env.record(id).await.head.version;
    let change = Change {
        operation: OperationId::new(),
        job: id,
        guard: Guard::Version(version),
        action: Action::Requeue { run_at: None },
    };
    let outcome = env.change_as(change.clone()).await;
    assert!(matches!(outcome, ChangeOutcome::Changed { .. }), "{outcome:?}");
    let before = env.details(id).await;
    for _ in 0..2 {
        assert_eq!(env.change_as(change.clone()).await, ChangeOutcome::AlreadyApplied);
    }
    assert_eq!(env.details(id).await, before);
    assert_eq!(before.record.head.run, 1);
    // Also when the job has moved on meanwhile.
    env.claimer("s").await.run_one(Ending::Succeeded).await;
    assert_eq!(env.change_as(change).await, ChangeOutcome::AlreadyApplied);
    assert_eq!(env.state(id).await, StateName::Succeeded);
}

/// CHG-4, SET-5: deleting a running job marks it; success wins, anything else becomes Deleted.
pub async fn deleting_a_running_job_marks_it_and_success_wins(env: Env) {
    let endings = [
        (Ending::Succeeded, StateName::Succeeded, Reason::Done),
        (Ending::Failed(Reason::OutOfAttempts), StateName::Deleted, Reason::Cancelled),
        (RETRY_NOW, StateName::Deleted, Reason::Cancelled),
        (Ending::Snoozed { delay: seconds(5) }, StateName::Deleted, Reason::Cancelled),
        (Ending::GivenBack, StateName::Deleted, Reason::Cancelled),
        (Ending::Deleted(Reason::Cancelled), StateName::Deleted, Reason::Cancelled),
    ];
    let mut server = env.claimer("s").await;
    for (ending, state, reason) in endings {
        let id = env.add(job()).await;
        let lease = server.claim_one().await.lease;
        let before = env.details(id).await;
        let delete = Action::Delete { keep: None };
        assert_eq!(env.change(id, delete.clone()).await, ChangeOutcome::Cancelling);
        let marked = env.details(id).await;
        let State::Processing(hold) = &marked.record.head.state else { panic!("it still runs") };
        assert_eq!(hold.cancel, Some(Reason::Cancelled));
        assert_eq!(marked.record.head.fence, before.record.head.fence);
        assert!(marked.record.head.version > before.record.head.version);
        assert_eq!(marked.history, before.history, "a mark is no transition");
        assert_eq!(
            env.change(id, delete).await,
            ChangeOutcome::Refused(Refusal::AlreadyCancelling)
        );
        assert_eq!(server.settled(lease, ending).await, state, "{ending:?}");
        let record = env.record(id).await;
        assert_eq!(record.head.reason, reason, "{ending:?}");
        assert!(record.expires_at.is_some());
    }
    assert!(server.claim(10).await.is_empty());
}

/// CHG-5: a waiting or finished job that is deleted is kept as Deleted and not claimed any more.
pub async fn a_deleted_job_is_kept_and_not_claimed(env: Env) {
    let mut server = env.claimer("s").await;
    for state in [StateName::Scheduled, StateName::Enqueued, StateName::Failed] {
        let id = in_state(&env, state).await;
        assert_eq!(env.delete(id).await, StateName::Deleted);
        let record = env.record(id).await;
        assert_eq!((record.head.reason, record.parked_at), (Reason::Deleted, None));
        assert_eq!(record.expires_at, Some(env.after(24 * 3600)));
    }
    env.advance(3600);
    env.promote().await;
    assert!(server.claim(10).await.is_empty());
}

/// CHG-5, G19: a deleted job is kept as long as the change says, unless the job says otherwise itself.
pub async fn a_deletion_says_how_long_the_job_is_kept(env: Env) {
    let keep = Action::Delete { keep: Some(Keep::For(seconds(7200))) };
    let id = env.add(job()).await;
    env.changed(id, keep.clone()).await;
    assert_eq!(env.record(id).await.expires_at, Some(env.after(7200)));
    let mut own = job();
    own.extras_mut().overrides.retention = Some(Retention::all(Keep::Forever));
    let id = env.add(own).await;
    env.changed(id, keep).await;
    assert_eq!(env.record(id).await.expires_at, None);
}

/// CHG-6, G6: requeue makes a finished job run again, with run + 1, failures and crashes zero, the fence
/// kept and the expiry cleared.
pub async fn a_requeue_begins_a_new_run(env: Env) {
    let mut server = env.claimer("s").await;
    let id = env.add(job()).await;
    server.claim_one().await;
    env.advance(60);
    env.rescue_all().await;
    server.run_one(RETRY_NOW).await;
    let lease = server.claim_one().await.lease;
    let mut settle = Settle::new(lease, Ending::Succeeded);
    settle.result = Some(payload("1"));
    server.settle_with(settle).await;
    let head = env.record(id).await.head;
    assert_eq!((head.fence, head.failures, head.crashes, head.run), (3, 1, 1, 0));
    assert_eq!(env.requeue(id).await, StateName::Enqueued);
    let details = env.details(id).await;
    let head = &details.record.head;
    assert_eq!((head.fence, head.failures, head.crashes, head.run), (3, 0, 0, 1));
    assert_eq!((details.record.expires_at, head.reason), (None, Reason::Requeued));
    assert_eq!(details.result, None);
    let claimed = server.claim_one().await;
    assert_eq!((claimed.lease.fence, claimed.run, claimed.failures), (4, 1, 0));
    server.settled(claimed.lease, Ending::Failed(Reason::OutOfAttempts)).await;
    let later = env.after(30);
    let state = env.changed(id, Action::Requeue { run_at: Some(later) }).await;
    assert_eq!(state, StateName::Scheduled);
    let record = env.record(id).await;
    assert_eq!((record.run_at(), record.head.run), (Some(later), 2));
    assert_eq!(server.settle(lease, Ending::Succeeded).await, SettleAnswer::LeaseLost);
}

/// CHG-8: run now makes a Scheduled job claimable, whatever it waited for.
pub async fn run_now_makes_a_scheduled_job_claimable(env: Env) {
    let mut server = env.claimer("s").await;
    let delayed = env.add(NewRecord { start: Start::After(seconds(600)), ..job() }).await;
    let retried = env.add(job()).await;
    let lease = server.claim_one().await.lease;
    server.settled(lease, Ending::Retry { delay: seconds(600) }).await;
    for id in [delayed, retried] {
        assert_eq!(env.changed(id, Action::RunNow).await, StateName::Enqueued);
        assert_eq!(env.record(id).await.head.reason, Reason::RunNow);
    }
    assert_eq!(env.record(retried).await.head.failures, 1);
    assert_eq!(server.claim_ids(10).await, [delayed, retried]);
    env.advance(3600);
    assert_eq!(env.promote().await, 0);
}

/// CHG-9: reschedule moves Scheduled and Enqueued jobs to another instant.
pub async fn reschedule_moves_a_job_to_another_instant(env: Env) {
    let mut server = env.claimer("s").await;
    let id = env.add(job()).await;
    for seconds in [100, 20, 50] {
        let run_at = env.after(seconds);
        assert_eq!(env.changed(id, Action::Reschedule { run_at }).await, StateName::Scheduled);
        let record = env.record(id).await;
        assert_eq!((record.run_at(), record.head.reason), (Some(run_at), Reason::Rescheduled));
        assert!(server.claim(10).await.is_empty());
    }
    env.advance(49);
    assert_eq!(env.promote().await, 0);
    env.advance(1);
    assert_eq!(env.promote().await, 1);
    assert_eq!(server.claim_ids(10).await, [id]);
}

/// CHG-10, G14: move changes queue or priority, and the job keeps its place among those of its new
/// queue and priority.
pub async fn a_moved_job_keeps_its_sequence(env: Env) {
    let first = env.add(job()).await;
    let others = env.add_many((0..3).map(|_| job_in("mail")).collect()).await;
    let last = env.add(job()).await;
    let sequence = env.record(first).await.sequence;
    let to_mail = Action::Move { queue: Some(name("mail")), priority: None };
    assert_eq!(env.changed(first, to_mail.clone()).await, StateName::Enqueued);
    let record = env.record(first).await;
    assert_eq!((record.sequence, &*record.queue, record.priority), (sequence, "mail", 5));
    let before = env.details(last).await;
    assert_eq!(env.changed(last, to_mail).await, StateName::Enqueued);
    env.changed(last, Action::Move { queue: None, priority: Some(9) }).await;
    let after = env.details(last).await;
    assert_eq!(after.history, before.history, "a move is no transition");
    assert_eq!(after.record.enqueued_at, before.record.enqueued_at);
    let mut server = env.claimer("s").await.queues(&["default", "mail"]);
    let mut expected = vec![last, first];
    expected.extend(others);
    assert_eq!(server.claim_ids(10).await, expected);
    // A job that waits for an instant moves too.
    let id = env.add(NewRecord { start: Start::After(seconds(5)), ..job() }).await;
    env.changed(id, Action::Move { queue: Some(name("mail")), priority: None }).await;
    env.advance(5);
    env.promote().await;
    assert_eq!(env.claimer("m").await.queues(&["mail"]).claim_ids(1).await, [id]);
}

/// CHG-13: a waiting job gets other tags, without a transition; what runs or has finished keeps its own.
pub async fn a_waiting_job_gets_other_tags(env: Env) {
    let tagged = || NewRecord { tags: vec!["vip".into()], ..job() };
    let retag =
        |tags: &[&str]| Action::Retag { tags: tags.iter().map(|tag| (*tag).into()).collect() };
    let waiting = env.add(tagged()).await;
    let scheduled = env.add(NewRecord { start: Start::After(seconds(5)), ..tagged() }).await;
    for id in [waiting, scheduled] {
        let before = env.details(id).await;
        assert_eq!(env.changed(id, retag(&["größer", "b"])).await, before.record.state());
        let after = env.details(id).await;
        assert_eq!(after.record.tags, ["größer", "b"]);
        assert_eq!(after.history, before.history, "tags are no transition");
        assert!(after.record.head.version > before.record.head.version);
        env.changed(id, retag(&[])).await;
        assert!(env.record(id).await.tags.is_empty());
        env.changed(id, retag(&["c"])).await;
    }
    let long = "x".repeat(65);
    let refused = env.change(waiting, retag(&[&long])).await;
    assert!(
        matches!(&refused, ChangeOutcome::Refused(Refusal::Invalid { field: "tags", .. })),
        "{refused:?}"
    );
    let mut server = env.claimer("s").await;
    let running = server.claim_one().await;
    assert_eq!(running.lease.job, waiting);
    let state = StateName::Processing;
    let refused = ChangeOutcome::Refused(Refusal::State { state });
    assert_eq!(env.change(waiting, retag(&[])).await, refused);
    server.settled(running.lease, Ending::Succeeded).await;
    let state = StateName::Succeeded;
    let refused = ChangeOutcome::Refused(Refusal::State { state });
    assert_eq!(env.change(waiting, retag(&[])).await, refused);
    assert_eq!(env.record(waiting).await.tags, ["c"]);
}

/// CHG-11: a change of a job that does not exist answers `JobGone`.
pub async fn a_change_of_a_missing_job_answers_that_it_is_gone(env: Env) {
    let missing = JobId::new();
    for action in [Action::RunNow, Action::Delete { keep: None }] {
        let outcome = env.change(missing, action).await;
        assert_eq!(outcome, ChangeOutcome::Refused(Refusal::JobGone { job: missing }));
    }
}

/// CHG-1, G20: an instant or priority out of range is refused, naming the field.
pub async fn a_change_out_of_range_is_refused(env: Env) {
    let far = Timestamp::from_micros(Timestamp::MAX.as_micros() + 1);
    let waiting = env.add(job()).await;
    let finished = env.add(job()).await;
    env.delete(finished).await;
    for (id, field, action) in [
        (waiting, "run_at", Action::Reschedule { run_at: far }),
        (finished, "run_at", Action::Requeue { run_at: Some(far) }),
        (waiting, "priority", Action::Move { queue: None, priority: Some(10) }),
    ] {
        let before = env.details(id).await;
        match env.change(id, action).await {
            ChangeOutcome::Refused(Refusal::Invalid { field: named, .. }) => {
                assert_eq!(named, field);
            }
            outcome => panic!("{field}: {outcome:?}"),
        }
        assert_eq!(env.details(id).await, before);
    }
}

/// CHG-1, G17: the history tells whose doing a change was; several changes of one call have an outcome
/// each, in order.
pub async fn the_history_names_who_changed_a_job(env: Env) {
    let ids = env.add_many(jobs(2)).await;
    let change =
        |job, action| Change { operation: OperationId::new(), job, guard: Guard::None, action };
    let missing = JobId::new();
    let changes = [
        change(ids[0], Action::Delete { keep: None }),
        change(missing, Action::RunNow),
        change(ids[1], Action::Reschedule { run_at: env.after(5) }),
    ];
    let request = ChangeRequest { changes: &changes, actor: Some("ada@example") };
    let outcomes = env.storage.change_state(&env.call(), request).await.expect("changes");
    assert!(matches!(outcomes[0], ChangeOutcome::Changed { state: StateName::Deleted, .. }));
    assert_eq!(outcomes[1], ChangeOutcome::Refused(Refusal::JobGone { job: missing }));
    assert!(matches!(outcomes[2], ChangeOutcome::Changed { state: StateName::Scheduled, .. }));
    for id in ids {
        let history = env.details(id).await.history;
        let last = history.entries.last().expect("an entry");
        assert_eq!(last.actor.as_deref(), Some("ada@example"));
        assert_eq!(history.entries[0].actor, None);
    }
}

/// CHG-14, CHG-6, CLM-8: `start_by` is over with a requeue, also of a job that was deleted since nobody had
/// started it in time.
pub async fn a_requeue_ends_start_by(env: Env) {
    let late = || NewRecord { start_by: Some(env.after(10)), ..job() };
    let (now, later) = (env.add(late()).await, env.add(late()).await);
    let failed = NewRecord { start_by: Some(env.after(3600)), ..job() };
    let failed = env.add(failed).await;
    let mut server = env.claimer("s").await;
    env.advance(10);
    assert_eq!(server.claim_ids(10).await, [failed]);
    for id in [now, later] {
        assert_eq!(env.record(id).await.head.reason, Reason::NotStartedInTime);
    }
    env.requeue(now).await;
    env.change(later, Action::Requeue { run_at: Some(env.after(60)) }).await;
    assert_eq!(server.run_one(Ending::Succeeded).await, now);
    env.advance(60);
    env.promote().await;
    assert_eq!(server.claim_ids(10).await, [later]);
}

/// CHG-14, SUB-16, G20: what would be deleted instead of started is refused, naming `start_by`, and nothing
/// changes.
pub async fn a_start_that_start_by_forbids_is_refused(env: Env) {
    let by = Some(env.after(100));
    for start in [Start::After(seconds(100)), Start::At(env.after(101))] {
        let late = NewRecord { start, start_by: by, ..job() };
        let refusal = env.refused(Submission::one(late.clone())).await;
        assert!(matches!(refusal, Refusal::Invalid { field: "start_by", .. }), "{refusal:?}");
        assert!(env.find(late.id).await.is_none());
    }
    let at = NewRecord { start: Start::At(env.after(99)), start_by: by, ..job() };
    let scheduled = env.add(at.clone()).await;
    let enqueued = env.add(NewRecord { start_by: by, ..job() }).await;
    let refused = async |id, action| {
        let before = env.details(id).await;
        let outcome = env.change(id, action).await;
        let ChangeOutcome::Refused(Refusal::Invalid { field, .. }) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(field, "start_by");
        assert_eq!(env.details(id).await, before);
    };
    let reschedule = |seconds| Action::Reschedule { run_at: env.after(seconds) };
    refused(scheduled, reschedule(100)).await;
    refused(enqueued, reschedule(3600)).await;
    env.changed(scheduled, reschedule(98)).await;
    env.advance(100);
    // Stored before, it is known, whatever the clock says.
    assert_eq!(
        env.submit(Submission::one(at)).await,
        [JobSubmitted::Already(StateName::Scheduled)]
    );
    refused(scheduled, Action::RunNow).await;
    refused(enqueued, reschedule(-50)).await;
    // A claim ends it, too.
    let started = env.add(NewRecord { start_by: Some(env.after(10)), priority: 9, ..job() }).await;
    let mut server = env.claimer("s").await;
    let lease = server.claim(1).await.remove(0).lease;
    assert_eq!(lease.job, started);
    server.settled(lease, Ending::Snoozed { delay: seconds(60) }).await;
    env.changed(started, reschedule(3600)).await;
    assert_eq!(env.changed(started, Action::RunNow).await, StateName::Enqueued);
}
