//! Unique keys.

use jobkit_core::edge::{Edge, On, Parent};
use jobkit_core::record::NewRecord;
use jobkit_core::refusal::Refusal;
use jobkit_core::state::{Reason, Start, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{Action, ChangeOutcome, JobSubmitted, Submission, Submitted};
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
