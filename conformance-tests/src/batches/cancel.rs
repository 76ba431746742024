//! What is given up as a whole.

use jobkit_core::BatchId;
use jobkit_core::batch::{BatchState, Starts};
use jobkit_core::edge::On;
use jobkit_core::record::NewRecord;
use jobkit_core::refusal::Refusal;
use jobkit_core::state::{Reason, Start, State, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{Action, BatchOutcome, ChangeOutcome, Submission};

use crate::fixtures::*;

use super::*;

/// BAT-5, CHG-7, G9: cancelling deletes what waits and asks what runs to stop; afterwards attach, retry
/// and requeue are refused.
pub async fn a_cancelled_batch_gives_up_its_members(env: Env) {
    let batch = BatchId::new();
    let mut jobs = members(batch, 5);
    jobs[4].start = Start::After(seconds(60));
    let all = ids(&jobs);
    env.submit(batch_of(batch, Starts::AtOnce, jobs)).await;
    let then = env.add(after_batch(batch, On::Success)).await;
    let always = env.add(after_batch(batch, On::Any)).await;
    let mut server = env.claimer("s").await;
    let claimed = server.claim(3).await;
    server.settled(claimed[0].lease, Ending::Succeeded).await;
    assert_eq!(cancel(&env, batch).await, BatchOutcome::Changed);
    assert_eq!(cancel(&env, batch).await, BatchOutcome::AlreadyApplied);
    env.sweep().await;
    use StateName::{Deleted, Processing, Succeeded};
    assert_eq!(env.states(&all).await, [Succeeded, Processing, Processing, Deleted, Deleted]);
    assert_eq!(env.record(all[3]).await.head.reason, Reason::BatchCancelled);
    let State::Processing(hold) = env.record(all[1]).await.head.state else { panic!("runs") };
    assert_eq!(hold.cancel, Some(Reason::BatchCancelled));
    let refusal = env.refused(Submission::one(member(batch))).await;
    assert_eq!(refusal, Refusal::BatchCancelled { batch });
    assert_eq!(server.settled(claimed[1].lease, RETRY_NOW).await, Deleted);
    assert_eq!(env.batch(batch).await.completed_at, None);
    assert_eq!(server.settled(claimed[2].lease, Ending::Succeeded).await, Succeeded);
    env.advance(1);
    env.sweep().await;
    let record = env.batch(batch).await;
    assert_eq!(record.state(), BatchState::Cancelled);
    assert!(record.completed_at.is_some() && record.succeeded_at.is_none());
    counts(&env, batch, &all).await;
    assert_eq!(env.states(&[then, always]).await, [Deleted, StateName::Enqueued]);
    for id in [all[0], all[3]] {
        let outcome = env.change(id, Action::Requeue { run_at: None }).await;
        assert_eq!(outcome, ChangeOutcome::Refused(Refusal::BatchCancelled { batch }));
    }
    let (completed, _) = open(&env, Starts::AtOnce, 0).await;
    let finished = BatchOutcome::Refused(Refusal::BatchFinished { batch: completed });
    assert_eq!(cancel(&env, completed).await, finished);
}

/// BAT-5, G9: a batch that was never started can be cancelled, and completes.
pub async fn a_batch_that_was_not_started_can_be_cancelled(env: Env) {
    let (batch, members) = open(&env, Starts::WhenStarted, 3).await;
    let then = env.add(after_batch(batch, On::Any)).await;
    cancel(&env, batch).await;
    env.advance(1);
    env.sweep().await;
    assert_eq!(env.states(&members).await, [StateName::Deleted; 3]);
    assert!(env.batch(batch).await.completed_at.is_some());
    assert_eq!(env.state(then).await, StateName::Enqueued);
    let refused = BatchOutcome::Refused(Refusal::BatchCancelled { batch });
    assert_eq!(start(&env, batch).await, refused);
}

/// BAT-5, SWP-1, G7: the members of a large cancelled batch are given up in bounded steps, each once.
pub async fn cancelling_a_large_batch_is_completed_by_sweeps(env: Env) {
    let batch = BatchId::new();
    let jobs = members(batch, 1_200);
    let all = ids(&jobs);
    let mut parts = jobs.chunks(800).map(<[NewRecord]>::to_vec);
    env.submit(batch_of(batch, Starts::AtOnce, parts.next().expect("has one"))).await;
    for part in parts {
        env.flow(part).await;
    }
    cancel(&env, batch).await;
    for _ in 0..100 {
        if !env.sweep_once(90).await.more {
            break;
        }
    }
    env.sweep().await;
    assert_eq!(counts(&env, batch, &all).await.deleted, 1_200);
    assert!(env.batch(batch).await.completed_at.is_some());
    assert!(env.claimer("s").await.claim(10).await.is_empty());
    for id in all.iter().step_by(97) {
        assert_eq!(env.details(*id).await.history.applied(), 2);
    }
}

/// BAT-5, BAT-1, SWP-1: cancelling a batch whose start is left to sweeps releases nobody any more.
pub async fn a_cancel_overtakes_a_start_that_is_not_done(env: Env) {
    let batch = BatchId::new();
    let jobs = members(batch, 1_600);
    let all = ids(&jobs);
    let mut parts = jobs.chunks(800).map(<[NewRecord]>::to_vec);
    env.submit(batch_of(batch, Starts::WhenStarted, parts.next().expect("has one"))).await;
    for part in parts {
        env.flow(part).await;
    }
    assert_eq!(start(&env, batch).await, BatchOutcome::Changed);
    assert_eq!(cancel(&env, batch).await, BatchOutcome::Changed);
    let mut server = env.claimer("s").await;
    assert!(server.claim(10).await.is_empty(), "those that were released are deleted");
    for _ in 0..100 {
        let more = env.sweep_once(90).await.more;
        assert!(server.claim(10).await.is_empty(), "a sweep released members");
        if !more {
            break;
        }
    }
    env.sweep().await;
    assert_eq!(counts(&env, batch, &all).await.deleted, 1_600);
    assert!(env.batch(batch).await.completed_at.is_some());
}

/// SWP-3, G9: a batch that was not started within an hour of its last attach is discarded, with its
/// members; an attach begins the hour anew.
pub async fn a_half_filled_batch_is_discarded_after_an_hour(env: Env) {
    let (batch, mut members) = open(&env, Starts::WhenStarted, 2).await;
    let (started, others) = open(&env, Starts::AtOnce, 1).await;
    let then = env.add(after_batch(batch, On::Success)).await;
    env.advance(3000);
    members.push(env.add(member(batch)).await);
    env.advance(3000);
    env.sweep().await;
    assert_eq!(env.batch(batch).await.state(), BatchState::Open);
    env.advance(601);
    env.sweep().await;
    env.advance(1);
    env.sweep().await;
    assert_eq!(env.states(&members).await, [StateName::Deleted; 3]);
    assert_eq!(env.record(members[0]).await.head.reason, Reason::BatchDiscarded);
    let record = env.batch(batch).await;
    assert!(record.completed_at.is_some());
    assert_eq!(record.state(), BatchState::Cancelled);
    assert_eq!(env.state(then).await, StateName::Deleted);
    assert_eq!(env.states(&others).await, [StateName::Enqueued]);
    assert_eq!(env.batch(started).await.state(), BatchState::Started);
}
