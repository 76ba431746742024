//! What is opened, filled and started.

use jobkit_core::BatchId;
use jobkit_core::batch::{BatchState, NewBatch, Starts};
use jobkit_core::bounds;
use jobkit_core::edge::On;
use jobkit_core::record::NewRecord;
use jobkit_core::refusal::Refusal;
use jobkit_core::state::{Reason, Start, State, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{Action, BatchOutcome, JobSubmitted, Settle, SettleAnswer, Submission};

use crate::fixtures::*;

use super::*;

/// SUB-9, G9: a batch that starts at once is opened with its first members, which may run.
pub async fn a_batch_that_starts_at_once_runs(env: Env) {
    let (batch, members) = open(&env, Starts::AtOnce, 3).await;
    let record = env.batch(batch).await;
    assert_eq!((record.id, &*record.name, record.parent), (batch, "a batch", None));
    assert_eq!((record.created_at, record.started_at), (env.now(), Some(env.now())));
    assert_eq!((record.completed_at, record.succeeded_at, record.cancelled_at), (None, None, None));
    assert_eq!(record.state(), BatchState::Started);
    assert_eq!(counts(&env, batch, &members).await.open(), 3);
    assert_eq!(env.record(members[0]).await.batch, Some(batch));
    let claimed = env.claimer("s").await.claim(10).await;
    assert_eq!(claimed.iter().map(|job| job.lease.job).collect::<Vec<_>>(), members);
    assert_eq!(claimed[0].batch, Some(batch));
}

/// SUB-9, BAT-1: members of a batch that is being filled wait for its start, whatever else they wait
/// for; starting it twice is as once.
pub async fn members_wait_until_the_batch_is_started(env: Env) {
    let batch = BatchId::new();
    let plain = member(batch);
    let later = NewRecord { start: Start::After(seconds(60)), ..member(batch) };
    let child = NewRecord { batch: Some(batch), ..after(plain.id, On::Success) };
    let jobs = vec![plain, later, child];
    let members = ids(&jobs);
    env.submit(batch_of(batch, Starts::WhenStarted, jobs)).await;
    for (id, open, reason) in [
        (members[0], 1, Reason::BatchFilling),
        (members[1], 1, Reason::BatchFilling),
        (members[2], 2, Reason::Parents),
    ] {
        let head = env.record(id).await.head;
        assert_eq!((head.state, head.reason), (State::Awaiting { open }, reason));
    }
    assert_eq!(env.batch(batch).await.state(), BatchState::Open);
    let mut server = env.claimer("s").await;
    assert!(server.claim(10).await.is_empty());
    env.advance(10);
    assert_eq!(start(&env, batch).await, BatchOutcome::Changed);
    assert_eq!(start(&env, batch).await, BatchOutcome::AlreadyApplied);
    use StateName::{Awaiting, Enqueued, Scheduled};
    assert_eq!(env.states(&members).await, [Enqueued, Scheduled, Awaiting]);
    assert_eq!(env.record(members[1]).await.run_at(), Some(env.after(60)));
    let record = env.batch(batch).await;
    assert_eq!((record.state(), record.started_at), (BatchState::Started, Some(env.now())));
    assert_eq!(server.run_one(Ending::Succeeded).await, members[0]);
    assert_eq!(server.run_one(Ending::Succeeded).await, members[2]);
    let missing = BatchId::new();
    let gone = BatchOutcome::Refused(Refusal::BatchGone { batch: missing });
    assert_eq!(start(&env, missing).await, gone);
}

/// SUB-10, G9: a job that names an open or a started batch is attached to it and counted.
pub async fn jobs_are_attached_to_open_and_started_batches(env: Env) {
    let (batch, mut members) = open(&env, Starts::WhenStarted, 1).await;
    env.advance(5);
    members.push(env.add(member(batch)).await);
    assert_eq!(env.batch(batch).await.attached_at, env.now());
    assert_eq!(env.state(members[1]).await, StateName::Awaiting);
    start(&env, batch).await;
    members.push(env.add(member(batch)).await);
    assert_eq!(env.state(members[2]).await, StateName::Enqueued);
    assert_eq!(counts(&env, batch, &members).await.total, 3);
    let mut server = env.claimer("s").await;
    server.run_one(Ending::Succeeded).await;
    server.run_one(Ending::Succeeded).await;
    assert_eq!(env.batch(batch).await.completed_at, None);
    server.run_one(Ending::Succeeded).await;
    assert_eq!(env.batch(batch).await.state(), BatchState::Succeeded);
}

/// SUB-10: a completed batch, a cancelled one and a missing one take no more jobs, and nothing is
/// stored.
pub async fn nothing_is_attached_to_a_batch_that_is_over(env: Env) {
    let (completed, _) = open(&env, Starts::AtOnce, 1).await;
    env.claimer("s").await.run_one(Ending::Succeeded).await;
    let (cancelled, _) = open(&env, Starts::WhenStarted, 1).await;
    cancel(&env, cancelled).await;
    let missing = BatchId::new();
    for (batch, expected) in [
        (completed, Refusal::BatchFinished { batch: completed }),
        (cancelled, Refusal::BatchCancelled { batch: cancelled }),
        (missing, Refusal::BatchGone { batch: missing }),
    ] {
        let (late, neighbour) = (member(batch), job());
        let refusal = env.refused(Submission::flow(vec![neighbour.clone(), late.clone()])).await;
        assert_eq!(refusal, expected);
        assert!(env.find(late.id).await.is_none());
        assert!(env.find(neighbour.id).await.is_none());
    }
}

/// SUB-9, SUB-2, G2: a repeated submission that opens a batch changes nothing.
pub async fn a_batch_submitted_again_is_the_same_batch(env: Env) {
    let batch = BatchId::new();
    let jobs = members(batch, 3);
    let submission = batch_of(batch, Starts::AtOnce, jobs);
    env.submit(submission.clone()).await;
    let mut server = env.claimer("s").await;
    server.run_one(Ending::Succeeded).await;
    let before = env.batch(batch).await;
    env.advance(10);
    let answers = env.submit(submission.clone()).await;
    use StateName::{Enqueued, Succeeded};
    assert_eq!(answers, [Succeeded, Enqueued, Enqueued].map(JobSubmitted::Already));
    assert_eq!(env.batch(batch).await, before);
    server.run_all(Ending::Succeeded).await;
    let answers = env.submit(submission).await;
    assert_eq!(answers, [Succeeded; 3].map(JobSubmitted::Already));
    assert_eq!(env.batch(batch).await.counts.total, 3);
}

/// SUB-13, G20: a batch needs a name that fits.
pub async fn a_batch_out_of_range_is_refused(env: Env) {
    for name in ["", "a\0b", " a", &"n".repeat(201)] {
        let batch = NewBatch::new(BatchId::new(), name);
        let id = batch.id;
        let submission = Submission { batch: Some(batch), jobs: vec![member(id)] };
        let refusal = env.refused(submission).await;
        assert!(matches!(refusal, Refusal::Invalid { field: "batch", .. }), "{refusal:?}");
        assert!(env.find_batch(id).await.is_none());
    }
}

/// BAT-1, G7: a start releases every member, those beyond a bounded step by sweeps.
pub async fn starting_a_large_batch_releases_every_member(env: Env) {
    let batch = BatchId::new();
    let jobs = members(batch, 1_200);
    let all = ids(&jobs);
    let mut parts = jobs.chunks(700).map(<[NewRecord]>::to_vec);
    let first = parts.next().expect("has one");
    env.submit(batch_of(batch, Starts::WhenStarted, first)).await;
    for part in parts {
        env.flow(part).await;
    }
    assert_eq!(counts(&env, batch, &all).await.open(), 1_200);
    start(&env, batch).await;
    let mut steps = 0;
    while env.sweep_once(100).await.more {
        steps += 1;
        assert!(steps < 100, "sweeps never end");
    }
    assert!(env.states(&all).await.iter().all(|state| *state == StateName::Enqueued));
    let mut server = env.claimer("s").await;
    assert_eq!(server.run_all(Ending::Succeeded).await, 1_200);
    env.sweep().await;
    assert_eq!(counts(&env, batch, &all).await.succeeded, 1_200);
    assert_eq!(env.batch(batch).await.state(), BatchState::Succeeded);
    for id in all.iter().step_by(97) {
        assert_eq!(env.details(*id).await.history.applied(), 4, "released exactly once");
    }
}

/// BAT-2, G9: an empty batch completes and succeeds when it is started.
pub async fn an_empty_batch_succeeds_when_it_is_started(env: Env) {
    let (at_once, _) = open(&env, Starts::AtOnce, 0).await;
    assert_eq!(env.batch(at_once).await.state(), BatchState::Succeeded);
    let (filled, _) = open(&env, Starts::WhenStarted, 0).await;
    assert_eq!(env.batch(filled).await.state(), BatchState::Open);
    let success = env.add(after_batch(filled, On::Success)).await;
    let failed = env.add(after_batch(filled, On::Failed)).await;
    start(&env, filled).await;
    let record = env.batch(filled).await;
    assert_eq!((record.completed_at, record.succeeded_at), (Some(env.now()), Some(env.now())));
    assert_eq!(env.states(&[success, failed]).await, [StateName::Enqueued, StateName::Deleted]);
    // In the submission that opens it, too.
    let batch = BatchId::new();
    let then = after_batch(batch, On::Success);
    let id = then.id;
    env.submit(batch_of(batch, Starts::AtOnce, vec![then])).await;
    assert_eq!(env.state(id).await, StateName::Enqueued);
}

/// CHG-8, BAT-1: a member that is run now does not wait for the start, and the start does not release
/// it again.
pub async fn a_member_that_is_run_now_does_not_wait_for_the_start(env: Env) {
    let (batch, members) = open(&env, Starts::WhenStarted, 2).await;
    env.changed(members[0], Action::RunNow).await;
    let mut server = env.claimer("s").await;
    assert_eq!(server.run_one(Ending::Succeeded).await, members[0]);
    assert!(server.claim(10).await.is_empty());
    assert_eq!(env.batch(batch).await.completed_at, None);
    start(&env, batch).await;
    assert_eq!(server.run_one(Ending::Succeeded).await, members[1]);
    env.sweep().await;
    assert_eq!(env.batch(batch).await.state(), BatchState::Succeeded);
    assert_eq!(env.details(members[0]).await.history.applied(), 4);
}

/// SUB-9, G3: a submission of 1,000 members is one step: all are counted, or none.
pub async fn a_batch_of_a_thousand_members_is_one_step(env: Env) {
    let batch = BatchId::new();
    let mut jobs = members(batch, bounds::SUBMISSION_JOBS);
    jobs[999].priority = 10;
    env.refused(batch_of(batch, Starts::AtOnce, jobs.clone())).await;
    assert!(env.find_batch(batch).await.is_none());
    jobs[999].priority = 0;
    let all = ids(&jobs);
    env.submit(batch_of(batch, Starts::AtOnce, jobs)).await;
    let mut server = env.claimer("s").await;
    let claimed = server.claim(500).await;
    let settles: Vec<Settle> =
        claimed.iter().map(|job| Settle::new(job.lease, Ending::Succeeded)).collect();
    let answers = server.settle_all(settles).await;
    assert!(answers.iter().all(|it| *it == SettleAnswer::Settled(StateName::Succeeded)));
    let now = counts(&env, batch, &all).await;
    assert_eq!((now.total, now.succeeded), (1_000, 500));
}
