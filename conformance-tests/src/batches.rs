//! Batches: many jobs with one end.

use jobkit_core::batch::{BatchState, NewBatch, Starts};
use jobkit_core::bounds;
use jobkit_core::edge::{BatchCounts, On};
use jobkit_core::record::NewRecord;
use jobkit_core::refusal::Refusal;
use jobkit_core::state::{Reason, Start, State, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{
    Action, BatchOutcome, ChangeOutcome, JobSubmitted, Settle, SettleAnswer, Submission, Submitted,
};
use jobkit_core::{BatchId, JobId};

use crate::fixtures::*;

const FAIL: Ending = Ending::Failed(Reason::OutOfAttempts);

fn members(batch: BatchId, count: usize) -> Vec<NewRecord> {
    (0..count).map(|_| member(batch)).collect()
}

fn ids(jobs: &[NewRecord]) -> Vec<JobId> {
    jobs.iter().map(|job| job.id).collect()
}

/// A batch with so many members.
async fn open(env: &Env, starts: Starts, count: usize) -> (BatchId, Vec<JobId>) {
    let batch = BatchId::new();
    let jobs = members(batch, count);
    let ids = ids(&jobs);
    env.submit(batch_of(batch, starts, jobs)).await;
    (batch, ids)
}

async fn start(env: &Env, batch: BatchId) -> BatchOutcome {
    env.storage.start_batch(batch, env.at()).await.expect("starts")
}

async fn cancel(env: &Env, batch: BatchId) -> BatchOutcome {
    env.storage.cancel_batch(batch, env.at()).await.expect("cancels")
}

/// The counts, after comparing them with the members' states.
async fn counts(env: &Env, batch: BatchId, members: &[JobId]) -> BatchCounts {
    let counts = env.batch(batch).await.counts;
    let states = env.states(members).await;
    let of = |state| states.iter().filter(|it| **it == state).count() as u64;
    let expected = BatchCounts {
        total: members.len() as u64,
        succeeded: of(StateName::Succeeded),
        failed: of(StateName::Failed),
        deleted: of(StateName::Deleted),
        lost: false,
    };
    assert_eq!(counts, expected, "the counts equal the members' states");
    counts
}

/// SUB-9, G9: a batch that starts at once is opened with its first members, which may run.
pub async fn a_batch_that_starts_at_once_runs(env: Env) {
    let (batch, members) = open(&env, Starts::AtOnce, 3).await;
    let record = env.batch(batch).await;
    assert_eq!((record.id, &*record.name, record.parent), (batch, "a batch", None));
    assert_eq!((record.created_at, record.started_at), (env.now(), env.at()));
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
    assert_eq!((record.state(), record.started_at), (BatchState::Started, env.at()));
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

/// SUB-13, G20: a batch needs a name that fits, and a nested one is refused as unsupported.
pub async fn a_batch_out_of_range_is_refused(env: Env) {
    for name in ["", "a\0b", &"n".repeat(201)] {
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
    assert_eq!((record.completed_at, record.succeeded_at), (env.at(), env.at()));
    assert_eq!(env.states(&[success, failed]).await, [StateName::Enqueued, StateName::Deleted]);
    // In the submission that opens it, too.
    let batch = BatchId::new();
    let then = after_batch(batch, On::Success);
    let id = then.id;
    env.submit(batch_of(batch, Starts::AtOnce, vec![then])).await;
    assert_eq!(env.state(id).await, StateName::Enqueued);
}

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
    assert_eq!((record.completed_at, record.succeeded_at), (completed_at, env.at()));
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

/// BAT-3: batches are listed newest first, by state, in pages.
pub async fn batches_are_listed_newest_first(env: Env) {
    // The order of their ids, which those made in one millisecond have by chance.
    let mut all: Vec<BatchId> = (0..5).map(|_| BatchId::new()).collect();
    all.sort_unstable();
    for (i, id) in all.iter().enumerate() {
        let starts = if i % 2 == 0 { Starts::AtOnce } else { Starts::WhenStarted };
        env.submit(batch_of(*id, starts, members(*id, 1))).await;
    }
    all.reverse();
    let list = async |state, before, limit| {
        let batches = env.storage.batches(state, before, limit).await.expect("lists");
        batches.into_iter().map(|batch| batch.id).collect::<Vec<_>>()
    };
    assert_eq!(list(None, None, 2).await, all[..2]);
    assert_eq!(list(None, Some(all[1]), 10).await, all[2..]);
    assert_eq!(list(Some(BatchState::Open), None, 10).await, [all[1], all[3]]);
    assert_eq!(list(Some(BatchState::Started), Some(all[0]), 10).await, [all[2], all[4]]);
    assert!(list(Some(BatchState::Cancelled), None, 10).await.is_empty());
    assert!(env.find_batch(BatchId::new()).await.is_none());
}

/// BAT-3: a page of batches in one state is full however far apart they stand, and holds no more than was
/// asked for.
pub async fn batches_that_stand_far_apart_fill_a_page(env: Env) {
    let mut all: Vec<BatchId> = (0..220).map(|_| BatchId::new()).collect();
    all.sort_unstable();
    let mut started = Vec::new();
    for (i, id) in all.iter().enumerate() {
        let starts = if i % 10 == 0 { Starts::AtOnce } else { Starts::WhenStarted };
        if starts == Starts::AtOnce {
            started.push(*id);
        }
        env.submit(batch_of(*id, starts, members(*id, 1))).await;
    }
    started.reverse();
    let page = async |before| {
        let state = Some(BatchState::Started);
        let batches = env.storage.batches(state, before, 15).await.expect("lists");
        batches.into_iter().map(|batch| batch.id).collect::<Vec<_>>()
    };
    assert_eq!(page(None).await, started[..15]);
    assert_eq!(page(Some(started[14])).await, started[15..]);
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
