//! Retention: what has expired goes, and what is beyond the number, and nothing else.

use jobkit_core::batch::{NewBatch, Starts};
use jobkit_core::edge::On;
use jobkit_core::record::NewRecord;
use jobkit_core::refusal::Refusal;
use jobkit_core::state::{Keep, Reason, Retention, Start, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{
    Action, ChangeOutcome, JobSubmitted, Settle, SettleAnswer, StepRequest, Submission,
};
use jobkit_core::{BatchId, JobId};

use crate::fixtures::*;

const HOUR: i64 = 3600;

async fn finish(env: &Env, keep: Keep) -> JobId {
    let id = env.add(job()).await;
    let mut server = env.claimer("finisher").await;
    let lease = server.claim_one().await.lease;
    assert_eq!(lease.job, id);
    let mut settle = Settle::new(lease, Ending::Succeeded);
    settle.retention = Retention::all(keep);
    settle.result = Some(payload("1"));
    server.settle_with(settle).await;
    id
}

/// PUR-1, G19: finished jobs go when their expiry has passed, not a moment earlier, and whatever has not
/// finished stays.
pub async fn purge_removes_what_has_expired_and_nothing_else(env: Env) {
    let scheduled = env.add(NewRecord { start: Start::After(seconds(9_000_000)), ..job() }).await;
    let short = finish(&env, Keep::For(seconds(7200))).await;
    let long = finish(&env, Keep::For(seconds(14_400))).await;
    let forever = finish(&env, Keep::Forever).await;
    // Ids are remembered for an hour, whatever was asked for.
    let least = finish(&env, Keep::For(seconds(1))).await;
    let waiting = env.add(job()).await;
    let running = env.add(NewRecord { priority: 9, ..job() }).await;
    env.claimer("s").await.claim_one().await;
    assert_eq!(env.purge().await, 0);
    let exists = async |id| env.find(id).await.is_some();
    env.advance(HOUR - 1);
    assert_eq!(env.purge().await, 0);
    env.advance(1);
    assert_eq!((env.purge().await, exists(least).await), (1, false));
    env.advance(HOUR);
    assert_eq!((env.purge().await, exists(short).await), (1, false));
    env.advance(100 * 24 * HOUR);
    assert_eq!((env.purge().await, exists(long).await), (1, false));
    for id in [forever, waiting, running, scheduled] {
        assert!(exists(id).await);
    }
    assert_eq!(env.purge().await, 0);
    // What is gone may be submitted again, if its id carries no time.
    assert!(env.storage.jobs(&[short]).await.expect("reads")[0].is_none());
}

/// PUR-1, G19: the retention of each state, of the job itself and of a deletion decide.
pub async fn each_finish_is_kept_as_long_as_its_retention_says(env: Env) {
    const DAY: i64 = 24 * HOUR;
    let mut server = env.claimer("s").await;
    let mut ends = Vec::new();
    for (ending, days) in [
        (Ending::Succeeded, 1),
        (Ending::Failed(Reason::OutOfAttempts), 30),
        (Ending::Deleted(Reason::Cancelled), 1),
    ] {
        let id = env.add(job()).await;
        server.run_one(ending).await;
        ends.push((id, days));
    }
    // Settles bring the retention along; other ends read the job's own.
    let mut own = job();
    own.extras_mut().overrides.retention = Some(Retention::all(Keep::For(seconds(50 * 3600))));
    let own = env.add(own).await;
    env.delete(own).await;
    for (id, days) in ends {
        assert_eq!(env.record(id).await.expires_at, Some(env.after(days * DAY)));
    }
    assert_eq!(env.record(own).await.expires_at, Some(env.after(50 * HOUR)));
}

/// PUR-1: it works in bounded steps, and says whether more is waiting.
pub async fn purge_works_in_bounded_steps(env: Env) {
    let ids = env.add_many(jobs(25)).await;
    assert_eq!(env.claimer("s").await.run_all(Ending::Succeeded).await, 25);
    env.advance(25 * HOUR);
    let mut left = 25;
    while left > 0 {
        let request = StepRequest { max: 10 };
        let step = env.storage.purge_expired(&env.call(), request).await.expect("purges");
        assert!((1..=10).contains(&step.done), "{step:?}");
        left -= step.done;
        assert_eq!(step.more, left > 0, "{step:?}");
        let kept = env.storage.jobs(&ids).await.expect("reads").iter().flatten().count();
        assert_eq!(kept, left);
    }
}

/// PUR-1, G2: several that purge at the same time remove each job once, and a requeue is never lost.
pub async fn purges_and_requeues_do_not_disturb_each_other(env: Env) {
    let other = env.second().await;
    let ids = env.add_many(jobs(200)).await;
    assert_eq!(env.claimer("s").await.run_all(Ending::Succeeded).await, 200);
    env.advance(25 * HOUR);
    let purges = [env.clone(), other.clone(), env.clone()].map(|env| {
        tokio::spawn(async move {
            let mut done = 0;
            for _ in 0..30 {
                let request = StepRequest { max: 20 };
                done += env.storage.purge_expired(&env.call(), request).await.expect("purges").done;
                tokio::task::yield_now().await;
            }
            done
        })
    });
    let mut requeued = Vec::new();
    for id in ids.iter().rev().take(60) {
        match other.change(*id, Action::Requeue { run_at: None }).await {
            ChangeOutcome::Changed { state, .. } => {
                assert_eq!(state, StateName::Enqueued);
                requeued.push(*id);
            }
            ChangeOutcome::Refused(Refusal::JobGone { .. }) => {}
            outcome => panic!("{outcome:?}"),
        }
        tokio::task::yield_now().await;
    }
    let purged: usize = join(purges.into()).await.into_iter().sum();
    assert_eq!(purged + requeued.len(), 200);
    let mut kept = Vec::new();
    for id in &ids {
        kept.extend(env.find(*id).await.map(|details| details.record.id));
    }
    requeued.sort_unstable();
    kept.sort_unstable();
    assert_eq!(kept, requeued);
}

/// PUR-2, G8: edges that are still open when their parent is removed are decided as unmeetable.
pub async fn removing_a_parent_decides_its_open_edges(env: Env) {
    let parent = env.add(job()).await;
    let child = env.add(after(parent, On::Success)).await;
    let grandchild = env.add(after(child, On::Any)).await;
    let mut server = env.claimer("s").await;
    server.run_one(Ending::Failed(Reason::OutOfAttempts)).await;
    assert_eq!(env.state(child).await, StateName::Awaiting, "a requeue could still succeed");
    env.advance(31 * 24 * HOUR);
    assert!(env.purge().await >= 1);
    assert!(env.find(parent).await.is_none());
    let details = env.details(child).await;
    let record = &details.record;
    assert_eq!((record.state(), record.head.reason), (StateName::Deleted, Reason::Unmeetable));
    assert!(details.parents[0].decided);
    assert_eq!(server.run_one(Ending::Succeeded).await, grandchild);
    // A parent that is gone cannot be waited for.
    let late = NewRecord { id: JobId::from_key("k", "late"), ..after(parent, On::Any) };
    let refusal = env.refused(Submission::one(late)).await;
    assert!(matches!(refusal, Refusal::ParentGone { .. }), "{refusal:?}");
}

/// PUR-2, PUR-1: a parent whose many children wait for its success goes all the same.
pub async fn removing_a_parent_of_many_loses_no_child(env: Env) {
    let parent = env.add(job()).await;
    let children: Vec<NewRecord> = (0..700).map(|_| after(parent, On::Success)).collect();
    let children = env.add_many(children).await;
    env.claimer("s").await.run_one(Ending::Failed(Reason::OutOfAttempts)).await;
    env.advance(31 * 24 * HOUR);
    for _ in 0..20 {
        env.purge().await;
        env.sweep().await;
    }
    assert!(env.find(parent).await.is_none());
    assert!(env.states(&children).await.iter().all(|state| *state == StateName::Deleted));
}

/// PUR-3, G9: members are kept until the continuations of their batch have finished; the batch goes
/// after its last member.
pub async fn members_are_kept_until_the_continuations_have_finished(env: Env) {
    let batch = BatchId::new();
    let members = jobs(3).into_iter().map(|job| NewRecord { batch: Some(batch), ..job });
    let members: Vec<NewRecord> = members.collect();
    let ids: Vec<JobId> = members.iter().map(|job| job.id).collect();
    env.submit(batch_of(batch, Starts::AtOnce, members)).await;
    let then = env.add(after_batch(batch, On::Success)).await;
    let mut server = env.claimer("s").await;
    for _ in 0..3 {
        server.run_one(Ending::Succeeded).await;
    }
    assert_eq!(env.state(then).await, StateName::Enqueued);
    env.advance(100 * HOUR);
    assert_eq!(env.purge().await, 0);
    assert_eq!(env.batch(batch).await.counts.succeeded, 3);
    assert_eq!(server.run_one(Ending::Succeeded).await, then);
    env.purge().await;
    for id in ids {
        assert!(env.find(id).await.is_none());
    }
    assert!(env.find_batch(batch).await.is_none());
    env.advance(100 * HOUR);
    env.purge().await;
    assert!(env.find(then).await.is_none());
}

/// PUR-3, PUR-1: however many are kept for their batch, what expired with them or after them goes.
pub async fn what_is_kept_is_not_in_the_way(env: Env) {
    let batch = BatchId::new();
    let members: Vec<NewRecord> = (0..9).map(|_| member(batch)).collect();
    let ids: Vec<JobId> = members.iter().map(|job| job.id).collect();
    env.submit(batch_of(batch, Starts::AtOnce, members)).await;
    let then = env.add(after_batch(batch, On::Success)).await;
    let with_them = env.add(job()).await;
    let mut server = env.claimer("s").await;
    let jobs = server.claim(10).await;
    let settles = jobs.iter().map(|job| Settle::new(job.lease, Ending::Succeeded)).collect();
    assert_eq!(
        server.settle_all(settles).await,
        vec![SettleAnswer::Settled(StateName::Succeeded); 10]
    );
    env.advance(1);
    let mut others = vec![with_them];
    for _ in 0..2 {
        let after_them = env.add(NewRecord { priority: 9, ..job() }).await;
        assert_eq!(server.run_one(Ending::Succeeded).await, after_them);
        others.push(after_them);
    }
    env.advance(25 * HOUR);
    let step = async || {
        let request = StepRequest { max: 1 };
        let done = env.storage.purge_expired(&env.call(), request).await.expect("purges").done;
        assert!(done <= 1, "{done}");
        done
    };
    let mut done = 0;
    for _ in 0..20 {
        done += step().await;
    }
    assert_eq!(done, 3);
    for id in others {
        assert!(env.find(id).await.is_none());
    }
    assert!(env.states(&ids).await.iter().all(|state| *state == StateName::Succeeded));
    // Nor are they forgotten.
    assert_eq!(server.run_one(Ending::Succeeded).await, then);
    for _ in 0..20 {
        done += step().await;
    }
    assert!(done >= 12, "{done}");
    for id in ids {
        assert!(env.find(id).await.is_none());
    }
    assert!(env.find_batch(batch).await.is_none());
}

/// PUR-3, G19: a batch that never succeeds does not keep its members forever.
pub async fn a_batch_that_never_succeeds_is_not_kept_for_ever(env: Env) {
    let batch = BatchId::new();
    let members = vec![member(batch), member(batch)];
    let ids = [members[0].id, members[1].id];
    env.submit(batch_of(batch, Starts::AtOnce, members)).await;
    let then = env.add(after_batch(batch, On::Success)).await;
    let mut server = env.claimer("s").await;
    server.run_one(Ending::Succeeded).await;
    server.run_one(Ending::Failed(Reason::OutOfAttempts)).await;
    env.advance(25 * HOUR);
    env.purge().await;
    assert!(env.find(ids[0]).await.is_some(), "a requeue could still make it succeed");
    env.advance(30 * 24 * HOUR);
    for _ in 0..3 {
        env.purge().await;
        env.sweep().await;
    }
    let gone = env.find(then).await;
    assert!(gone.is_none_or(|it| it.record.state() == StateName::Deleted));
    env.advance(25 * HOUR);
    for _ in 0..3 {
        env.purge().await;
        env.sweep().await;
    }
    for id in ids {
        assert!(env.find(id).await.is_none());
    }
    assert!(env.find_batch(batch).await.is_none());
}

/// PUR-3: an empty batch goes too, a day after it completed.
pub async fn an_empty_batch_is_removed_after_a_day(env: Env) {
    let batch = BatchId::new();
    env.submit(batch_of(batch, Starts::AtOnce, Vec::new())).await;
    assert!(env.batch(batch).await.completed_at.is_some());
    env.advance(23 * HOUR);
    env.purge().await;
    assert!(env.find_batch(batch).await.is_some());
    env.advance(2 * HOUR);
    assert_eq!(env.purge().await, 1);
    assert!(env.find_batch(batch).await.is_none());
}

/// PUR-3, G19: empty batches that are kept for what is around them are not in the way of others.
pub async fn empty_batches_that_stay_are_not_in_the_way(env: Env) {
    let outer = BatchId::new();
    env.submit(batch_of(outer, Starts::AtOnce, vec![member(outer)])).await;
    let inside = || {
        let batch = NewBatch {
            parent: Some(outer),
            starts: Starts::AtOnce,
            ..NewBatch::new(BatchId::new(), "inside")
        };
        Submission { batch: Some(batch), jobs: Vec::new() }
    };
    let nested: Vec<Submission> = (0..230).map(|_| inside()).collect();
    env.submit_all(&nested).await;
    env.advance(1);
    let alone = BatchId::new();
    env.submit(batch_of(alone, Starts::AtOnce, Vec::new())).await;
    env.advance(25 * 3600);
    for _ in 0..5 {
        env.purge().await;
    }
    assert!(env.find_batch(alone).await.is_none(), "nothing needs it");
    assert_eq!(env.batch(outer).await.counts.total, 231);
    for batch in nested.iter().filter_map(|it| it.batch.as_ref()) {
        assert!(env.find_batch(batch.id).await.is_some(), "what is around it has not completed");
    }
}

/// PUR-1, G14: the place of a job that is gone is not given again, whatever is left.
pub async fn the_place_of_what_is_gone_is_not_given_again(env: Env) {
    let mut server = env.claimer("s").await;
    let mut run = async |env: &Env, key: &str, keep: Keep| {
        let id = env.add(NewRecord { id: JobId::from_key("k", key), ..job() }).await;
        let mut settle = Settle::new(server.claim_one().await.lease, Ending::Succeeded);
        settle.retention = Retention::all(keep);
        server.settle_with(settle).await;
        env.record(id).await.sequence
    };
    for round in ["1", "2"] {
        let last = run(&env, &format!("goes {round}"), Keep::For(seconds(3600))).await;
        env.advance(2 * HOUR);
        assert_eq!(env.purge().await, 1);
        // A connection of its own has to find it, too. What it adds stands in the second round in front
        // of what goes.
        let next = run(&env.second().await, &format!("stays {round}"), Keep::Forever).await;
        assert!(next > last, "{next} after {last}");
    }
}

/// PUR-1, LOG-7, G11: with a job goes all that belongs to it, and a key that it once held stays with
/// whom it belongs to now.
pub async fn with_a_job_goes_all_that_belongs_to_it(env: Env) {
    use jobkit_core::unique::OnConflict;
    let first = env.add(keyed("key", OnConflict::Reject)).await;
    let mut server = env.claimer("s").await;
    let lease = server.claim_one().await.lease;
    let value = payload("\"memo\"");
    env.storage.put_memo(&env.call(), lease, "m", &value).await.expect("keeps");
    env.storage.put_checkpoint(&env.call(), lease, &value).await.expect("keeps");
    server.settled(lease, Ending::Succeeded).await;
    env.advance(25 * HOUR);
    // Submitted anew, with an id that carries no time.
    let again = NewRecord { id: JobId::from_key("k", "again"), ..keyed("key", OnConflict::Reject) };
    let second = env.add(again).await;
    assert_eq!(env.purge().await, 1);
    assert!(env.find(first).await.is_none());
    assert_eq!(env.storage.memo(first, "m").await.expect("reads"), None);
    assert_eq!(env.storage.checkpoint(first).await.expect("reads"), None);
    assert!(env.storage.read_log(first, None, 0, 10).await.expect("reads").lines.is_empty());
    let third =
        NewRecord { id: JobId::from_key("k", "3"), ..keyed("key", OnConflict::ReturnExisting) };
    let answers = env.submit(Submission::one(third)).await;
    assert_eq!(answers, [JobSubmitted::Existing(second)]);
}

/// One step of purge after the other, each of at most `max` jobs; how many went.
async fn purge_in_steps(env: &Env, max: usize) -> usize {
    let mut done = 0;
    for _ in 0..1000 {
        let request = StepRequest { max };
        let step = env.storage.purge_expired(&env.call(), request).await.expect("purges");
        assert!(step.done <= max, "{step:?}");
        done += step.done;
        if !step.more {
            return done;
        }
    }
    panic!("purges never end");
}

/// Jobs that end one after the other, a second apart, in the order of their submission.
async fn end_in_turn(env: &Env, jobs: Vec<NewRecord>, ending: Ending) -> Vec<JobId> {
    let ids = env.add_many(jobs).await;
    let mut server = env.claimer("in-turn").await;
    for id in &ids {
        env.advance(1);
        assert_eq!(server.run_one(ending).await, *id);
    }
    ids
}

async fn are_there(env: &Env, ids: &[JobId]) -> Vec<bool> {
    let found = env.storage.jobs(ids).await.expect("reads");
    found.iter().map(Option::is_some).collect()
}

/// PUR-6, G2, G19: beyond the number the oldest finished jobs go, in bounded steps, whatever their
/// retention says. Each state has the number for itself, and what has not finished does not count.
pub async fn beyond_the_number_the_oldest_finished_go(env: Env) {
    let Some(env) = env.bounded(5).await else { return };
    let waiting = env.add(NewRecord { start: Start::After(seconds(9_000_000)), ..job() }).await;
    let failed = end_in_turn(&env, jobs(5), Ending::Failed(Reason::OutOfAttempts)).await;
    let deleted = end_in_turn(&env, jobs(3), Ending::Deleted(Reason::Cancelled)).await;
    let first = end_in_turn(&env, jobs(5), Ending::Succeeded).await;
    // Many are there, but of no state more than five.
    assert_eq!(purge_in_steps(&env, 2).await, 0);
    let lanes = ["k", "other", "third"].iter().cycle();
    let ids = env.add_many(lanes.take(12).map(|kind| job_of(kind)).collect()).await;
    let mut server = env.claimer("mixed").await.kinds(&["k", "other", "third"]);
    for (n, claimed) in server.claim(12).await.iter().enumerate() {
        env.advance(1);
        assert_eq!(claimed.lease.job, ids[n]);
        let mut settle = Settle::new(claimed.lease, Ending::Succeeded);
        let keep = if n < 4 { Keep::Forever } else { Keep::For(seconds(7200)) };
        settle.retention = Retention::all(keep);
        server.settle_with(settle).await;
    }
    let seventeen = [first, ids].concat();
    let step =
        env.storage.purge_expired(&env.call(), StepRequest { max: 5 }).await.expect("purges");
    assert!((1..=5).contains(&step.done) && step.more, "{step:?}");
    let left = are_there(&env, &seventeen).await;
    assert!(left.is_sorted() && !left[0], "the oldest go first: {left:?}");
    assert_eq!(step.done + purge_in_steps(&env, 5).await, 12);
    assert_eq!(are_there(&env, &seventeen).await, [vec![false; 12], vec![true; 5]].concat());
    for kept in [&failed[..], &deleted[..], &[waiting]] {
        assert!(are_there(&env, kept).await.iter().all(|there| *there));
    }
    assert_eq!(purge_in_steps(&env, 5).await, 0);
    // Failed jobs have no room without end either, and one that is requeued counts no more.
    let later = end_in_turn(&env, jobs(2), Ending::Failed(Reason::OutOfAttempts)).await;
    assert_eq!(env.requeue(later[1]).await, StateName::Enqueued);
    assert_eq!(purge_in_steps(&env, 5).await, 1);
    assert_eq!(are_there(&env, &failed).await, [false, true, true, true, true]);
    // Time goes on to count as well.
    env.advance(2 * HOUR);
    assert_eq!(purge_in_steps(&env, 5).await, 5);
}

/// PUR-6, PUR-3, G9: beyond the number, too, members are kept until the continuations of their batch have
/// finished. They push out nobody else, and go within a minute.
pub async fn beyond_the_number_what_a_batch_needs_stays(env: Env) {
    let Some(env) = env.bounded(3).await else { return };
    let batch = BatchId::new();
    let members: Vec<NewRecord> = (0..9).map(|_| member(batch)).collect();
    let ids: Vec<JobId> = members.iter().map(|job| job.id).collect();
    env.submit(batch_of(batch, Starts::AtOnce, members)).await;
    let then = env.add(after_batch(batch, On::Success)).await;
    let mut server = env.claimer("s").await;
    for id in &ids {
        assert_eq!(server.run_one(Ending::Succeeded).await, *id);
    }
    let urgent = || NewRecord { priority: 9, ..job() };
    let others = end_in_turn(&env, (0..3).map(|_| urgent()).collect(), Ending::Succeeded).await;
    assert_eq!(purge_in_steps(&env, 2).await, 0, "nobody is pushed out");
    let newer = end_in_turn(&env, (0..2).map(|_| urgent()).collect(), Ending::Succeeded).await;
    assert_eq!(purge_in_steps(&env, 1).await, 2);
    assert_eq!(are_there(&env, &others).await, [false, false, true]);
    assert!(are_there(&env, &[&ids[..], &newer].concat()).await.iter().all(|there| *there));
    assert_eq!(server.run_one(Ending::Succeeded).await, then);
    env.advance(61);
    let done = purge_in_steps(&env, 2).await;
    assert!(done >= 10, "{done}");
    assert!(are_there(&env, &ids).await.iter().all(|there| !there));
    assert!(env.find_batch(batch).await.is_none());
    assert_eq!(
        are_there(&env, &[others[2], newer[0], newer[1], then]).await,
        [false, true, true, true]
    );
}

/// PUR-6, PUR-2, G8: what waits for a job that goes beyond the number is decided in the same step.
pub async fn beyond_the_number_open_edges_are_decided(env: Env) {
    let Some(env) = env.bounded(1).await else { return };
    let parents = end_in_turn(&env, jobs(2), Ending::Failed(Reason::OutOfAttempts)).await;
    let children = [after(parents[0], On::Success), after(parents[1], On::Success)];
    let children = env.add_many(children.into()).await;
    env.advance(1);
    assert_eq!(purge_in_steps(&env, 10).await, 1);
    assert_eq!(are_there(&env, &parents).await, [false, true]);
    assert_eq!(env.states(&children).await, [StateName::Deleted, StateName::Awaiting]);
}
