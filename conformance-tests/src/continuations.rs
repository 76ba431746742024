//! Edges from jobs to their children.

use jobkit_core::bounds;
use jobkit_core::edge::{Edge, On, Parent};
use jobkit_core::record::NewRecord;
use jobkit_core::refusal::Refusal;
use jobkit_core::state::{Reason, Start, State, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{Action, ChangeOutcome, JobSubmitted, Settle, SettleAnswer, Submission};
use jobkit_core::{BatchId, JobId};

use crate::fixtures::*;

const FAIL: Ending = Ending::Failed(Reason::OutOfAttempts);
const ENDINGS: [Ending; 3] = [Ending::Succeeded, FAIL, Ending::Deleted(Reason::Deleted)];

/// What a parent's end makes of a child, as G8 says.
fn decided(on: On, ending: Ending) -> StateName {
    match (on, ending) {
        (On::Any, _) | (On::Success, Ending::Succeeded) | (On::Failed, Ending::Failed(_)) => {
            StateName::Enqueued
        }
        (On::Success, Ending::Failed(_)) => StateName::Awaiting,
        _ => StateName::Deleted,
    }
}

fn after_all(parents: &[JobId], on: On) -> NewRecord {
    let edge = |parent: &JobId| Edge { parent: Parent::Job(*parent), on };
    NewRecord { edges: parents.iter().map(edge).collect(), ..job() }
}

/// SET-3, G7, G8: the settle that finishes a parent decides the edge to its child: released, left open,
/// or Deleted; also if the child was added while the parent ran.
pub async fn the_end_of_a_parent_decides_its_children(env: Env) {
    let mut server = env.claimer("s").await;
    for (ending, running) in ENDINGS.into_iter().flat_map(|it| [(it, false), (it, true)]) {
        let parent = env.add(job()).await;
        let mut lease = None;
        if running {
            lease = Some(server.claim_one().await.lease);
        }
        let mut children = Vec::new();
        for on in [On::Success, On::Failed, On::Any] {
            children.push((on, env.add(after(parent, on)).await));
        }
        for (_, child) in &children {
            let record = env.record(*child).await;
            assert_eq!(record.head.state, State::Awaiting { open: 1 });
            assert_eq!((record.head.reason, record.parents), (Reason::Parents, 1));
        }
        let lease = match lease {
            Some(lease) => lease,
            None => server.claim_one().await.lease,
        };
        server.settled(lease, ending).await;
        for (on, child) in children {
            let details = env.details(child).await;
            let state = decided(on, ending);
            assert_eq!(details.record.state(), state, "{on:?}, {ending:?}");
            let edge = details.parents[0];
            assert_eq!(edge.edge, Edge { parent: Parent::Job(parent), on });
            assert_eq!(edge.decided, state != StateName::Awaiting, "{on:?}, {ending:?}");
            let reason = match state {
                StateName::Enqueued => Reason::Released,
                StateName::Deleted => Reason::Unmeetable,
                _ => Reason::Parents,
            };
            assert_eq!(details.record.head.reason, reason);
            assert_eq!(details.record.expires_at.is_some(), state == StateName::Deleted);
        }
        server.run_all(Ending::Succeeded).await;
    }
}

/// SUB-6, G8: a child of a parent that has finished is decided in its submit.
pub async fn a_child_of_a_finished_parent_is_decided_at_once(env: Env) {
    let mut server = env.claimer("s").await;
    for ending in ENDINGS {
        let parent = env.add(job()).await;
        assert_eq!(server.run_one(ending).await, parent);
        for on in [On::Success, On::Failed, On::Any] {
            let child = after(parent, on);
            let id = child.id;
            let answers = env.submit(Submission::one(child)).await;
            let state = decided(on, ending);
            assert_eq!(answers, [JobSubmitted::Created(state)], "{on:?}, {ending:?}");
            let details = env.details(id).await;
            assert_eq!(details.record.state(), state);
            assert_eq!(details.parents[0].decided, state != StateName::Awaiting);
            if state == StateName::Deleted {
                assert_eq!(details.record.head.reason, Reason::Unmeetable);
                assert!(details.record.expires_at.is_some());
                assert_eq!(details.history.applied(), 1);
            }
        }
        server.run_all(Ending::Succeeded).await;
    }
    // A delay counts from the release, which is now.
    let parent = env.add(job()).await;
    server.run_one(Ending::Succeeded).await;
    let later = NewRecord { start: Start::After(seconds(60)), ..after(parent, On::Success) };
    let later = env.add(later).await;
    assert_eq!(env.record(later).await.run_at(), Some(env.after(60)));
}

/// SUB-5, G8: jobs of one submission name each other as parents in any order.
pub async fn jobs_of_a_flow_name_each_other_in_any_order(env: Env) {
    let first = job();
    let left = after(first.id, On::Success);
    let right = after(first.id, On::Success);
    let last = after_all(&[left.id, right.id], On::Success);
    let ids = [first.id, left.id, right.id, last.id];
    env.flow(vec![last, right, first, left]).await;
    use StateName::{Awaiting, Enqueued, Processing, Succeeded};
    assert_eq!(env.states(&ids).await, [Enqueued, Awaiting, Awaiting, Awaiting]);
    assert_eq!(env.record(ids[3]).await.head.state, State::Awaiting { open: 2 });
    let mut server = env.claimer("s").await;
    server.run_one(Ending::Succeeded).await;
    assert_eq!(env.states(&ids).await, [Succeeded, Enqueued, Enqueued, Awaiting]);
    server.run_one(Ending::Succeeded).await;
    assert_eq!(env.record(ids[3]).await.head.state, State::Awaiting { open: 1 });
    let lease = server.claim_one().await.lease;
    assert_eq!(env.state(lease.job).await, Processing);
    assert_eq!(env.state(ids[3]).await, Awaiting, "one of two parents is not enough");
    server.settled(lease, Ending::Succeeded).await;
    assert_eq!(env.state(ids[3]).await, Enqueued);
}

/// SUB-5, G8: a parent that is neither stored nor in the submission is refused, and nothing is stored.
pub async fn a_missing_parent_is_refused(env: Env) {
    for parent in [Parent::Job(JobId::new()), Parent::Batch(BatchId::new())] {
        let child = NewRecord { edges: vec![Edge { parent, on: On::Any }], ..job() };
        let (id, neighbour) = (child.id, job());
        let refusal = env.refused(Submission::flow(vec![neighbour.clone(), child])).await;
        assert_eq!(refusal, Refusal::ParentGone { parent });
        assert!(env.find(id).await.is_none());
        assert!(env.find(neighbour.id).await.is_none());
    }
}

/// SUB-5, G20: a circle is refused with field `parents`: a job that waits for itself, for its own batch,
/// or for its descendants.
pub async fn a_circle_is_refused(env: Env) {
    let mut own = job();
    own.edges = after(own.id, On::Any).edges;
    let batch = BatchId::new();
    let member = NewRecord { batch: Some(batch), ..after_batch(batch, On::Any) };
    let mut flow = jobs(3);
    for i in 0..3 {
        flow[i].edges = after(flow[(i + 1) % 3].id, On::Any).edges;
    }
    let twice = NewRecord {
        edges: [after(flow[0].id, On::Any).edges, after(flow[0].id, On::Failed).edges].concat(),
        ..job()
    };
    let start = jobkit_core::batch::Starts::AtOnce;
    for submission in [
        Submission::one(own),
        batch_of(batch, start, vec![member]),
        Submission::flow(flow),
        Submission::one(twice),
    ] {
        let id = submission.jobs[0].id;
        let refusal = env.refused(submission).await;
        assert!(matches!(refusal, Refusal::Invalid { field: "parents", .. }), "{refusal:?}");
        assert!(env.find(id).await.is_none());
    }
    assert!(env.find_batch(batch).await.is_none());
}

/// SUB-13, G8: a child has up to 100 parents, and waits for the last of them.
pub async fn a_child_waits_for_a_hundred_parents(env: Env) {
    let parents = env.add_many(jobs(bounds::PARENTS)).await;
    let child = env.add(after_all(&parents, On::Success)).await;
    let mut server = env.claimer("s").await;
    let claimed = server.claim(200).await;
    assert_eq!(claimed.len(), bounds::PARENTS);
    for (i, job) in claimed.iter().enumerate() {
        let open = u32::try_from(bounds::PARENTS - i).expect("is small");
        assert_eq!(env.record(child).await.head.state, State::Awaiting { open });
        server.settled(job.lease, Ending::Succeeded).await;
    }
    env.sweep().await;
    assert_eq!(env.state(child).await, StateName::Enqueued);
    let details = env.details(child).await;
    assert_eq!(details.history.applied(), 2, "one of several parents is no transition");
    assert!(details.parents.iter().all(|edge| edge.decided));
}

/// CHG-6, G8: a Failed parent leaves an on-success edge open, so that a requeue may still release the
/// child.
pub async fn a_requeued_parent_that_succeeds_releases_its_child(env: Env) {
    let parent = env.add(job()).await;
    let child = env.add(after(parent, On::Success)).await;
    let mut server = env.claimer("s").await;
    for _ in 0..2 {
        server.run_one(FAIL).await;
        env.sweep().await;
        assert_eq!(env.state(child).await, StateName::Awaiting);
        env.requeue(parent).await;
    }
    server.run_one(Ending::Succeeded).await;
    assert_eq!(env.state(child).await, StateName::Enqueued);
}

/// CHG-6, G8: a requeue reopens no edge: what was decided stays decided, and no child is released twice.
pub async fn a_requeue_reopens_no_edge(env: Env) {
    let parent = env.add(job()).await;
    let mut server = env.claimer("s").await;
    let any = env.add(after(parent, On::Any)).await;
    let failed = env.add(after(parent, On::Failed)).await;
    server.run_one(FAIL).await;
    assert_eq!(server.run_all(Ending::Succeeded).await, 2);
    env.requeue(parent).await;
    assert_eq!(env.states(&[any, failed]).await, [StateName::Succeeded; 2]);
    server.run_one(Ending::Succeeded).await;
    env.sweep().await;
    assert!(server.claim(10).await.is_empty());
    for child in [any, failed] {
        let details = env.details(child).await;
        assert_eq!(details.record.state(), StateName::Succeeded);
        assert_eq!(details.history.applied(), 4);
    }
    // A new child of the finished parent is decided by what the parent is now.
    assert_eq!(env.state(env.add(after(parent, On::Failed)).await).await, StateName::Deleted);
}

/// CHG-5, G7: deleting a waiting or finished parent decides its open edges in the same step.
pub async fn deleting_a_parent_decides_its_children(env: Env) {
    let mut server = env.claimer("s").await;
    for finish_first in [false, true] {
        let parent = env.add(job()).await;
        let success = env.add(after(parent, On::Success)).await;
        if finish_first {
            server.run_one(FAIL).await;
        }
        let any = env.add(after(parent, On::Any)).await;
        env.delete(parent).await;
        assert_eq!(env.state(success).await, StateName::Deleted);
        assert_eq!(env.record(success).await.head.reason, Reason::Unmeetable);
        assert_eq!(env.state(any).await, StateName::Enqueued);
        assert_eq!(server.run_all(Ending::Succeeded).await, 1);
    }
}

/// CHG-8: run now makes an Awaiting job claimable; later decisions of its edges have no effect.
pub async fn an_awaiting_job_that_is_run_now_waits_for_nobody(env: Env) {
    let parents = env.add_many(jobs(2)).await;
    let child = env.add(after_all(&parents, On::Success)).await;
    assert_eq!(env.changed(child, Action::RunNow).await, StateName::Enqueued);
    let mut server = env.claimer("s").await;
    server.run_one(Ending::Succeeded).await;
    server.run_one(FAIL).await;
    env.sweep().await;
    let record = env.record(child).await;
    assert_eq!((record.state(), record.head.reason), (StateName::Enqueued, Reason::RunNow));
    env.delete(parents[1]).await;
    assert_eq!(server.run_one(Ending::Succeeded).await, child);
    assert_eq!(env.details(child).await.history.applied(), 4);
}

/// SET-3, G8: a child that can never be released is a parent whose end is decided too, down the line.
pub async fn what_becomes_unmeetable_goes_down_the_line(env: Env) {
    let parent = env.add(job()).await;
    let mut line = vec![parent];
    for _ in 0..10 {
        let next = env.add(after(*line.last().expect("has one"), On::Success)).await;
        line.push(next);
    }
    let saved = env.add(after(line[10], On::Any)).await;
    env.delete(parent).await;
    assert!(env.states(&line).await.iter().all(|state| *state == StateName::Deleted));
    assert_eq!(env.claimer("s").await.run_one(Ending::Succeeded).await, saved);
}

/// SWP-1, G7, G8: a cascade larger than a step is completed by sweeps, each job exactly once.
pub async fn a_large_cascade_is_completed_by_sweeps(env: Env) {
    let parent = job();
    let mut all = vec![parent.clone()];
    for _ in 0..15 {
        let middle = after(parent.id, On::Success);
        for _ in 0..15 {
            all.push(after(middle.id, On::Success));
        }
        all.push(middle);
    }
    let mut line = parent.id;
    for _ in 0..150 {
        let next = after(line, On::Success);
        line = next.id;
        all.push(next);
    }
    let ids: Vec<JobId> = all.iter().map(|job| job.id).collect();
    env.flow(all).await;
    env.delete(parent.id).await;
    for _ in 0..300 {
        if !env.sweep_once(20).await.more {
            break;
        }
    }
    for id in ids {
        let details = env.details(id).await;
        assert_eq!(details.record.state(), StateName::Deleted);
        assert_eq!(details.history.applied(), 2);
    }
    assert!(env.claimer("s").await.claim(10).await.is_empty());
}

/// SET-9, SWP-1, G7: of more than 100 children the first are decided in the step, the rest by bounded
/// sweeps.
pub async fn many_children_are_decided_in_the_step_and_by_sweeps(env: Env) {
    let parent = env.add(job()).await;
    let children = env.add_many((0..330).map(|_| after(parent, On::Success)).collect()).await;
    let mut server = env.claimer("s").await;
    server.run_one(Ending::Succeeded).await;
    let awaiting = async || {
        let states = env.states(&children).await;
        states.iter().filter(|state| **state == StateName::Awaiting).count()
    };
    let left = awaiting().await;
    assert!(left <= 330 - bounds::CHILDREN_IN_SETTLE, "{left} are left by the step");
    let mut steps = 0;
    while awaiting().await > 0 {
        let step = env.sweep_once(50).await;
        assert!(step.done <= 50 && step.done > 0, "{step:?}");
        steps += 1;
        assert!(steps < 50);
    }
    env.sweep().await;
    assert_eq!(server.run_all(Ending::Succeeded).await, 330);
    for child in children {
        assert_eq!(env.details(child).await.history.applied(), 4, "released exactly once");
    }
}

/// SET-9, SWP-1, G7, G8: one call decides a bounded number of children, and sweeps decide the rest.
pub async fn many_parents_that_end_in_one_call_decide_all_their_children(env: Env) {
    let parents = env.add_many(jobs(8)).await;
    let mut children = Vec::new();
    for parent in &parents {
        children.extend(env.add_many((0..90).map(|_| after(*parent, On::Success)).collect()).await);
    }
    let mut server = env.claimer("s").await;
    let ends: Vec<_> = server.claim(8).await;
    let ends = ends.iter().map(|job| Settle::new(job.lease, Ending::Succeeded)).collect();
    for answer in server.settle_all(ends).await {
        assert_eq!(answer, SettleAnswer::Settled(StateName::Succeeded));
    }
    let states = env.states(&children).await;
    let decided = states.iter().filter(|state| **state != StateName::Awaiting).count();
    assert!(decided <= bounds::CHILDREN_IN_CALL, "{decided} are decided by the call");
    env.sweep().await;
    assert_eq!(server.run_all(Ending::Succeeded).await, children.len());
    for child in children {
        assert_eq!(env.details(child).await.history.applied(), 4, "released exactly once");
    }
}

/// SWP-1, CHG-6, G8: what the end of a parent decided stays decided when the parent is requeued before
/// the sweep, and ends otherwise; a child that came meanwhile waits for the later end.
pub async fn a_requeue_before_the_sweep_changes_no_decision(env: Env) {
    let parent = env.add(NewRecord { priority: 9, ..job() }).await;
    let children = env.add_many((0..250).map(|_| after(parent, On::Success)).collect()).await;
    let mut server = env.claimer("s").await;
    server.run_one(Ending::Succeeded).await;
    env.requeue(parent).await;
    let late = env.add(after(parent, On::Success)).await;
    let lease = server.claim_one().await.lease;
    assert_eq!(lease.job, parent);
    env.sweep().await;
    assert_eq!(env.state(late).await, StateName::Awaiting);
    server.settled(lease, Ending::Deleted(Reason::Deleted)).await;
    env.sweep().await;
    assert_eq!(env.state(late).await, StateName::Deleted);
    let states = env.states(&children).await;
    let released = states.iter().filter(|state| **state == StateName::Enqueued).count();
    assert_eq!(released, children.len());
    // Also when both ends come before the sweep.
    let parent = env.add(NewRecord { priority: 9, ..job() }).await;
    let children = env.add_many((0..250).map(|_| after(parent, On::Success)).collect()).await;
    assert_eq!(server.run_one(Ending::Succeeded).await, parent);
    env.delete(parent).await;
    env.sweep().await;
    let states = env.states(&children).await;
    let released = states.iter().filter(|state| **state == StateName::Enqueued).count();
    assert_eq!(released, children.len());
}

/// SWP-1, G8: sweeps on several servers at the same time release each child exactly once.
pub async fn sweeps_at_the_same_time_release_each_child_once(env: Env) {
    let other = env.second().await;
    let parent = env.add(job()).await;
    let children = env.add_many((0..600).map(|_| after(parent, On::Any)).collect()).await;
    let mut server = env.claimer("s").await;
    server.run_one(Ending::Succeeded).await;
    let tasks = (0..4).map(|i| {
        let env = if i % 2 == 0 { env.clone() } else { other.clone() };
        tokio::spawn(async move {
            for _ in 0..100 {
                if !env.sweep_once(40).await.more {
                    break;
                }
                tokio::task::yield_now().await;
            }
        })
    });
    join(tasks.collect()).await;
    env.sweep().await;
    assert_eq!(server.run_all(Ending::Succeeded).await, 600);
    for child in children {
        assert_eq!(env.details(child).await.history.applied(), 4);
    }
}

/// SUB-6, SWP-2, G8, G21: a child that is added while its parent finishes is never lost.
pub async fn a_child_added_while_its_parent_finishes_is_not_lost(env: Env) {
    let other = env.second().await;
    let mut server = env.claimer("s").await;
    let mut children = Vec::new();
    for round in 0..300_u32 {
        let parent = env.add(job()).await;
        let lease = server.claim_one().await.lease;
        assert_eq!(lease.job, parent);
        let on = if round % 2 == 0 { On::Success } else { On::Any };
        let adding = other.clone();
        let add = tokio::spawn(async move {
            let first = adding.add(after(parent, on)).await;
            [first, adding.add(after(parent, on)).await]
        });
        if round % 3 == 0 {
            tokio::task::yield_now().await;
        }
        server.settled(lease, Ending::Succeeded).await;
        let added = add.await.expect("adds");
        children.extend(added);
        // Out of the way of the next round.
        for job in server.claim(2).await {
            server.settled(job.lease, Ending::Succeeded).await;
        }
    }
    env.sweep().await;
    server.run_all(Ending::Succeeded).await;
    let states = env.states(&children).await;
    let lost = states.iter().filter(|state| **state != StateName::Succeeded).count();
    assert_eq!(lost, 0, "{lost} of {} children never ran", states.len());
}

/// SET-3, G8: parents that finish at the same time release their common child once.
pub async fn parents_that_finish_at_once_release_their_child_once(env: Env) {
    let other = env.second().await;
    let mut server = env.claimer("s").await;
    for _ in 0..60 {
        let parents = env.add_many(jobs(6)).await;
        let child = env.add(after_all(&parents, On::Success)).await;
        let tasks = server.claim(6).await.into_iter().enumerate().map(|(i, job)| {
            let mut server = server.clone();
            server.env = if i % 2 == 0 { env.clone() } else { other.clone() };
            tokio::spawn(async move { server.settled(job.lease, Ending::Succeeded).await })
        });
        join(tasks.collect()).await;
        env.sweep().await;
        assert_eq!(env.state(child).await, StateName::Enqueued);
        assert_eq!(env.details(child).await.history.applied(), 2);
        assert_eq!(server.run_one(Ending::Succeeded).await, child);
    }
}

/// RES-2, CLM-8, G8: a parent that ends without its handler, by rescue or by not being started in time,
/// decides its children like any other.
pub async fn a_parent_that_ends_without_its_handler_decides_its_children(env: Env) {
    let mut server = env.claimer("s").await;
    let crashed = env.add(job()).await;
    let on_failed = env.add(after(crashed, On::Failed)).await;
    for _ in 0..CRASH_LIMIT {
        server.claim_one().await;
        env.advance(60);
        env.rescue_all().await;
    }
    assert_eq!(server.run_one(Ending::Succeeded).await, on_failed);
    let late = env.add(NewRecord { start_by: Some(env.after(1)), ..job() }).await;
    let on_any = env.add(after(late, On::Any)).await;
    let on_success = env.add(after(late, On::Success)).await;
    env.advance(1);
    server.claim(1).await.into_iter().for_each(drop);
    env.sweep().await;
    assert_eq!(env.state(late).await, StateName::Deleted);
    assert_eq!(env.state(on_success).await, StateName::Deleted);
    assert_ne!(env.state(on_any).await, StateName::Awaiting);
}

/// CHG-14: run now of a job that waits for its parents is refused once its `start_by` has passed.
pub async fn an_awaiting_job_is_not_run_after_start_by(env: Env) {
    let parent = env.add(job()).await;
    let child = NewRecord { start_by: Some(env.after(10)), ..after(parent, On::Any) };
    let child = env.add(child).await;
    env.advance(10);
    let outcome = env.change(child, Action::RunNow).await;
    let refused =
        matches!(outcome, ChangeOutcome::Refused(Refusal::Invalid { field: "start_by", .. }));
    assert!(refused, "{outcome:?}");
    assert_eq!(env.state(child).await, StateName::Awaiting);
}
