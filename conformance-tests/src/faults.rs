//! Lost answers: every call may be repeated, and applies no effect twice.

use std::future::Future;
use std::task::Poll;

use jobkit_core::batch::Starts;
use jobkit_core::edge::On;
use jobkit_core::record::NewRecord;
use jobkit_core::state::{Reason, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{
    Action, Change, ChangeOutcome, ChangeRequest, Guard, JobSubmitted, Renewal, Settle,
    SettleAnswer, SettleRequest, Submission, SubmitRequest, Submitted,
};
use jobkit_core::{BatchId, OperationId};

use crate::fixtures::*;

/// Polls a call this many times and then drops it: whether it was applied stays open, as when its answer
/// is lost.
async fn lose<F: Future>(polls: usize, call: F) {
    let mut call = Box::pin(call);
    for _ in 0..polls {
        let done = std::future::poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await;
        if done.is_ready() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// SUB-2, SUB-4, G2, G3: a submit whose answer was lost is repeated and makes every job once.
pub async fn a_lost_submit_is_repeated_without_a_second_job(env: Env) {
    let mut all = Vec::new();
    for round in 0..40 {
        let parent = job();
        let flow = vec![after(parent.id, On::Success), parent, job()];
        all.extend(flow.iter().map(|job| job.id));
        let submissions = [Submission::flow(flow)];
        let request = SubmitRequest { submissions: &submissions };
        lose(round % 4, env.storage.submit(&env.call(), request)).await;
        let answers = env.submit(submissions[0].clone()).await;
        let created = answers.iter().filter(|it| matches!(it, JobSubmitted::Created(_))).count();
        assert!(created == 0 || created == 3, "a part was stored: {answers:?}");
    }
    let mut server = env.claimer("s").await;
    assert_eq!(server.run_all(Ending::Succeeded).await, all.len());
    for id in all {
        assert_eq!(env.record(id).await.head.fence, 1);
    }
}

/// CLM-5, REN-2, G21: a claim whose answer was lost is repeated with the same jobs, or given back by the
/// next renew; none is lost.
pub async fn a_lost_claim_loses_no_job(env: Env) {
    let ids = env.add_many(jobs(60)).await;
    let mut server = env.claimer("s").await;
    let mut ran = Vec::new();
    for round in 0..60 {
        server.sequence += 1;
        let request = server.request(server.sequence, 2);
        lose(round % 4, env.storage.claim(&env.call(), &request)).await;
        if round % 3 == 0 {
            // The server forgets it, and goes on.
            let last = server.sequence;
            server.renew(1..=last, Vec::new()).await;
            continue;
        }
        for job in server.repeat_claim(2).await {
            server.settled(job.lease, Ending::Succeeded).await;
            ran.push(job.lease.job);
        }
    }
    let last = server.sequence;
    server.renew(1..=last, Vec::new()).await;
    while let Some(job) = server.claim(1).await.pop() {
        server.settled(job.lease, Ending::Succeeded).await;
        ran.push(job.lease.job);
    }
    ran.sort_unstable();
    let mut expected = ids;
    expected.sort_unstable();
    assert_eq!(ran, expected);
}

/// SET-2, G6, G7: a settle whose answer was lost is repeated and applied once, with everything that
/// belongs to it.
pub async fn a_lost_settle_is_applied_once(env: Env) {
    let mut server = env.claimer("s").await;
    for round in 0..40 {
        let batch = BatchId::new();
        let first = NewRecord { limits: limited("l", 1).limits, ..member(batch) };
        let id = first.id;
        env.submit(batch_of(batch, Starts::AtOnce, vec![first, member(batch)])).await;
        let child = env.add(after(id, On::Success)).await;
        let claimed = server.claim(2).await;
        assert_eq!(claimed[0].lease.job, id);
        let mut settle = Settle::new(claimed[0].lease, Ending::Succeeded);
        settle.result = Some(payload("1"));
        let settles = vec![settle, Settle::new(claimed[1].lease, RETRY_NOW)];
        let request = SettleRequest { server: server.server.clone(), settles };
        lose(round % 4, env.storage.settle(&env.call(), &request)).await;
        for _ in 0..2 {
            for answer in env.storage.settle(&env.call(), &request).await.expect("settles") {
                let applied =
                    matches!(answer, SettleAnswer::Settled(_) | SettleAnswer::AlreadyApplied);
                assert!(applied, "{answer:?}");
            }
        }
        let details = env.details(id).await;
        assert_eq!(details.record.state(), StateName::Succeeded);
        assert_eq!(details.history.applied(), 3);
        assert_eq!(env.record(claimed[1].lease.job).await.head.failures, 1);
        let counts = env.batch(batch).await.counts;
        assert_eq!((counts.succeeded, counts.open()), (1, 1));
        assert_eq!(env.usage("l").await.0, 0);
        assert_eq!(env.details(child).await.history.applied(), 2);
        assert_eq!(server.run_all(Ending::Succeeded).await, 2);
    }
}

/// CHG-3, G6: a change whose answer was lost is repeated and applied once.
pub async fn a_lost_change_is_applied_once(env: Env) {
    for round in 0..40 {
        let id = env.add(job()).await;
        env.delete(id).await;
        let change = Change {
            operation: OperationId::new(),
            job: id,
            guard: Guard::State(StateName::Deleted),
            action: Action::Requeue { run_at: None },
        };
        let changes = [change.clone()];
        let request = ChangeRequest { changes: &changes, actor: None };
        lose(round % 4, env.storage.change_state(&env.call(), request)).await;
        for _ in 0..2 {
            let outcome = env.change_as(change.clone()).await;
            let applied =
                matches!(outcome, ChangeOutcome::Changed { .. } | ChangeOutcome::AlreadyApplied);
            assert!(applied, "{outcome:?}");
        }
        let record = env.record(id).await;
        assert_eq!((record.state(), record.head.run), (StateName::Enqueued, 1));
    }
}

/// REN-1, RES-1, PRO-1: a renew, a rescue and a promotion whose answers were lost are repeated without
/// another effect.
pub async fn lost_renewals_rescues_and_promotions_are_repeated(env: Env) {
    let mut server = env.claimer("s").await;
    for round in 0..20 {
        let id = env.add(job()).await;
        let lease = server.claim_one().await.lease;
        let request = jobkit_core::storage::RenewRequest {
            incarnation: server.incarnation,
            sequences: server.sequence..=server.sequence,
            held: vec![Renewal { lease, started: true }],
            lease: LEASE,
        };
        lose(round % 4, env.storage.renew(&env.call(), &request)).await;
        let renewed = env.storage.renew(&env.call(), &request).await.expect("renews");
        assert!(renewed.given_back.is_empty());
        env.advance(60);
        let seen = env.expired().await;
        assert_eq!(seen.len(), 1);
        let request = jobkit_core::storage::RescueRequest {
            seen: seen.clone(),
            crash_limit: CRASH_LIMIT,
            max: 10,
        };
        lose(round % 4, env.storage.rescue_expired(&env.call(), &request)).await;
        env.rescue(seen.clone()).await;
        assert!(env.rescue(seen).await.rescued.is_empty());
        let head = env.record(id).await.head;
        assert_eq!((head.crashes, head.fence), (1, 1));
        assert_eq!(server.run_one(Ending::Retry { delay: seconds(5) }).await, id);
        env.advance(5);
        let step = jobkit_core::storage::StepRequest { max: 10 };
        lose(round % 4, env.storage.promote_due(&env.call(), step)).await;
        env.promote().await;
        let details = env.details(id).await;
        assert_eq!(details.record.state(), StateName::Enqueued);
        assert_eq!(details.history.applied(), 6);
        assert_eq!(server.run_one(Ending::Succeeded).await, id);
    }
}

/// REC-4, G10: a fire whose answer was lost is repeated, and there is one job for the occurrence.
pub async fn a_lost_fire_creates_one_job(env: Env) {
    use jobkit_core::recurring::{JobTemplate, NextRun, Overlap, RecurringSpec};
    use jobkit_core::storage::{Fire, FireJob, FireOutcome, SaveRecurring};
    let at = env.now();
    let next = |n: u64| {
        let at = at.plus(seconds(60 * n));
        NextRun { nominal_at: at, due_at: at }
    };
    let spec = RecurringSpec {
        id: "a".into(),
        schedule: jobkit_core::Schedule::every(seconds(60)).expect("a valid interval"),
        time_zone: jobkit_core::TimeZone::UTC,
        misfire: jobkit_core::recurring::Misfire::RunOnce,
        overlap: Overlap::Allow,
        jitter: seconds(0),
        starts_at: None,
        ends_at: None,
        job: JobTemplate::from_record(&job()).expect("can recur"),
    };
    let save = SaveRecurring { spec, next: Some(next(0)), if_etag: None };
    env.storage.save_recurring(&env.call(), &[save]).await.expect("saves");
    let saved = env.storage.recurring("a").await.expect("reads").expect("is saved");
    let mut fired = 0;
    for round in 0..40 {
        let nominal_at = next(round).nominal_at;
        let fires = [Fire {
            id: "a".into(),
            expected: nominal_at,
            etag: saved.etag,
            skipped: Vec::new(),
            job: Some(FireJob { nominal_at, job: job(), overlap: Overlap::Allow }),
            next: Some(next(round + 1)),
        }];
        let polls = usize::try_from(round % 4).expect("is small");
        lose(polls, env.storage.fire_recurring(&env.call(), &fires)).await;
        for _ in 0..2 {
            let outcomes = env.storage.fire_recurring(&env.call(), &fires).await.expect("fires");
            assert!(
                matches!(outcomes[0], FireOutcome::Fired(_) | FireOutcome::Stale),
                "{outcomes:?}"
            );
        }
        fired += 1;
    }
    let runs = env.storage.recurring_runs("a", 100).await.expect("reads");
    assert_eq!(runs.len(), fired);
    assert_eq!(env.claimer("s").await.claim(500).await.len(), fired);
}

/// SWP-1, G7: a sweep that dies between two steps is completed by the next, and nothing is done twice.
pub async fn a_sweep_that_dies_is_completed_by_the_next(env: Env) {
    let parent = env.add(job()).await;
    let children = env.add_many((0..400).map(|_| after(parent, On::Success)).collect()).await;
    let mut server = env.claimer("s").await;
    server.run_one(Ending::Succeeded).await;
    for round in 0..30 {
        let step = jobkit_core::storage::StepRequest { max: 7 };
        lose(round % 4, env.storage.sweep(&env.call(), step)).await;
    }
    env.sweep().await;
    for child in children {
        let details = env.details(child).await;
        assert_eq!(details.record.state(), StateName::Enqueued);
        assert_eq!(details.history.applied(), 2);
    }
}

/// SUB-4, SET-3, G20: input that is refused changes nothing, in whatever company it comes.
pub async fn refused_items_leave_no_trace_in_a_flight(env: Env) {
    let id = env.add(job()).await;
    let mut server = env.claimer("s").await;
    let lease = server.claim_one().await.lease;
    let mut large = Settle::new(lease, Ending::Succeeded);
    large.result = Some(vec![b'1'; jobkit_core::bounds::RESULT_BYTES + 1].into());
    let good = job();
    let submissions =
        [Submission::default(), Submission::one(good.clone()), Submission::flow(vec![job(); 2])];
    let twice = submissions[2].jobs[0].id;
    let outcomes = env.submit_all(&submissions).await;
    assert!(matches!(outcomes[0], Submitted::Refused(_)));
    assert!(matches!(outcomes[1], Submitted::Created(_)));
    assert!(matches!(outcomes[2], Submitted::Refused(_)));
    assert!(env.find(twice).await.is_none());
    let before = env.details(id).await;
    assert!(matches!(server.settle_with(large).await, SettleAnswer::Refused(_)));
    assert_eq!(env.details(id).await, before);
    let failed = Ending::Failed(Reason::ResultTooLarge);
    assert_eq!(server.settled(lease, failed).await, StateName::Failed);
    assert_eq!(server.claim_ids(10).await, [good.id]);
}

/// SWP-4: without work a sweep says that nothing is left.
pub async fn a_sweep_without_work_says_so(env: Env) {
    env.add_many(jobs(50)).await;
    env.claimer("s").await.run_all(Ending::Succeeded).await;
    for _ in 0..3 {
        let step = env.sweep_once(100).await;
        assert_eq!((step.done, step.more), (0, false));
    }
}
