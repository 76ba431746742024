//! Unique keys.

use jobkit_core::JobId;
use jobkit_core::edge::{Edge, On, Parent};
use jobkit_core::record::NewRecord;
use jobkit_core::refusal::Refusal;
use jobkit_core::state::{Keep, Reason, Retention, Start, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{
    Action, ChangeOutcome, JobSubmitted, Settle, StepRequest, Submission, Submitted,
};
use jobkit_core::unique::{OnConflict, Unique, Until};

use crate::fixtures::*;

fn until_started(key: &str) -> NewRecord {
    let until = Until::Started;
    let unique = Unique { until, on_conflict: OnConflict::Reject, ..Unique::new(key) };
    NewRecord { unique: Some(unique), ..job() }
}

/// SUB-8, G11: a key that is held answers as the new job says: the holder stands in its place, or the
/// submission is refused.
pub async fn a_held_key_answers_as_the_new_job_says(env: Env) {
    let holder = env.add(keyed("key", OnConflict::Reject)).await;
    let existing = keyed("key", OnConflict::ReturnExisting);
    let answers = env.submit(Submission::one(existing.clone())).await;
    assert_eq!(answers, [JobSubmitted::Existing(holder)]);
    assert!(env.find(existing.id).await.is_none());
    let rejected = keyed("key", OnConflict::Reject);
    let neighbour = job();
    let refusal = env.refused(Submission::flow(vec![neighbour.clone(), rejected])).await;
    assert_eq!(refusal, Refusal::UniqueConflict { holder });
    assert!(env.find(neighbour.id).await.is_none());
    // Another key, and the same with other letters, are free.
    env.add(keyed("Key", OnConflict::Reject)).await;
    env.add(keyed("key ", OnConflict::Reject)).await;
    // A job of another kind holds the same key.
    let other = NewRecord { kind: name("other"), ..keyed("key", OnConflict::ReturnExisting) };
    assert_eq!(env.submit(Submission::one(other)).await, [JobSubmitted::Existing(holder)]);
}

/// SUB-8, SUB-2: a repeated submit of the holder answers that it is stored, not that its key is held.
pub async fn the_holder_submitted_again_is_known(env: Env) {
    for on_conflict in [OnConflict::Reject, OnConflict::ReturnExisting, OnConflict::Replace] {
        let job = keyed(&format!("{on_conflict:?}"), on_conflict);
        let id = env.add(job.clone()).await;
        let answers = env.submit(Submission::one(job)).await;
        assert_eq!(answers, [JobSubmitted::Already(StateName::Enqueued)]);
        assert_eq!(env.state(id).await, StateName::Enqueued);
    }
}

/// SUB-8, G11: replace deletes a holder that waits and takes its place; one that runs refuses it.
pub async fn replace_takes_the_place_of_a_waiting_holder(env: Env) {
    let first = env.add(keyed("key", OnConflict::Reject)).await;
    let child = env.add(after(first, On::Any)).await;
    let second = env.add(keyed("key", OnConflict::Replace)).await;
    let record = env.record(first).await;
    assert_eq!((record.state(), record.head.reason), (StateName::Deleted, Reason::Replaced));
    assert!(record.expires_at.is_some());
    assert_eq!(env.state(child).await, StateName::Enqueued, "its children are decided");
    let mut server = env.claimer("s").await;
    let claimed = server.claim(10).await;
    let ids: Vec<_> = claimed.iter().map(|job| job.lease.job).collect();
    assert_eq!(ids, [child, second]);
    let third = keyed("key", OnConflict::Replace);
    let refusal = env.refused(Submission::one(third.clone())).await;
    assert_eq!(refusal, Refusal::UniqueConflict { holder: second });
    assert!(env.find(third.id).await.is_none());
    server.settled(claimed[1].lease, Ending::Succeeded).await;
    env.add(third).await;
    // The one that was replaced has lost the key for good.
    let outcome = env.change(first, Action::Requeue { run_at: None }).await;
    assert!(matches!(outcome, ChangeOutcome::Refused(Refusal::UniqueConflict { .. })));
}

/// SUB-8, G11: a key is held until the job has finished, retries included, and then it is free.
pub async fn a_key_is_held_until_its_job_has_finished(env: Env) {
    let mut server = env.claimer("s").await;
    let is_free = async || {
        let probe = keyed("key", OnConflict::ReturnExisting);
        let id = probe.id;
        match env.submit(Submission::one(probe)).await[0] {
            JobSubmitted::Created(_) => {
                env.delete(id).await;
                true
            }
            _ => false,
        }
    };
    assert!(is_free().await);
    for ending in
        [Ending::Succeeded, Ending::Failed(Reason::Permanent), Ending::Deleted(Reason::Cancelled)]
    {
        env.add(keyed("key", OnConflict::Reject)).await;
        assert!(!is_free().await);
        server.run_one(Ending::Retry { delay: seconds(5) }).await;
        assert!(!is_free().await, "a retry keeps it");
        env.advance(5);
        env.promote().await;
        server.claim_one().await;
        env.advance(60);
        env.rescue_all().await;
        assert!(!is_free().await, "a rescue keeps it");
        server.run_one(ending).await;
        assert!(is_free().await, "{ending:?}");
    }
    let scheduled =
        NewRecord { start: Start::After(seconds(60)), ..keyed("key", OnConflict::Reject) };
    let scheduled = env.add(scheduled).await;
    assert!(!is_free().await);
    env.delete(scheduled).await;
    assert!(is_free().await);
}

/// SUB-8, CHG-4, G11: a running job that was asked to stop keeps its key until it ends.
pub async fn a_cancelled_job_keeps_its_key_until_it_ends(env: Env) {
    let holder = env.add(keyed("key", OnConflict::Reject)).await;
    let mut server = env.claimer("s").await;
    let lease = server.claim_one().await.lease;
    env.change(holder, Action::Delete { keep: None }).await;
    let refusal = env.refused(Submission::one(keyed("key", OnConflict::Reject))).await;
    assert_eq!(refusal, Refusal::UniqueConflict { holder });
    server.settled(lease, Ending::Deleted(Reason::Cancelled)).await;
    env.add(keyed("key", OnConflict::Reject)).await;
}

/// SUB-8, G11: a key that holds until the start is free once its job was claimed, and a retry does not
/// take it again.
pub async fn a_key_until_the_start_is_free_with_the_claim(env: Env) {
    let first = env.add(until_started("key")).await;
    let refusal = env.refused(Submission::one(until_started("key"))).await;
    assert_eq!(refusal, Refusal::UniqueConflict { holder: first });
    let mut server = env.claimer("s").await;
    let lease = server.claim_one().await.lease;
    let second = env.add(until_started("key")).await;
    assert_eq!(server.settled(lease, RETRY_NOW).await, StateName::Enqueued);
    let refusal = env.refused(Submission::one(until_started("key"))).await;
    assert_eq!(refusal, Refusal::UniqueConflict { holder: second });
    // The end of the first does not free what the second holds.
    assert_eq!(server.run_one(Ending::Succeeded).await, first);
    let refusal = env.refused(Submission::one(until_started("key"))).await;
    assert_eq!(refusal, Refusal::UniqueConflict { holder: second });
    let outcome = env.change(first, Action::Requeue { run_at: None }).await;
    assert_eq!(outcome, ChangeOutcome::Refused(Refusal::UniqueConflict { holder: second }));
}

/// SUB-8, G11: a key that holds until the start is held however its job comes to it.
pub async fn a_key_until_the_start_is_held_while_its_job_waits(env: Env) {
    let start = Start::After(seconds(60));
    let first = env.add(NewRecord { start, ..until_started("key") }).await;
    let held = async || {
        let refusal = env.refused(Submission::one(until_started("key"))).await;
        assert_eq!(refusal, Refusal::UniqueConflict { holder: first });
    };
    held().await;
    env.change(first, Action::Reschedule { run_at: env.after(30) }).await;
    held().await;
    env.advance(31);
    assert_eq!(env.promote().await, 1);
    held().await;
    env.change(first, Action::Move { queue: None, priority: Some(7) }).await;
    held().await;
    env.claimer("s").await.claim_one().await;
    env.add(until_started("key")).await;
}

/// CHG-6, G11: a requeue takes the key again, or answers who holds it and changes nothing.
pub async fn a_requeue_takes_the_key_or_is_refused(env: Env) {
    let first = env.add(keyed("key", OnConflict::Reject)).await;
    let mut server = env.claimer("s").await;
    server.run_one(Ending::Failed(Reason::Permanent)).await;
    env.requeue(first).await;
    let refusal = env.refused(Submission::one(keyed("key", OnConflict::Reject))).await;
    assert_eq!(refusal, Refusal::UniqueConflict { holder: first });
    server.run_one(Ending::Failed(Reason::Permanent)).await;
    let second = env.add(keyed("key", OnConflict::Reject)).await;
    let before = env.details(first).await;
    let outcome = env.change(first, Action::Requeue { run_at: None }).await;
    assert_eq!(outcome, ChangeOutcome::Refused(Refusal::UniqueConflict { holder: second }));
    assert_eq!(env.details(first).await, before);
}

/// SUB-8, G11: of many who want a key at the same time one gets it, and the others learn who.
pub async fn of_many_one_takes_the_key(env: Env) {
    let other = env.second().await;
    for round in 0..20 {
        let key = format!("key-{round}");
        let tasks = (0..10).map(|i| {
            let env = if i % 2 == 0 { env.clone() } else { other.clone() };
            let on_conflict = if i < 5 { OnConflict::ReturnExisting } else { OnConflict::Reject };
            let job = keyed(&key, on_conflict);
            tokio::spawn(async move {
                let id = job.id;
                match env.submit_all(&[Submission::one(job)]).await.remove(0) {
                    Submitted::Created(jobs) => match jobs[0] {
                        JobSubmitted::Created(_) => (true, id),
                        JobSubmitted::Existing(holder) => (false, holder),
                        other => panic!("{other:?}"),
                    },
                    Submitted::Refused(Refusal::UniqueConflict { holder }) => (false, holder),
                    other => panic!("{other:?}"),
                }
            })
        });
        let answers = join(tasks.collect()).await;
        let winners: Vec<_> = answers.iter().filter(|it| it.0).collect();
        assert_eq!(winners.len(), 1, "{answers:?}");
        assert!(answers.iter().all(|it| it.1 == winners[0].1), "{answers:?}");
    }
}

/// SUB-8, G11: in a flow the holder stands in the place of the new job, edges included.
pub async fn the_existing_job_stands_in_the_place_of_a_parent(env: Env) {
    let holder = env.add(keyed("key", OnConflict::Reject)).await;
    let parent = keyed("key", OnConflict::ReturnExisting);
    let child = after(parent.id, On::Success);
    let ids = [parent.id, child.id];
    let answers = env.submit(Submission::flow(vec![child, parent])).await;
    assert_eq!(
        answers,
        [JobSubmitted::Created(StateName::Awaiting), JobSubmitted::Existing(holder)]
    );
    assert!(env.find(ids[0]).await.is_none());
    let edge = Edge { parent: Parent::Job(holder), on: On::Success };
    assert_eq!(env.details(ids[1]).await.parents[0].edge, edge);
    let mut server = env.claimer("s").await;
    assert_eq!(server.run_one(Ending::Succeeded).await, holder);
    assert_eq!(server.run_one(Ending::Succeeded).await, ids[1]);
}

/// SUB-8, G3: two jobs of one submission with the same key: the second does as it says against the
/// first.
pub async fn a_key_named_twice_in_a_flow_is_taken_by_the_first(env: Env) {
    let (first, second) = (keyed("a", OnConflict::Reject), keyed("a", OnConflict::ReturnExisting));
    let (id, child) = (first.id, after(second.id, On::Any));
    let answers = env.submit(Submission::flow(vec![first, second, child])).await;
    assert_eq!(answers[1], JobSubmitted::Existing(id));
    let (first, second) = (keyed("b", OnConflict::Reject), keyed("b", OnConflict::Reject));
    let holder = first.id;
    let refusal = env.refused(Submission::flow(vec![first, second])).await;
    assert_eq!(refusal, Refusal::UniqueConflict { holder });
    assert!(env.find(holder).await.is_none());
    let (first, second) = (keyed("c", OnConflict::Reject), keyed("c", OnConflict::Replace));
    let ids = [first.id, second.id];
    env.flow(vec![first, second]).await;
    assert_eq!(env.states(&ids).await, [StateName::Deleted, StateName::Enqueued]);
}

/// SUB-8, SUB-6: a job that is stored as Deleted, since its condition can no longer be met, takes no
/// key.
pub async fn a_job_that_is_born_deleted_takes_no_key(env: Env) {
    let parent = env.add(job()).await;
    env.delete(parent).await;
    let edges = after(parent, On::Success).edges;
    let born = env.add(NewRecord { edges, ..keyed("key", OnConflict::Reject) }).await;
    assert_eq!(env.state(born).await, StateName::Deleted);
    env.add(keyed("key", OnConflict::Reject)).await;
}

/// A job whose key is held for this many seconds. Its id has no time, since cases move theirs by hours.
fn for_seconds(id: &str, key: &str, count: u64, on_conflict: OnConflict) -> NewRecord {
    let unique = Unique { key: key.into(), until: Until::Period(seconds(count)), on_conflict };
    NewRecord { id: JobId::from_key("k", id), unique: Some(unique), ..job() }
}

/// SUB-15, G11: a key that is taken for a period is held until its very end, whatever becomes of the job,
/// and not longer, also when the job still waits.
pub async fn a_key_is_held_for_its_period(env: Env) {
    let mut server = env.claimer("s").await;
    for what in ["waits", "runs", "succeeds", "fails", "is deleted"] {
        let id = env.add(for_seconds(what, what, 60, OnConflict::Reject)).await;
        match what {
            "waits" => drop(env.changed(id, Action::Reschedule { run_at: env.after(900) }).await),
            "runs" => drop(server.claim_one().await),
            "succeeds" => drop(server.run_one(Ending::Succeeded).await),
            "fails" => drop(server.run_one(Ending::Failed(Reason::Permanent)).await),
            _ => drop(env.delete(id).await),
        }
        env.advance(59);
        let existing = keyed(what, OnConflict::ReturnExisting);
        let answers = env.submit(Submission::one(existing)).await;
        assert_eq!(answers, [JobSubmitted::Existing(id)], "{what}");
        let refusal = env.refused(Submission::one(keyed(what, OnConflict::Reject))).await;
        assert_eq!(refusal, Refusal::UniqueConflict { holder: id }, "{what}");
        env.advance(1);
        let next = for_seconds(&format!("{what} again"), what, 60, OnConflict::Reject);
        let next = NewRecord { start: Start::After(seconds(3600)), ..next };
        let next = env.add(next).await;
        // The end of the one before frees nothing.
        if what == "waits" {
            env.delete(id).await;
        }
        let refusal = env.refused(Submission::one(keyed(what, OnConflict::Reject))).await;
        assert_eq!(refusal, Refusal::UniqueConflict { holder: next }, "{what}");
    }
}

/// SUB-15: a key that was taken ahead of the clock does not stay held for longer by as much once the clock is
/// set right; a minute is within what clocks differ by.
pub async fn a_key_taken_ahead_of_the_clock_is_free(env: Env) {
    const MONTH: i64 = 30 * 24 * 3600;
    let other = |id: &str| Submission::one(for_seconds(id, "k", 3600, OnConflict::Reject));
    env.advance(MONTH);
    let ahead = env.add(for_seconds("ahead", "k", 3600, OnConflict::Reject)).await;
    env.advance(-60);
    assert_eq!(env.refused(other("second")).await, Refusal::UniqueConflict { holder: ahead });
    env.advance(60 - MONTH);
    let right = env.add(for_seconds("right again", "k", 3600, OnConflict::Reject)).await;
    env.advance(3599);
    assert_eq!(env.refused(other("fourth")).await, Refusal::UniqueConflict { holder: right });
    env.advance(1);
    env.add(for_seconds("fifth", "k", 3600, OnConflict::Reject)).await;
}

/// SUB-15, PUR-5, G8: a key that is held for a period outlives the record of its job: that job is
/// answered, and children of it are refused.
pub async fn a_period_outlives_the_record(env: Env) {
    let mut server = env.claimer("s").await;
    let hour = Retention::all(Keep::For(seconds(3600)));
    let mut long = for_seconds("long", "key", 4 * 3600, OnConflict::Reject);
    long.extras_mut().overrides.retention = Some(hour);
    let holder = env.add(long).await;
    let lease = server.claim_one().await.lease;
    server.settle_with(Settle { retention: hour, ..Settle::new(lease, Ending::Succeeded) }).await;
    env.advance(2 * 3600);
    assert_eq!(env.purge().await, 1);
    assert!(env.find(holder).await.is_none());
    let existing = || for_seconds("other", "key", 60, OnConflict::ReturnExisting);
    assert_eq!(env.submit(Submission::one(existing())).await, [JobSubmitted::Existing(holder)]);
    let child = NewRecord { id: JobId::from_key("k", "child"), ..after(existing().id, On::Any) };
    let refusal = env.refused(Submission::flow(vec![existing(), child])).await;
    assert_eq!(refusal, Refusal::ParentGone { parent: Parent::Job(holder) });
    let rejected = for_seconds("rejected", "key", 60, OnConflict::Reject);
    let refusal = env.refused(Submission::one(rejected)).await;
    assert_eq!(refusal, Refusal::UniqueConflict { holder });
    env.add(for_seconds("replacing", "key", 60, OnConflict::Replace)).await;
}

/// SUB-15, SUB-8: replace deletes a holder that waits, takes the key from one that has finished and leaves
/// it as it is, and is refused by one that runs.
pub async fn replace_takes_a_key_that_is_held_for_a_period(env: Env) {
    let mut server = env.claimer("s").await;
    let replacing = |id: &str| for_seconds(id, "key", 600, OnConflict::Replace);
    let first = env.add(replacing("1")).await;
    let second = env.add(replacing("2")).await;
    assert_eq!(env.record(first).await.head.reason, Reason::Replaced);
    let lease = server.claim_one().await.lease;
    assert_eq!(lease.job, second);
    let refusal = env.refused(Submission::one(replacing("3"))).await;
    assert_eq!(refusal, Refusal::UniqueConflict { holder: second });
    server.settled(lease, Ending::Succeeded).await;
    env.advance(300);
    let third = env.add(replacing("3")).await;
    assert_eq!(env.state(second).await, StateName::Succeeded);
    // The period is that of the third, also for who removes those that have passed.
    env.advance(599);
    env.purge().await;
    let existing = for_seconds("4", "key", 600, OnConflict::ReturnExisting);
    assert_eq!(env.submit(Submission::one(existing)).await, [JobSubmitted::Existing(third)]);
    let outcome = env.change(second, Action::Requeue { run_at: None }).await;
    assert_eq!(outcome, ChangeOutcome::Refused(Refusal::UniqueConflict { holder: third }));
}

/// SUB-15, CHG-12: a job that is gone may come again under its id, and replace itself where it holds its
/// key for a period; it then is the holder.
pub async fn a_job_may_replace_what_it_was(env: Env) {
    let mut server = env.claimer("s").await;
    let hour = Retention::all(Keep::For(seconds(3600)));
    let again = |on_conflict| for_seconds("again", "key", 4 * 3600, on_conflict);
    let id = env.add(again(OnConflict::Replace)).await;
    let lease = server.claim_one().await.lease;
    server.settle_with(Settle { retention: hour, ..Settle::new(lease, Ending::Succeeded) }).await;
    env.advance(2 * 3600);
    assert_eq!(env.purge().await, 1);
    let refusal = env.refused(Submission::one(again(OnConflict::Reject))).await;
    assert_eq!(refusal, Refusal::UniqueConflict { holder: id });
    // Born Deleted it takes no key, and what it was holds it still: it may be requeued.
    let parent = env.add(NewRecord { id: JobId::from_key("k", "parent"), ..job() }).await;
    env.delete(parent).await;
    let given_up =
        NewRecord { edges: after(parent, On::Success).edges, ..again(OnConflict::Replace) };
    env.add(given_up).await;
    assert_eq!(env.state(id).await, StateName::Deleted);
    assert_eq!(env.requeue(id).await, StateName::Enqueued);
    env.delete(id).await;
    env.advance(31 * 24 * 3600);
    env.purge().await;
    // The same without a stop in between.
    let id = env.add(again(OnConflict::Replace)).await;
    let lease = server.claim_one().await.lease;
    server.settle_with(Settle { retention: hour, ..Settle::new(lease, Ending::Succeeded) }).await;
    env.advance(2 * 3600);
    assert_eq!(env.purge().await, 1);
    env.add(again(OnConflict::Replace)).await;
    assert_eq!(env.state(id).await, StateName::Enqueued, "it is not what it replaces");
    assert_eq!(server.run_one(Ending::Succeeded).await, id);
}

/// CHG-12, CHG-6, G11: a requeue keeps a key that is held for a period as long as it would have been
/// held, and takes one whose period has passed for another.
pub async fn a_requeue_takes_a_period_anew_only_when_it_has_passed(env: Env) {
    let mut server = env.claimer("s").await;
    let first = env.add(for_seconds("1", "key", 60, OnConflict::Reject)).await;
    server.run_one(Ending::Succeeded).await;
    env.advance(30);
    env.requeue(first).await;
    server.run_one(Ending::Succeeded).await;
    let probe = || for_seconds("2", "key", 60, OnConflict::Reject);
    env.advance(29);
    let held = Refusal::UniqueConflict { holder: first };
    assert_eq!(env.refused(Submission::one(probe())).await, held);
    env.advance(1);
    env.requeue(first).await;
    server.run_one(Ending::Succeeded).await;
    env.advance(59);
    assert_eq!(env.refused(Submission::one(probe())).await, held, "for another period");
    env.advance(1);
    let second = env.add(probe()).await;
    let outcome = env.change(first, Action::Requeue { run_at: None }).await;
    assert_eq!(outcome, ChangeOutcome::Refused(Refusal::UniqueConflict { holder: second }));
    env.advance(60);
    env.requeue(first).await;
}

/// PUR-5, G19: purges remove keys whose period has passed in bounded steps, and no others.
pub async fn purge_removes_keys_whose_period_has_passed(env: Env) {
    let many = (0..50).map(|n| {
        let (id, key) = (format!("short-{n}"), format!("key-{n}"));
        for_seconds(&id, &key, 60, OnConflict::Reject)
    });
    env.add_many(many.collect()).await;
    let kept = env.add(for_seconds("kept", "kept", 120, OnConflict::Reject)).await;
    let purge = async || {
        let request = StepRequest { max: 20 };
        env.storage.purge_expired(&env.call(), request).await.expect("purges")
    };
    assert!(!purge().await.more);
    env.advance(60);
    let mut steps = 1;
    while purge().await.more {
        steps += 1;
        assert!(steps < 10, "purges never end");
    }
    assert!(steps >= 3, "bounded: {steps}");
    let refusal = env.refused(Submission::one(keyed("kept", OnConflict::Reject))).await;
    assert_eq!(refusal, Refusal::UniqueConflict { holder: kept });
    env.add(for_seconds("again", "key-0", 60, OnConflict::Reject)).await;
}
