//! Members whose unique key another job holds.

use jobkit_core::BatchId;
use jobkit_core::JobId;
use jobkit_core::batch::{BatchState, NewBatch, Starts};
use jobkit_core::edge::On;
use jobkit_core::record::NewRecord;
use jobkit_core::refusal::Refusal;
use jobkit_core::state::StateName;
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{JobSubmitted, Submission};
use jobkit_core::unique::{OnConflict, Unique, Until};

use crate::fixtures::*;

use super::*;

/// A member that lets the holder of its key stand in its place.
fn member_with(batch: BatchId, key: &str) -> NewRecord {
    NewRecord { batch: Some(batch), ..keyed(key, OnConflict::ReturnExisting) }
}

fn held_outside(member: &NewRecord, batch: BatchId, holder: JobId) -> Refusal {
    Refusal::KeyHeldOutside { job: member.id, batch, holder }
}

/// SUB-17, SUB-4, G9, G11: a holder for which the batch would not wait does not stand in a member's place:
/// the submission is refused as a whole, whether it opens the batch, fills it, or attaches to it.
pub async fn a_member_whose_key_is_held_outside_is_refused(env: Env) {
    let alone = env.add(keyed("alone", OnConflict::Reject)).await;
    let (other, _) = open(&env, Starts::AtOnce, 1).await;
    let elsewhere = env.add(member_with(other, "elsewhere")).await;
    let (failed, deleted) =
        (keyed("failed", OnConflict::Reject), keyed("gone", OnConflict::Reject));
    let day = |job: NewRecord| {
        let unique = job.unique.map(|it| Unique { until: Until::Period(seconds(86_400)), ..it });
        NewRecord { unique, ..job }
    };
    let mut server = env.claimer("s").await;
    let failed = env.add(NewRecord { priority: 9, ..day(failed) }).await;
    assert_eq!(server.run_one(FAIL).await, failed);
    let deleted = env.add(day(deleted)).await;
    env.delete(deleted).await;
    // The batch around it does not end with it, and so nobody waits for it there.
    let (around, _) = open(&env, Starts::AtOnce, 1).await;
    let outer = env.add(member_with(around, "outer")).await;
    for (key, holder) in [
        ("alone", alone),
        ("elsewhere", elsewhere),
        ("failed", failed),
        ("gone", deleted),
        ("outer", outer),
    ] {
        for starts in [Starts::AtOnce, Starts::WhenStarted] {
            let batch = BatchId::new();
            let neighbour = member(batch);
            let refused = member_with(batch, key);
            let expected = held_outside(&refused, batch, holder);
            let jobs = vec![neighbour.clone(), refused, after_batch(batch, On::Success)];
            let new = NewBatch { parent: Some(around), starts, ..NewBatch::new(batch, "inside") };
            let submission = Submission { batch: Some(new), jobs };
            assert_eq!(env.refused(submission).await, expected, "{key}");
            assert!(
                env.find_batch(batch).await.is_none() && env.find(neighbour.id).await.is_none()
            );

            let (batch, members) = open(&env, starts, 1).await;
            let refused = member_with(batch, key);
            let expected = held_outside(&refused, batch, holder);
            assert_eq!(env.refused(Submission::one(refused)).await, expected, "{key}");
            counts(&env, batch, &members).await;
        }
    }
    // One that the same submission brings along is a stranger to the batch, too.
    let batch = BatchId::new();
    let beside = keyed("beside", OnConflict::Reject);
    let refused = member_with(batch, "beside");
    let expected = held_outside(&refused, batch, beside.id);
    let submission = batch_of(batch, Starts::AtOnce, vec![beside, refused]);
    assert_eq!(env.refused(submission).await, expected);
    // Nothing of this concerns jobs without a batch.
    let flow = vec![keyed("alone", OnConflict::ReturnExisting)];
    assert_eq!(env.submit(Submission::flow(flow)).await, [JobSubmitted::Existing(alone)]);
}

