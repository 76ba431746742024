//! Batches inside batches.

use jobkit_core::batch::{BatchState, NewBatch, Starts};
use jobkit_core::bounds;
use jobkit_core::edge::{BatchCounts, On};
use jobkit_core::record::NewRecord;
use jobkit_core::refusal::Refusal;
use jobkit_core::state::{Keep, Reason, Retention, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{Action, BatchOutcome, ChangeOutcome, Settle, Submission};
use jobkit_core::{BatchId, JobId};

use crate::fixtures::*;

const FAIL: Ending = Ending::Failed(Reason::OutOfAttempts);

/// A submission that opens a batch inside another, with this many members.
fn nested(parent: Option<BatchId>, starts: Starts, count: usize) -> (BatchId, Submission) {
    let id = BatchId::new();
    let jobs: Vec<NewRecord> = (0..count).map(|_| member(id)).collect();
    let batch = NewBatch { parent, starts, ..NewBatch::new(id, "a nested batch") };
    (id, Submission { batch: Some(batch), jobs })
}

async fn open(
    env: &Env,
    parent: Option<BatchId>,
    starts: Starts,
    count: usize,
) -> (BatchId, Vec<JobId>) {
    let (id, submission) = nested(parent, starts, count);
    let ids = submission.jobs.iter().map(|job| job.id).collect();
    env.submit(submission).await;
    (id, ids)
}

async fn start(env: &Env, batch: BatchId) -> BatchOutcome {
    env.storage.start_batch(&env.call(), batch).await.expect("starts")
}

async fn cancel(env: &Env, batch: BatchId) -> BatchOutcome {
    env.storage.cancel_batch(&env.call(), batch).await.expect("cancels")
}

/// Total, succeeded, failed, deleted.
async fn counts(env: &Env, batch: BatchId) -> [u64; 4] {
    let BatchCounts { total, succeeded, failed, deleted, .. } = env.batch(batch).await.counts;
    [total, succeeded, failed, deleted]
}

/// Settles the jobs named, which are claimed, as told.
async fn end(env: &Env, jobs: &[JobId], ending: Ending) {
    let mut server = env.claimer("s").await;
    for job in server.claim(500).await {
        let ending = if jobs.contains(&job.lease.job) { ending } else { Ending::GivenBack };
        server.settle_with(Settle::new(job.lease, ending)).await;
    }
}

/// SUB-14, BAT-7, G9: a nested batch is one member, counted when it is opened, and when it has
/// completed in the step of its last member, at every depth.
pub async fn a_nested_batch_is_one_member(env: Env) {
    let (outer, jobs) = open(&env, None, Starts::AtOnce, 1).await;
    let (middle, _) = open(&env, Some(outer), Starts::AtOnce, 0).await;
    // Empty, it would have succeeded at once.
    assert_eq!(counts(&env, outer).await, [2, 1, 0, 0]);
    let (middle2, more) = open(&env, Some(outer), Starts::AtOnce, 1).await;
    let (inner, last) = open(&env, Some(middle2), Starts::AtOnce, 2).await;
    let then = env.add(after_batch(outer, On::Success)).await;
    assert_eq!(env.batch(inner).await.parent, Some(middle2));
    assert_eq!(env.batch(middle).await.state(), BatchState::Succeeded);
    assert_eq!(counts(&env, outer).await, [3, 1, 0, 0]);
    assert_eq!(counts(&env, middle2).await, [2, 0, 0, 0]);
    end(&env, &jobs, Ending::Succeeded).await;
    end(&env, &more, Ending::Succeeded).await;
    end(&env, &last[..1], Ending::Succeeded).await;
    assert_eq!(counts(&env, inner).await, [2, 1, 0, 0]);
    assert_eq!(counts(&env, middle2).await, [2, 1, 0, 0]);
    assert_eq!(counts(&env, outer).await, [3, 2, 0, 0]);
    assert_eq!(env.state(then).await, StateName::Awaiting);
    env.advance(1);
    end(&env, &last[1..], Ending::Succeeded).await;
    for batch in [inner, middle2, outer] {
        let record = env.batch(batch).await;
        assert_eq!((record.completed_at, record.succeeded_at), (Some(env.now()), Some(env.now())));
    }
    assert_eq!(counts(&env, outer).await, [3, 3, 0, 0]);
    assert_eq!(env.state(then).await, StateName::Enqueued);
}

/// BAT-7, BAT-6: a failure inside is a failed member, and no success until it is fixed.
pub async fn a_failure_inside_is_a_failed_member_until_it_is_fixed(env: Env) {
    let (outer, _) = open(&env, None, Starts::AtOnce, 0).await;
    assert_eq!(env.batch(outer).await.state(), BatchState::Succeeded, "empty batches succeed");
    let (outer, jobs) = open(&env, None, Starts::AtOnce, 1).await;
    let (inner, members) = open(&env, Some(outer), Starts::AtOnce, 2).await;
    let success = env.add(after_batch(outer, On::Success)).await;
    let failed = env.add(after_batch(outer, On::Failed)).await;
    end(&env, &[jobs[0], members[0]], Ending::Succeeded).await;
    end(&env, &members[1..], FAIL).await;
    env.sweep().await;
    assert_eq!(counts(&env, outer).await, [2, 1, 1, 0]);
    assert_eq!(env.states(&[success, failed]).await, [StateName::Awaiting, StateName::Enqueued]);
    env.advance(5);
    env.requeue(members[1]).await;
    assert_eq!(counts(&env, inner).await, [2, 1, 0, 0]);
    assert_eq!(counts(&env, outer).await, [2, 1, 1, 0], "it has completed without success");
    end(&env, &members[1..], Ending::Succeeded).await;
    env.sweep().await;
    assert_eq!(counts(&env, outer).await, [2, 2, 0, 0]);
    assert_eq!(env.batch(outer).await.succeeded_at, Some(env.now()));
    assert_eq!(env.state(success).await, StateName::Enqueued);
}

/// BAT-7: a nested batch that was given up is a Deleted member, and makes success unmeetable.
pub async fn a_nested_batch_that_is_cancelled_is_a_deleted_member(env: Env) {
    let (outer, jobs) = open(&env, None, Starts::AtOnce, 1).await;
    let (inner, members) = open(&env, Some(outer), Starts::AtOnce, 2).await;
    let then = env.add(after_batch(outer, On::Success)).await;
    assert_eq!(cancel(&env, inner).await, BatchOutcome::Changed);
    env.sweep().await;
    assert_eq!(env.states(&members).await, [StateName::Deleted; 2]);
    assert_eq!(counts(&env, outer).await, [2, 0, 0, 1]);
    assert_eq!(env.batch(outer).await.state(), BatchState::Started, "the one around goes on");
    end(&env, &jobs, Ending::Succeeded).await;
    env.sweep().await;
    assert_eq!(env.batch(outer).await.state(), BatchState::Completed);
    assert_eq!(env.state(then).await, StateName::Deleted);
}

/// BAT-8: what is inside runs when both it and the batch around it were started.
pub async fn a_nested_batch_starts_with_the_one_around_it(env: Env) {
    let (outer, _) = open(&env, None, Starts::WhenStarted, 1).await;
    let (filled, first) = open(&env, Some(outer), Starts::AtOnce, 2).await;
    let (inside, second) = open(&env, Some(filled), Starts::AtOnce, 1).await;
    let (empty, _) = open(&env, Some(outer), Starts::AtOnce, 0).await;
    let (filling, third) = open(&env, Some(outer), Starts::WhenStarted, 1).await;
    let (told, fourth) = open(&env, Some(outer), Starts::WhenStarted, 1).await;
    assert_eq!(start(&env, told).await, BatchOutcome::Changed);
    assert_eq!(start(&env, told).await, BatchOutcome::AlreadyApplied);
    assert_eq!(start(&env, filled).await, BatchOutcome::AlreadyApplied);
    for batch in [filled, inside, filling, told, empty] {
        assert_eq!(env.batch(batch).await.state(), BatchState::Open);
    }
    let late = env.add(member(filled)).await;
    assert_eq!(env.state(late).await, StateName::Awaiting);
    assert!(env.claimer("s").await.claim(50).await.is_empty());
    env.advance(3);
    assert_eq!(start(&env, outer).await, BatchOutcome::Changed);
    env.sweep().await;
    let running = [first[0], first[1], second[0], fourth[0], late];
    assert_eq!(env.states(&running).await, [StateName::Enqueued; 5]);
    assert_eq!(env.state(third[0]).await, StateName::Awaiting, "it is being filled");
    assert_eq!(env.batch(inside).await.started_at, Some(env.now()));
    assert_eq!(env.batch(empty).await.state(), BatchState::Succeeded);
    assert_eq!(start(&env, filling).await, BatchOutcome::Changed);
    assert_eq!(env.state(third[0]).await, StateName::Enqueued);
    let mut server = env.claimer("s").await;
    assert_eq!(server.run_all(Ending::Succeeded).await, 7);
    env.sweep().await;
    assert_eq!(env.batch(outer).await.state(), BatchState::Succeeded);
    assert_eq!(counts(&env, outer).await, [5, 5, 0, 0]);
}

/// BAT-8, BAT-5, SWP-1: cancelling and starting reach every nested batch, in bounded steps.
pub async fn many_nested_batches_are_started_and_cancelled_by_sweeps(env: Env) {
    for cancels in [false, true] {
        let (outer, _) = open(&env, None, Starts::WhenStarted, 0).await;
        let mut submissions = Vec::new();
        let mut all = Vec::new();
        for _ in 0..700 {
            let (id, submission) = nested(Some(outer), Starts::AtOnce, 1);
            all.push((id, submission.jobs[0].id));
            submissions.push(submission);
        }
        for part in submissions.chunks(300) {
            env.submit_all(part).await;
        }
        let expected = if cancels {
            assert_eq!(cancel(&env, outer).await, BatchOutcome::Changed);
            StateName::Deleted
        } else {
            assert_eq!(start(&env, outer).await, BatchOutcome::Changed);
            StateName::Enqueued
        };
        for _ in 0..200 {
            if !env.sweep_once(90).await.more {
                break;
            }
        }
        env.sweep().await;
        let jobs: Vec<_> = all.iter().map(|(_, job)| *job).collect();
        let states = env.states(&jobs).await;
        assert!(states.iter().all(|state| *state == expected), "{states:?}");
        let of_outer = counts(&env, outer).await;
        if cancels {
            assert_eq!(of_outer, [700, 0, 0, 700]);
            assert!(env.batch(outer).await.completed_at.is_some());
            let error = env.refused(Submission::one(member(all[3].0))).await;
            assert_eq!(error, Refusal::BatchCancelled { batch: all[3].0 });
            let outcome = env.change(jobs[3], Action::Requeue { run_at: None }).await;
            assert!(matches!(outcome, ChangeOutcome::Refused(Refusal::BatchCancelled { .. })));
        } else {
            assert_eq!(of_outer, [700, 0, 0, 0]);
            assert_eq!(env.claimer("s").await.run_all(Ending::Succeeded).await, 700);
            env.sweep().await;
            assert_eq!(counts(&env, outer).await, [700, 700, 0, 0]);
        }
    }
}

/// BAT-8, BAT-5: cancelling a batch whose start is left to sweeps starts nothing inside any more.
pub async fn a_cancel_overtakes_a_start_of_what_is_inside(env: Env) {
    let (outer, _) = open(&env, None, Starts::WhenStarted, 0).await;
    let mut inside: Vec<_> = (0..700).map(|_| nested(Some(outer), Starts::AtOnce, 1)).collect();
    // Ids of one millisecond are in no order, and a storage may go by ids.
    inside.sort_by_key(|(id, _)| *id);
    let jobs: Vec<JobId> = inside.iter().map(|(_, it)| it.jobs[0].id).collect();
    let submissions: Vec<_> = inside.into_iter().map(|(_, it)| it).collect();
    for part in submissions.chunks(300) {
        env.submit_all(part).await;
    }
    assert_eq!(start(&env, outer).await, BatchOutcome::Changed);
    assert_eq!(cancel(&env, outer).await, BatchOutcome::Changed);
    for _ in 0..200 {
        if !env.sweep_once(90).await.more {
            break;
        }
    }
    env.sweep().await;
    assert_eq!(env.states(&jobs).await, [StateName::Deleted; 700]);
    // Never released: it waited, and was deleted.
    assert_eq!(env.details(jobs[650]).await.history.applied(), 2);
    assert_eq!(counts(&env, outer).await, [700, 0, 0, 700]);
}

/// BAT-8, BAT-5: cancelling reaches members that came back to nested batches which had completed,
/// at every depth.
pub async fn cancelling_reaches_members_that_came_back(env: Env) {
    let (outer, _) = open(&env, None, Starts::AtOnce, 1).await;
    let (middle, first) = open(&env, Some(outer), Starts::AtOnce, 2).await;
    let (inner, second) = open(&env, Some(middle), Starts::AtOnce, 1).await;
    end(&env, &first[..1], Ending::Succeeded).await;
    end(&env, &[first[1], second[0]], FAIL).await;
    env.sweep().await;
    for batch in [middle, inner] {
        assert!(env.batch(batch).await.completed_at.is_some());
    }
    for job in [first[1], second[0]] {
        env.requeue(job).await;
    }
    assert_eq!(cancel(&env, outer).await, BatchOutcome::Changed);
    env.sweep().await;
    let states = env.states(&[first[0], first[1], second[0]]).await;
    assert_eq!(states, [StateName::Succeeded, StateName::Deleted, StateName::Deleted]);
    assert_eq!(env.record(second[0]).await.head.reason, Reason::BatchCancelled);
    assert_eq!(env.batch(middle).await.cancelled_at, None, "it had completed");
    assert!(env.batch(outer).await.completed_at.is_some());
    assert!(env.claimer("s").await.claim(10).await.is_empty());
}

/// SUB-14, G20: a batch is not opened inside one that is over, cancelled, missing, or too deep.
pub async fn a_batch_is_not_nested_where_it_cannot_be(env: Env) {
    let (completed, _) = open(&env, None, Starts::AtOnce, 0).await;
    let (cancelled, _) = open(&env, None, Starts::WhenStarted, 1).await;
    let (inside, _) = open(&env, Some(cancelled), Starts::AtOnce, 1).await;
    cancel(&env, cancelled).await;
    let missing = BatchId::new();
    for (parent, expected) in [
        (completed, Refusal::BatchFinished { batch: completed }),
        (cancelled, Refusal::BatchCancelled { batch: cancelled }),
        (inside, Refusal::BatchCancelled { batch: inside }),
        (missing, Refusal::BatchGone { batch: missing }),
    ] {
        let (id, submission) = nested(Some(parent), Starts::AtOnce, 1);
        let job = submission.jobs[0].id;
        assert_eq!(env.refused(submission).await, expected);
        assert!(env.find_batch(id).await.is_none() && env.find(job).await.is_none());
    }
    let mut parent = None;
    for depth in 1..=bounds::BATCH_NESTING + 1 {
        let (id, submission) = nested(parent, Starts::AtOnce, 1);
        if depth <= bounds::BATCH_NESTING {
            env.submit(submission).await;
        } else {
            let refusal = env.refused(submission).await;
            assert!(matches!(refusal, Refusal::Invalid { field: "batch", .. }), "{refusal:?}");
            assert_eq!(counts(&env, parent.expect("has one")).await[0], 1, "nothing is counted");
        }
        parent = Some(id);
    }
    // A repetition is not counted again.
    let (outer, _) = open(&env, None, Starts::WhenStarted, 1).await;
    let (_, submission) = nested(Some(outer), Starts::AtOnce, 1);
    env.submit(submission.clone()).await;
    env.submit(submission).await;
    assert_eq!(counts(&env, outer).await[0], 2);
}

/// SWP-3: the hour of a batch that is being filled begins anew with what is attached inside it, and
/// what is inside is discarded with it.
pub async fn a_half_filled_batch_is_discarded_with_what_is_inside(env: Env) {
    let (outer, jobs) = open(&env, None, Starts::WhenStarted, 1).await;
    let (inner, members) = open(&env, Some(outer), Starts::AtOnce, 1).await;
    env.advance(3000);
    let late = env.add(member(inner)).await;
    env.advance(3000);
    env.sweep().await;
    assert_eq!(env.batch(outer).await.state(), BatchState::Open);
    assert_eq!(env.batch(inner).await.state(), BatchState::Open);
    env.advance(601);
    env.sweep().await;
    env.advance(1);
    env.sweep().await;
    assert_eq!(env.states(&[jobs[0], members[0], late]).await, [StateName::Deleted; 3]);
    assert_eq!(env.record(late).await.head.reason, Reason::BatchDiscarded);
    assert!(env.batch(outer).await.completed_at.is_some());
}

/// PUR-3: members of a nested batch are kept until the continuations of all the batches around have
/// finished, and what is inside goes first.
pub async fn nested_members_are_kept_for_the_batches_around(env: Env) {
    let (outer, jobs) = open(&env, None, Starts::AtOnce, 1).await;
    let (inner, members) = open(&env, Some(outer), Starts::AtOnce, 1).await;
    let then = env.add(after_batch(outer, On::Any)).await;
    end(&env, &[jobs[0], members[0]], Ending::Succeeded).await;
    env.sweep().await;
    env.advance(30 * 3600);
    assert_eq!(env.purge().await, 0, "its continuation has not finished");
    end(&env, &[then], Ending::Succeeded).await;
    env.purge().await;
    env.advance(1);
    env.purge().await;
    assert!(env.find(members[0]).await.is_none() && env.find(jobs[0]).await.is_none());
    assert!(env.find_batch(inner).await.is_none() && env.find_batch(outer).await.is_none());
    assert!(env.find(then).await.is_some(), "it was finished later");
}

/// PUR-4, G8, G9: once a Failed member has been removed, what waits for the success of its batch or of
/// those around is decided, and so is what is added later.
pub async fn a_lost_member_decides_what_waits_for_success(env: Env) {
    let short = Retention {
        failed: Keep::For(seconds(3600)),
        ..Retention::all(Keep::For(seconds(100 * 24 * 3600)))
    };
    let keep_short = |mut job: NewRecord| {
        job.extras_mut().overrides.retention = Some(short);
        job
    };
    let (outer, submission) = nested(None, Starts::AtOnce, 1);
    let jobs: Vec<_> = submission.jobs.into_iter().map(keep_short).collect();
    let stays = jobs[0].id;
    env.submit(Submission { jobs, ..submission }).await;
    let (inner, submission) = nested(Some(outer), Starts::AtOnce, 2);
    let jobs: Vec<_> = submission.jobs.into_iter().map(keep_short).collect();
    let (fails, succeeds) = (jobs[0].id, jobs[1].id);
    env.submit(Submission { jobs, ..submission }).await;
    let waits = env.add(after_batch(outer, On::Success)).await;
    let mut server = env.claimer("s").await;
    for job in server.claim(10).await {
        let mut settle = Settle::new(job.lease, Ending::Succeeded);
        if job.lease.job == fails {
            settle.ending = FAIL;
        }
        settle.retention = short;
        server.settle_with(settle).await;
    }
    env.sweep().await;
    assert_eq!(env.state(waits).await, StateName::Awaiting);
    env.advance(2 * 3600);
    for _ in 0..3 {
        env.purge().await;
        env.sweep().await;
        env.advance(1);
    }
    assert!(env.find(fails).await.is_none(), "it has expired, and nothing can wait for it");
    assert_eq!(env.states(&[succeeds, stays]).await, [StateName::Succeeded; 2]);
    assert_eq!(env.state(waits).await, StateName::Deleted);
    for batch in [inner, outer] {
        assert!(env.batch(batch).await.counts.lost);
        // Ids made now would be too old by the time of the case.
        let late = |key| JobId::from_key(key, &batch.to_string());
        let success = NewRecord { id: late("success"), ..after_batch(batch, On::Success) };
        let any = NewRecord { id: late("any"), ..after_batch(batch, On::Any) };
        let record = env.record(env.add(success).await).await;
        assert_eq!((record.state(), record.head.reason), (StateName::Deleted, Reason::Unmeetable));
        assert_eq!(env.state(env.add(any).await).await, StateName::Enqueued);
    }
}

/// Settles what is claimed, the jobs named as failed and kept for an hour, all others as succeeded and
/// kept forever.
async fn end_for_long(env: &Env, fails: &[JobId]) {
    let mut server = env.claimer("s").await;
    for job in server.claim(500).await {
        let failed = fails.contains(&job.lease.job);
        let ending = if failed { FAIL } else { Ending::Succeeded };
        let keep = if failed { Keep::For(seconds(3600)) } else { Keep::Forever };
        let mut settle = Settle::new(job.lease, ending);
        settle.retention = Retention::all(keep);
        server.settle_with(settle).await;
    }
}

async fn purge_and_sweep(env: &Env) {
    for _ in 0..3 {
        env.purge().await;
        env.sweep().await;
        env.advance(1);
    }
}

/// Something added to wait for the success of a batch; its state.
async fn late_for_success(env: &Env, batch: BatchId) -> StateName {
    // Ids made now would be too old by the time of the case.
    let id = JobId::from_key("late", &batch.to_string());
    let late = NewRecord { id, ..after_batch(batch, On::Success) };
    env.state(env.add(late).await).await
}

/// PUR-4, G8, G9: a batch that has succeeded before counts as Succeeded round it, whatever is removed from
/// it; so those around may succeed yet, and only it is lost.
pub async fn a_batch_that_succeeded_before_is_lost_alone(env: Env) {
    let (outer, waiting) = open(&env, None, Starts::AtOnce, 1).await;
    let (inner, members) = open(&env, Some(outer), Starts::AtOnce, 2).await;
    let then = env.add(after_batch(outer, On::Success)).await;
    let mut server = env.claimer("s").await;
    let jobs = server.claim(10).await;
    for job in jobs {
        let ending = if job.lease.job == waiting[0] { FAIL } else { Ending::Succeeded };
        let mut settle = Settle::new(job.lease, ending);
        settle.retention = Retention::all(Keep::Forever);
        server.settle_with(settle).await;
    }
    env.requeue(members[0]).await;
    end_for_long(&env, &members[..1]).await;
    env.advance(2 * 3600);
    purge_and_sweep(&env).await;
    assert_eq!(env.states(&[members[0], then]).await, [StateName::Failed, StateName::Awaiting]);
    for batch in [inner, outer] {
        assert!(!env.batch(batch).await.counts.lost);
    }
    env.requeue(waiting[0]).await;
    end_for_long(&env, &[]).await;
    assert_eq!(env.state(then).await, StateName::Enqueued);
    end_for_long(&env, &[]).await;
    purge_and_sweep(&env).await;
    assert!(env.find(members[0]).await.is_none());
    assert!(env.batch(inner).await.counts.lost);
    assert!(!env.batch(outer).await.counts.lost);
    assert_eq!(late_for_success(&env, inner).await, StateName::Deleted);
    assert_eq!(late_for_success(&env, outer).await, StateName::Enqueued);
}

/// PUR-4, PUR-3, G8: a Failed member that was kept for one continuation ends the wait of the others
/// once that one has finished.
pub async fn a_member_that_was_kept_decides_what_waits_for_success(env: Env) {
    let (batch, members) = open(&env, None, Starts::AtOnce, 2).await;
    let runs = env.add(after_batch(batch, On::Any)).await;
    let waits = env.add(after_batch(batch, On::Success)).await;
    end_for_long(&env, &members[1..]).await;
    assert_eq!(env.states(&[runs, waits]).await, [StateName::Enqueued, StateName::Awaiting]);
    env.advance(2 * 3600);
    purge_and_sweep(&env).await;
    assert_eq!(env.states(&[members[1], waits]).await, [StateName::Failed, StateName::Awaiting]);
    end_for_long(&env, &[]).await;
    purge_and_sweep(&env).await;
    assert_eq!(env.state(waits).await, StateName::Deleted);
    assert!(env.find(members[1]).await.is_none());
    assert_eq!(late_for_success(&env, batch).await, StateName::Deleted);
}

/// BAT-7, G9: a nested batch that has succeeded stays a Succeeded member, whatever becomes of what is in it.
pub async fn a_nested_batch_that_succeeded_stays_so(env: Env) {
    let (outer, _) = open(&env, None, Starts::WhenStarted, 0).await;
    let (_, jobs) = open(&env, Some(outer), Starts::AtOnce, 2).await;
    start(&env, outer).await;
    end(&env, &jobs, Ending::Succeeded).await;
    assert_eq!(counts(&env, outer).await, [1, 1, 0, 0]);
    env.requeue(jobs[0]).await;
    assert_eq!(counts(&env, outer).await, [1, 1, 0, 0]);
    end(&env, &jobs, FAIL).await;
    assert_eq!(counts(&env, outer).await, [1, 1, 0, 0]);
    env.delete(jobs[1]).await;
    assert_eq!(counts(&env, outer).await, [1, 1, 0, 0]);
}
