//! What the ends of members make of their batch.

use jobkit_core::batch::{BatchState, Starts};
use jobkit_core::edge::{Edge, On, Parent};
use jobkit_core::record::NewRecord;
use jobkit_core::refusal::Refusal;
use jobkit_core::state::{Reason, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{Action, Submission, Submitted};
use jobkit_core::unique::OnConflict;
use jobkit_core::{BatchId, JobId};

use crate::fixtures::*;

use super::*;

/// BAT-3, G9: at every step the counts equal the members' states.
pub async fn the_counts_are_true_at_every_step(env: Env) {
    let (batch, members) = open(&env, Starts::AtOnce, 6).await;
    let mut server = env.claimer("s").await;
    for ending in [
        Ending::Succeeded,
        FAIL,
        Ending::Retry { delay: seconds(900) },
        Ending::Deleted(Reason::Cancelled),
        Ending::Snoozed { delay: seconds(900) },
    ] {
        server.run_one(ending).await;
        counts(&env, batch, &members).await;
    }
    env.delete(members[5]).await;
    counts(&env, batch, &members).await;
    // From one finished state to another.
    env.delete(members[1]).await;
    let now = counts(&env, batch, &members).await;
    assert_eq!((now.failed, now.deleted, now.open()), (0, 3, 2));
    env.requeue(members[0]).await;
    assert_eq!(counts(&env, batch, &members).await.open(), 3);
    for member in &members {
        env.change(*member, Action::Delete { keep: None }).await;
        counts(&env, batch, &members).await;
    }
    assert!(env.batch(batch).await.completed_at.is_some());
}

/// BAT-4, SET-8, G9: the settle of the last member completes the batch and decides its edges by how the
/// members ended.
pub async fn the_last_member_completes_the_batch_and_decides_its_edges(env: Env) {
    use StateName::{Awaiting, Deleted, Enqueued};
    let delete = Ending::Deleted(Reason::Deleted);
    let mut server = env.claimer("s").await;
    for (endings, expected) in [
        ([Ending::Succeeded, Ending::Succeeded], [Enqueued, Deleted, Enqueued]),
        ([Ending::Succeeded, FAIL], [Awaiting, Enqueued, Enqueued]),
        ([FAIL, delete], [Deleted, Enqueued, Enqueued]),
        ([delete, Ending::Succeeded], [Deleted, Deleted, Enqueued]),
    ] {
        let batch = BatchId::new();
        let mut jobs = members(batch, 2);
        let all = ids(&jobs);
        // Continuations in the submission that opens it, and beside it.
        jobs.push(after_batch(batch, On::Success));
        jobs.push(after_batch(batch, On::Failed));
        let mut children = ids(&jobs[2..]);
        env.submit(batch_of(batch, Starts::AtOnce, jobs)).await;
        children.push(env.add(after_batch(batch, On::Any)).await);
        assert_eq!(env.states(&children).await, [Awaiting; 3]);
        server.run_one(endings[0]).await;
        assert_eq!(env.states(&children).await, [Awaiting; 3]);
        assert_eq!(env.batch(batch).await.completed_at, None);
        server.run_one(endings[1]).await;
        // Within two seconds of the last: a backend may leave it to a sweep.
        env.advance(1);
        env.sweep().await;
        let record = env.batch(batch).await;
        assert!(record.completed_at.is_some());
        assert_eq!(record.succeeded_at.is_some(), endings == [Ending::Succeeded; 2]);
        assert_eq!(env.states(&children).await, expected, "{endings:?}");
        counts(&env, batch, &all).await;
        // Added after the end: decided at once.
        for (on, state) in [On::Success, On::Failed, On::Any].into_iter().zip(expected) {
            assert_eq!(env.state(env.add(after_batch(batch, on)).await).await, state, "{on:?}");
        }
        server.run_all(Ending::Succeeded).await;
    }
}

/// BAT-3, BAT-4, G9: members that finish at the same time complete their batch once, and every one is
/// counted.
pub async fn members_that_finish_at_once_complete_the_batch_once(env: Env) {
    let other = env.second().await;
    let mut server = env.claimer("s").await;
    for round in 0..25 {
        let (batch, members) = open(&env, Starts::AtOnce, 12).await;
        let then = env.add(after_batch(batch, On::Success)).await;
        let tasks = server.claim(12).await.into_iter().enumerate().map(|(i, job)| {
            let mut server = server.clone();
            server.env = if i % 2 == 0 { env.clone() } else { other.clone() };
            tokio::spawn(async move { server.settled(job.lease, Ending::Succeeded).await })
        });
        join(tasks.collect()).await;
        env.advance(1);
        env.sweep().await;
        assert_eq!(counts(&env, batch, &members).await.succeeded, 12, "in round {round}");
        assert_eq!(env.batch(batch).await.state(), BatchState::Succeeded);
        assert_eq!(env.details(then).await.history.applied(), 2, "released exactly once");
        assert_eq!(server.run_one(Ending::Succeeded).await, then);
    }
}

/// SUB-10, BAT-4, G9: a job that is attached while the last member finishes is either a member or
/// refused, and the counts are true.
pub async fn attaching_while_the_last_member_finishes_is_all_or_nothing(env: Env) {
    let other = env.second().await;
    let mut server = env.claimer("s").await;
    for _ in 0..100 {
        let (batch, mut members) = open(&env, Starts::AtOnce, 1).await;
        let lease = server.claim_one().await.lease;
        let late = member(batch);
        let (id, attaching) = (late.id, other.clone());
        let attach = tokio::spawn(async move {
            match attaching.submit_all(&[Submission::one(late)]).await.remove(0) {
                Submitted::Created(_) => true,
                Submitted::Refused(Refusal::BatchFinished { .. }) => false,
                outcome => panic!("{outcome:?}"),
            }
        });
        server.settled(lease, Ending::Succeeded).await;
        if attach.await.expect("attaches") {
            members.push(id);
            env.sweep().await;
            assert_eq!(env.batch(batch).await.completed_at, None);
            assert_eq!(server.run_one(Ending::Succeeded).await, id);
        }
        env.advance(1);
        env.sweep().await;
        counts(&env, batch, &members).await;
        assert_eq!(env.batch(batch).await.state(), BatchState::Succeeded);
    }
}

/// BAT-6, CHG-7, G9: a failed member that is requeued and succeeds makes the batch succeed, and its
/// on-success children are released; completion stays what it was.
pub async fn a_requeued_member_can_make_the_batch_succeed(env: Env) {
    let (batch, members) = open(&env, Starts::AtOnce, 2).await;
    let success = env.add(after_batch(batch, On::Success)).await;
    let failed = env.add(after_batch(batch, On::Failed)).await;
    let mut server = env.claimer("s").await;
    server.run_one(Ending::Succeeded).await;
    server.run_one(FAIL).await;
    env.sweep().await;
    let completed_at = env.batch(batch).await.completed_at;
    assert!(completed_at.is_some());
    assert_eq!(env.states(&[success, failed]).await, [StateName::Awaiting, StateName::Enqueued]);
    assert_eq!(server.run_one(Ending::Succeeded).await, failed);
    env.advance(60);
    env.requeue(members[1]).await;
    let now = counts(&env, batch, &members).await;
    assert_eq!((now.failed, now.open()), (0, 1));
    let record = env.batch(batch).await;
    assert_eq!((record.completed_at, record.succeeded_at), (completed_at, None));
    assert_eq!(env.state(success).await, StateName::Awaiting);
    let refusal = env.refused(Submission::one(member(batch))).await;
    assert_eq!(refusal, Refusal::BatchFinished { batch });
    server.run_one(Ending::Succeeded).await;
    env.sweep().await;
    let record = env.batch(batch).await;
    assert_eq!((record.completed_at, record.succeeded_at), (completed_at, Some(env.now())));
    assert_eq!(env.state(success).await, StateName::Enqueued);
    assert_eq!(env.state(failed).await, StateName::Succeeded, "it is not decided again");
}

/// BAT-4, CHG-5, G9: a failed member that is deleted after the end makes success unmeetable.
pub async fn a_deleted_member_makes_success_unmeetable(env: Env) {
    let (batch, members) = open(&env, Starts::AtOnce, 2).await;
    let success = env.add(after_batch(batch, On::Success)).await;
    let mut server = env.claimer("s").await;
    server.run_one(Ending::Succeeded).await;
    server.run_one(FAIL).await;
    env.sweep().await;
    assert_eq!(env.state(success).await, StateName::Awaiting);
    env.delete(members[1]).await;
    env.advance(1);
    env.sweep().await;
    let record = env.record(success).await;
    assert_eq!((record.state(), record.head.reason), (StateName::Deleted, Reason::Unmeetable));
}

/// BAT-9, BAT-4, G8: what one step decides it decides in the order in which parents end, and a batch ends
/// with its last member, before what that member decides; of one parent the edges on any end come first.
pub async fn parents_decide_in_the_order_of_their_ends(env: Env) {
    let mut children = Vec::new();
    for cancelled in [true, false] {
        let (batch, members) = open(&env, Starts::AtOnce, 1).await;
        let middle = env.add(after(members[0], On::Success)).await;
        let mut child = after(middle, On::Any);
        child.edges.push(Edge { parent: Parent::Batch(batch), on: On::Success });
        let child = env.add(child).await;
        let before = env.record(child).await.head.version;
        if cancelled {
            cancel(&env, batch).await;
        } else {
            env.delete(members[0]).await;
        }
        // A storage may leave the batch's end to a sweep: then these are two steps.
        let in_one_step = env.batch(batch).await.completed_at.is_some();
        env.advance(1);
        env.sweep().await;
        let record = env.record(child).await;
        assert_eq!((record.state(), record.head.reason), (StateName::Deleted, Reason::Unmeetable));
        assert_eq!(env.state(middle).await, StateName::Deleted);
        if in_one_step {
            assert_eq!(record.head.version, before + 1, "the batch gave it up at once");
        }
        assert_eq!(env.details(child).await.history.applied(), 2);
    }
    // One child with two edges from one parent, which stands in the place of both that it named.
    let replaced = keyed("key", OnConflict::ReturnExisting);
    let parent = env.add(replaced.clone()).await;
    for (first, second) in [(On::Failed, On::Any), (On::Any, On::Failed), (On::Any, On::Success)] {
        let twins = [(); 2].map(|()| NewRecord { id: JobId::new(), ..replaced.clone() });
        let mut child = after(twins[0].id, first);
        child.edges.push(Edge { parent: Parent::Job(twins[1].id), on: second });
        let id = child.id;
        env.submit(Submission::flow(twins.into_iter().chain([child]).collect())).await;
        children.push((id, env.record(id).await.head.version));
    }
    env.delete(parent).await;
    for (child, before) in children {
        let record = env.record(child).await;
        assert_eq!((record.state(), record.head.version), (StateName::Deleted, before + 2));
    }
}