/// SUB-17, SUB-8, G9: a holder that is a member of the batch, or of one inside that has not completed,
/// stands in the member's place, and the batch ends with it; so does one that has succeeded.
pub async fn a_holder_that_the_batch_waits_for_stands_in(env: Env) {
    let batch = BatchId::new();
    let (first, twin) = (member_with(batch, "a"), member_with(batch, "a"));
    let then = after_batch(batch, On::Success);
    let (id, then_id) = (first.id, then.id);
    let answers = env.submit(batch_of(batch, Starts::AtOnce, vec![first, twin, then])).await;
    assert_eq!(answers[1], JobSubmitted::Existing(id));
    let again = env.submit(Submission::one(member_with(batch, "a"))).await;
    assert_eq!(again, [JobSubmitted::Existing(id)]);

    let inside = BatchId::new();
    let inner = member_with(inside, "b");
    let inner_id = inner.id;
    let new = NewBatch { parent: Some(batch), ..NewBatch::new(inside, "inside") };
    // What it opens and what is outside of it, in one submission.
    let jobs = vec![inner, member_with(batch, "b")];
    let answers = env.submit(Submission { batch: Some(new), jobs }).await;
    assert_eq!(answers[1], JobSubmitted::Existing(inner_id));
    let again = env.submit(Submission::one(member_with(batch, "b"))).await;
    assert_eq!(again, [JobSubmitted::Existing(inner_id)]);

    let done = keyed("done", OnConflict::Reject);
    let unique = done.unique.clone().map(|it| Unique { until: Until::Period(seconds(3600)), ..it });
    let done = env.add(NewRecord { priority: 9, unique, ..done }).await;
    let mut server = env.claimer("s").await;
    assert_eq!(server.run_one(Ending::Succeeded).await, done);
    let answers = env.submit(Submission::one(member_with(batch, "done"))).await;
    assert_eq!(answers, [JobSubmitted::Existing(done)]);

    assert_eq!(env.batch(batch).await.counts.total, 2, "one member, and the batch inside");
    assert_eq!(env.state(then_id).await, StateName::Awaiting);
    server.run_one(Ending::Succeeded).await;
    assert_eq!(env.batch(batch).await.state(), BatchState::Started);
    // A batch that has completed is waited for no more, though members of it may come back.
    assert_eq!(server.run_one(FAIL).await, inner_id);
    env.requeue(inner_id).await;
    let (other, _) = open(&env, Starts::WhenStarted, 0).await;
    let again = member_with(other, "b");
    let expected = held_outside(&again, other, inner_id);
    assert_eq!(env.refused(Submission::one(again)).await, expected);
    assert_eq!(server.run_one(Ending::Succeeded).await, inner_id);
    env.advance(1);
    env.sweep().await;
    assert_eq!(env.batch(batch).await.state(), BatchState::Succeeded);
    assert_eq!(env.state(then_id).await, StateName::Enqueued);
}

/// SUB-17, BAT-7: a batch inside that has completed is waited for no more, so a member of it that came back
/// does not stand in for a member of the batch around it.
pub async fn a_holder_in_a_completed_batch_inside_does_not_stand_in(env: Env) {
    let (batch, _) = open(&env, Starts::AtOnce, 1).await;
    let inside = BatchId::new();
    let inner = NewRecord { priority: 9, ..member_with(inside, "key") };
    let id = inner.id;
    let new = NewBatch { parent: Some(batch), ..NewBatch::new(inside, "inside") };
    env.submit(Submission { batch: Some(new), jobs: vec![inner] }).await;
    let mut server = env.claimer("s").await;
    assert_eq!(server.run_one(FAIL).await, id);
    env.advance(1);
    env.sweep().await;
    assert!(env.batch(inside).await.completed_at.is_some());
    env.requeue(id).await;
    let refused = member_with(batch, "key");
    let expected = held_outside(&refused, batch, id);
    assert_eq!(env.refused(Submission::one(refused)).await, expected);
}
