//! Claiming, holding, settling, promoting and rescuing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jobkit_core::bounds;
use jobkit_core::ids::Incarnation;
use jobkit_core::record::{Lease, NewRecord, Progress};
use jobkit_core::refusal::Refusal;
use jobkit_core::state::{Keep, Reason, Retention, Start, State, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{
    Action, Level, LogLevel, LogLine, OtherPushes, PauseTarget, QueueQuota, RenewAnswer, Renewal,
    RescueRequest, Settle, SettleAnswer, SettleRequest, StepRequest, WakeUp, WakeUpFilter,
};
use jobkit_core::{ErrorKind, JobId};

use crate::fixtures::*;

/// CLM-1, G4: of many claimers on two connections every job is claimed by exactly one.
pub async fn many_claimers_get_each_job_once(env: Env) {
    const CLAIMERS: usize = 8;
    const JOBS: usize = 4_000;
    let expected = env.add_many(jobs(JOBS)).await;
    let other = env.second().await;
    let left = Arc::new(AtomicUsize::new(JOBS));
    let mut tasks = Vec::new();
    for i in 0..CLAIMERS {
        let env = if i % 2 == 0 { &env } else { &other };
        let mut server = env.claimer(&format!("s{i}")).await;
        let left = left.clone();
        tasks.push(tokio::spawn(async move {
            let mut mine = Vec::new();
            while left.load(Ordering::SeqCst) > 0 {
                let claimed = server.claim(7 + i).await;
                left.fetch_sub(claimed.len(), Ordering::SeqCst);
                mine.extend(claimed.iter().map(|job| job.lease.job));
                let settles = claimed.iter().map(|job| Settle::new(job.lease, Ending::Succeeded));
                for answer in server.settle_all(settles.collect()).await {
                    assert_eq!(answer, SettleAnswer::Settled(StateName::Succeeded));
                }
                tokio::task::yield_now().await;
            }
            mine
        }));
    }
    let mut claims: HashMap<JobId, usize> = HashMap::new();
    for job in join(tasks).await.into_iter().flatten() {
        *claims.entry(job).or_default() += 1;
    }
    assert_eq!(claims.len(), JOBS);
    assert!(claims.values().all(|count| *count == 1), "a job was claimed twice");
    let states = env.states(&expected).await;
    assert!(states.iter().all(|state| *state == StateName::Succeeded));
}

/// CLM-1, G4: a job that is held is not claimed by anyone else, its holder included.
pub async fn claim_skips_jobs_leased_by_another_worker(env: Env) {
    env.add(job()).await;
    let mut first = env.claimer("first").await;
    let mut second = env.claimer("second").await;
    first.claim_one().await;
    assert!(second.claim(10).await.is_empty());
    assert!(first.claim(10).await.is_empty());
    // Expiry only permits rescue: it does not make the job claimable.
    env.advance(60);
    assert!(second.claim(10).await.is_empty());
}

/// CLM-2, G14: claims go by priority, 9 first, and then by the order of submission.
pub async fn claims_go_by_priority_and_then_by_age(env: Env) {
    let mut expected = Vec::new();
    for i in 0..60_u8 {
        let priority = i % 10 * 7 % 10;
        let id = env.add(NewRecord { priority, ..job() }).await;
        expected.push((9 - priority, i, id));
    }
    expected.sort_unstable();
    let mut server = env.claimer("s").await;
    let mut claimed = Vec::new();
    for size in [1, 5, 20, 100] {
        claimed.extend(server.claim_ids(size).await);
    }
    assert_eq!(claimed, expected.iter().map(|it| it.2).collect::<Vec<_>>());
}

/// CLM-2: queues are served in the order named, each up to its quota, all up to the claim's maximum.
pub async fn queues_are_served_in_order_within_their_quotas(env: Env) {
    let mut jobs = Vec::new();
    for queue in ["a", "b", "c"] {
        for _ in 0..4 {
            jobs.push(NewRecord { priority: if queue == "c" { 9 } else { 5 }, ..job_in(queue) });
        }
    }
    env.add_many(jobs).await;
    let mut server = env.claimer("s").await;
    let quota = |queue, max| QueueQuota { queue: name(queue), max };
    server.queues = vec![quota("b", 2), quota("a", 3), quota("none", 5), quota("c", 10)];
    let mut take = async |max| {
        let claimed = server.claim(max).await;
        claimed.iter().map(|job| job.queue.as_str().to_owned()).collect::<Vec<_>>().concat()
    };
    assert_eq!(take(7).await, "bbaaacc");
    assert_eq!(take(100).await, "bbacc");
    assert_eq!(take(100).await, "");
}

/// CLM-3: a kind that was not named is never taken, however much of it stands in front, and a queue
/// that was not named neither.
pub async fn a_kind_that_was_not_named_is_never_taken(env: Env) {
    let mut foreign = Vec::new();
    for _ in 0..1_500 {
        foreign.push(NewRecord { priority: 9, ..job_of("foreign") });
    }
    env.add_many(foreign).await;
    let mine = env.add(job()).await;
    let newer = env.add(job_of("k@2")).await;
    env.add(job_in("elsewhere")).await;
    let mut server = env.claimer("s").await;
    assert_eq!(server.claim_ids(10).await, [mine]);
    assert!(server.claim(10).await.is_empty());
    let mut both = env.claimer("both").await.kinds(&["k@2", "k", "unknown"]);
    assert_eq!(both.claim_ids(10).await, [newer]);
}

/// CLM-4, G5: each claim of a job raises its fence by one, whatever happened between.
pub async fn each_claim_raises_the_fence_by_one(env: Env) {
    let id = env.add(job()).await;
    let mut server = env.claimer("s").await;
    let mut expected = 0;
    let mut claim = async || {
        let lease = server.claim_one().await.lease;
        expected += 1;
        assert_eq!((lease.job, lease.fence), (id, expected));
        (server.clone(), lease)
    };
    for ending in [RETRY_NOW, Ending::GivenBack, Ending::Snoozed { delay: Duration::ZERO }] {
        let (server, lease) = claim().await;
        server.settled(lease, ending).await;
    }
    claim().await;
    env.advance(60);
    assert_eq!(env.rescue_all().await, [(id, StateName::Enqueued)]);
    let (server, lease) = claim().await;
    server.settled(lease, Ending::Succeeded).await;
    env.requeue(id).await;
    claim().await;
    assert_eq!(env.record(id).await.head.fence, 6);
}

/// CLM-5, G6: repeating a claim answers the same leases and takes nothing more.
pub async fn a_repeated_claim_answers_the_same_leases(env: Env) {
    env.add_many(jobs(20)).await;
    let mut server = env.claimer("s").await;
    let leases = |jobs: &[jobkit_core::storage::ClaimedJob]| -> Vec<Lease> {
        jobs.iter().map(|job| job.lease).collect()
    };
    let first = server.claim(5).await;
    for max in [5, 10] {
        let again = server.repeat_claim(max).await;
        assert_eq!(leases(&again), leases(&first));
        assert_eq!(again[0].args, first[0].args);
    }
    assert_eq!(server.claim(20).await.len(), 15);
}

/// CLM-5: a repeated claim leaves out what is not held any more.
pub async fn a_repeated_claim_leaves_out_what_was_settled(env: Env) {
    env.add_many(jobs(4)).await;
    let mut server = env.claimer("s").await;
    let claimed = server.claim(3).await;
    server.settled(claimed[1].lease, Ending::Succeeded).await;
    let again = server.repeat_claim(3).await;
    let fences: Vec<_> = again.iter().map(|job| job.lease).collect();
    assert_eq!(fences, [claimed[0].lease, claimed[2].lease]);
    // A job that came back is not part of the old claim, even when the same server holds it.
    server.settled(claimed[0].lease, Ending::GivenBack).await;
    let taken = server.claim_one().await;
    assert_eq!(taken.lease.job, claimed[0].lease.job);
    let old = server.env.storage.claim(&server.request(1, 3)).await.expect("claims").jobs;
    assert_eq!(old.iter().map(|job| job.lease).collect::<Vec<_>>(), [claimed[2].lease]);
}

/// CLM-8: a job that had to be started by an instant that has passed becomes Deleted instead; a retry
/// of it does not.
pub async fn a_job_not_started_in_time_is_deleted(env: Env) {
    let by = |at| NewRecord { start_by: Some(at), ..job() };
    let late = env.add(by(env.after(10))).await;
    let started = env.add(by(env.after(20))).await;
    let plain = env.add(job()).await;
    env.advance(10);
    let mut server = env.claimer("s").await;
    let claimed = server.claim(1).await.remove(0);
    assert_eq!(claimed.lease.job, started);
    let record = env.record(late).await;
    assert_eq!(
        (record.state(), record.head.reason),
        (StateName::Deleted, Reason::NotStartedInTime)
    );
    assert_eq!((record.head.fence, record.expires_at.is_some()), (0, true));
    server.settled(claimed.lease, RETRY_NOW).await;
    env.advance(60);
    assert_eq!(server.claim_ids(10).await, [started, plain]);
}

/// CLM-9: a record that cannot be decoded becomes Failed, and its neighbours are claimed.
pub async fn an_unreadable_record_fails_and_its_neighbours_are_claimed(env: Env) {
    let ids = env.add_many(jobs(3)).await;
    if !env.make_unreadable(ids[1]).await {
        // The backend cannot damage a record: its own tests have to.
        return;
    }
    let mut server = env.claimer("s").await;
    assert_eq!(server.claim_ids(10).await, [ids[0], ids[2]]);
    let records = env.storage.jobs(&[ids[1]]).await;
    if let Ok(records) = records {
        let record = records[0].as_ref().expect("it is kept");
        assert_eq!((record.state(), record.head.reason), (StateName::Failed, Reason::Unreadable));
    }
    assert!(server.claim(10).await.is_empty());
}

/// CLM-10: a server that is not announced cannot claim.
pub async fn a_server_that_is_not_announced_cannot_claim(env: Env) {
    let id = env.add(job()).await;
    let mut server = env.stranger("s");
    let request = server.request(1, 10);
    let error = env.storage.claim(&request).await.expect_err("is refused");
    assert_eq!(error.kind(), ErrorKind::NotAnnounced);
    assert_eq!(env.state(id).await, StateName::Enqueued);
    server.announce().await;
    assert_eq!(server.claim_ids(10).await, [id]);
}

/// CLM-11, RES-2: of a claim the first jobs count as started, the others when a renew says so; only
/// those that have started count a crash.
pub async fn only_attempts_that_have_started_count_a_crash(env: Env) {
    let ids = env.add_many(jobs(3)).await;
    let mut server = env.claimer("s").await.started(1);
    let claimed = server.claim(3).await;
    let held = [(0, true), (1, true), (2, false)];
    let held = held.map(|(i, started)| Renewal { lease: claimed[i].lease, started });
    server.renew(1..=1, held.to_vec()).await;
    env.advance(60);
    assert_eq!(env.rescue_all().await.len(), 3);
    let mut crashes = Vec::new();
    for id in &ids {
        crashes.push(env.record(*id).await.head.crashes);
    }
    assert_eq!(crashes, [1, 1, 0]);
    // Without a renew only the first one counts.
    server.claim(3).await;
    env.advance(60);
    env.rescue_all().await;
    let mut crashes = Vec::new();
    for id in &ids {
        crashes.push(env.record(*id).await.head.crashes);
    }
    assert_eq!(crashes, [2, 1, 0]);
}

/// SET-1, G5: only the holder settles; a wrong fence, a wrong life, a job that is not held and one that
/// does not exist answer `LeaseLost` and change nothing.
pub async fn only_the_holder_settles(env: Env) {
    let ids = env.add_many(jobs(2)).await;
    let mut server = env.claimer("s").await;
    let lease = server.claim_one().await.lease;
    let waiting = Lease { job: ids[1], fence: 0, ..lease };
    for wrong in [
        Lease { fence: lease.fence + 1, ..lease },
        Lease { fence: lease.fence - 1, ..lease },
        Lease { incarnation: Incarnation::new(), ..lease },
        Lease { job: JobId::new(), ..lease },
        waiting,
    ] {
        let before = (env.details(ids[0]).await, env.details(ids[1]).await);
        for ending in [Ending::Succeeded, RETRY_NOW, Ending::GivenBack] {
            assert_eq!(server.settle(wrong, ending).await, SettleAnswer::LeaseLost, "{wrong:?}");
        }
        assert_eq!((env.details(ids[0]).await, env.details(ids[1]).await), before);
    }
    assert_eq!(server.settled(lease, Ending::Succeeded).await, StateName::Succeeded);
}

/// SET-2, G6: a repeated settle answers `AlreadyApplied` until the job is claimed again, then
/// `LeaseLost`; nothing is applied twice.
pub async fn a_repeated_settle_is_applied_once(env: Env) {
    let id = env.add(job()).await;
    let mut server = env.claimer("s").await;
    let lease = server.claim_one().await.lease;
    assert_eq!(server.settled(lease, RETRY_NOW).await, StateName::Enqueued);
    let before = env.details(id).await;
    for ending in [RETRY_NOW, Ending::Succeeded] {
        assert_eq!(server.settle(lease, ending).await, SettleAnswer::AlreadyApplied);
    }
    assert_eq!(env.details(id).await, before);
    assert_eq!(before.record.head.failures, 1);
    let second = server.claim_one().await.lease;
    assert_eq!(server.settle(lease, Ending::Succeeded).await, SettleAnswer::LeaseLost);
    server.settled(second, Ending::Succeeded).await;
    assert_eq!(server.settle(second, Ending::Succeeded).await, SettleAnswer::AlreadyApplied);
    assert_eq!(server.settle(lease, Ending::Succeeded).await, SettleAnswer::LeaseLost);
    let details = env.details(id).await;
    assert_eq!(details.history.applied(), 5);
}

/// SET-3, G7: state, counters, history and retention change in one step; no reader sees a part.
pub async fn a_settle_changes_everything_in_one_step(env: Env) {
    let other = env.second().await;
    let mut server = env.claimer("s").await;
    for _ in 0..30 {
        let id = env.add(job()).await;
        let lease = server.claim_one().await.lease;
        let settling = server.clone();
        let mut settle = Settle::new(lease, Ending::Succeeded);
        settle.result = Some(payload("\"done\""));
        settle.retention = Retention::all(Keep::For(seconds(7200)));
        let task = tokio::spawn(async move { settling.settle_with(settle).await });
        loop {
            let details = other.details(id).await;
            let finished = details.record.state() == StateName::Succeeded;
            assert_eq!(details.result.is_some(), finished);
            assert_eq!(details.history.applied(), if finished { 3 } else { 2 });
            assert_eq!(details.record.expires_at, finished.then(|| env.after(7200)));
            assert_eq!(details.record.head.settled.is_some(), finished);
            if finished {
                break;
            }
            tokio::task::yield_now().await;
        }
        task.await.expect("settles");
    }
}

/// SET-3: the outcomes of one call are answered in order, and one that is lost disturbs no other.
pub async fn settles_of_one_call_do_not_disturb_each_other(env: Env) {
    env.add_many(jobs(5)).await;
    let mut server = env.claimer("s").await;
    let claimed = server.claim(5).await;
    let endings = [
        Ending::Succeeded,
        Ending::Retry { delay: seconds(5) },
        Ending::Failed(Reason::Permanent),
        Ending::GivenBack,
        Ending::Deleted(Reason::Deleted),
    ];
    let mut settles: Vec<Settle> =
        claimed.iter().zip(endings).map(|(job, ending)| Settle::new(job.lease, ending)).collect();
    let stale = Lease { fence: 99, ..claimed[0].lease };
    settles.insert(2, Settle::new(stale, Ending::Succeeded));
    use SettleAnswer::{LeaseLost, Settled};
    assert_eq!(
        server.settle_all(settles).await,
        [
            Settled(StateName::Succeeded),
            Settled(StateName::Scheduled),
            LeaseLost,
            Settled(StateName::Failed),
            Settled(StateName::Enqueued),
            Settled(StateName::Deleted),
        ]
    );
}

/// SET-4, G4: a holder whose lease expired but who was not rescued still renews and settles.
pub async fn an_expired_lease_that_was_not_rescued_still_settles(env: Env) {
    env.add_many(jobs(2)).await;
    let mut server = env.claimer("s").await;
    let claimed = server.claim(2).await;
    env.advance(3600);
    assert_eq!(env.expired().await.len(), 2);
    assert!(matches!(server.renew_one(claimed[0].lease).await, RenewAnswer::Renewed { .. }));
    // The renew listed one job of the claim alone, so the other was given back.
    assert_eq!(server.settled(claimed[0].lease, Ending::Succeeded).await, StateName::Succeeded);
    let again = server.claim_one().await.lease;
    env.advance(3600);
    assert_eq!(server.settled(again, Ending::Succeeded).await, StateName::Succeeded);
}

/// SET-6: a retry with a delay makes the job Scheduled, one without Enqueued, with failures + 1.
pub async fn a_retry_counts_a_failure_and_waits(env: Env) {
    let id = env.add(job()).await;
    let mut server = env.claimer("s").await;
    let lease = server.claim_one().await.lease;
    let delay = Duration::from_millis(2_500);
    assert_eq!(server.settled(lease, Ending::Retry { delay }).await, StateName::Scheduled);
    let record = env.record(id).await;
    assert_eq!(record.run_at(), Some(env.now().plus(delay)));
    assert_eq!((record.head.failures, record.head.reason), (1, Reason::Retry));
    assert!(server.claim(10).await.is_empty());
    env.advance(3);
    assert_eq!(env.promote().await, 1);
    let claimed = server.claim_one().await;
    assert_eq!((claimed.failures, claimed.lease.fence), (1, 2));
    assert_eq!(server.settled(claimed.lease, RETRY_NOW).await, StateName::Enqueued);
    let record = env.record(id).await;
    assert_eq!((record.head.failures, record.head.attempt()), (2, 3));
    assert_eq!(server.claim_one().await.failures, 2);
}

/// SET-6: a snooze and a give-back consume no attempt, and keep the fence.
pub async fn a_snooze_and_a_give_back_consume_no_attempt(env: Env) {
    let id = env.add(job()).await;
    let mut server = env.claimer("s").await;
    let lease = server.claim_one().await.lease;
    assert_eq!(server.settled(lease, Ending::GivenBack).await, StateName::Enqueued);
    let head = env.record(id).await.head;
    assert_eq!((head.failures, head.crashes, head.fence), (0, 0, 1));
    assert_eq!(head.reason, Reason::GivenBack);
    let lease = server.claim_one().await.lease;
    let snoozed = Ending::Snoozed { delay: seconds(60) };
    assert_eq!(server.settled(lease, snoozed).await, StateName::Scheduled);
    let record = env.record(id).await;
    assert_eq!((record.head.failures, record.head.fence), (0, 2));
    assert_eq!((record.head.reason, record.run_at()), (Reason::Snooze, Some(env.after(60))));
}

/// SET-6, G14: retried, given back and rescued jobs keep their old place.
pub async fn a_job_that_comes_back_keeps_its_place(env: Env) {
    let ids = env.add_many(jobs(5)).await;
    let mut server = env.claimer("s").await;
    let claimed = server.claim(4).await;
    server.settled(claimed[2].lease, RETRY_NOW).await;
    server.settled(claimed[0].lease, Ending::GivenBack).await;
    server.settled(claimed[3].lease, Ending::Retry { delay: seconds(5) }).await;
    env.advance(60);
    env.promote().await;
    env.rescue_all().await;
    assert_eq!(server.claim_ids(10).await, ids);
}

/// SET-10: result, error, log lines and progress are readable when the settle returns.
pub async fn what_comes_with_a_settle_is_readable_at_once(env: Env) {
    let ids = env.add_many(jobs(2)).await;
    let mut server = env.claimer("s").await;
    let claimed = server.claim(2).await;
    let mut done = Settle::new(claimed[0].lease, Ending::Succeeded);
    done.result = Some(payload("{\"total\": 17}"));
    done.duration = Some(Duration::from_micros(1_234_567));
    let mut failed = Settle::new(claimed[1].lease, Ending::Failed(Reason::OutOfAttempts));
    failed.result = Some(payload("\"not kept\""));
    failed.error = Some(error("it broke"));
    server.settle_all(vec![done, failed]).await;
    let details = env.details(ids[0]).await;
    assert_eq!(details.result, Some(payload("{\"total\": 17}")));
    assert_eq!(details.record.duration, Some(Duration::from_micros(1_234_567)));
    let details = env.details(ids[1]).await;
    assert_eq!((details.result, details.record.state()), (None, StateName::Failed));
    assert_eq!(details.record.head.reason, Reason::OutOfAttempts);
    assert_eq!(details.errors[0].detail, error("it broke"));
}

/// SET-10: attempts that are settled together keep each its own duration and retention, however long it
/// took, and in whatever order they come; those between them that still run are not touched.
pub async fn what_is_settled_together_keeps_its_own_duration(env: Env) {
    let ids = env.add_many(jobs(40)).await;
    let mut server = env.claimer("s").await;
    let claimed = server.claim(40).await;
    // From 2 ms to 55 days; and some of which nothing is known.
    let length = |n: usize| match n % 13 {
        12 => None,
        n => Some(Duration::from_micros(7_u64.pow(u32::try_from(n).expect("small") + 4))),
    };
    let retention = |n: usize| match n / 5 {
        2 => Retention { succeeded: Keep::For(seconds(7_200)), ..Retention::default() },
        _ => Retention::default(),
    };
    // Neighbours but for one, then every second one, then those between them, then that one.
    let round = |n: usize| match n {
        16 => 3,
        0..20 => 0,
        _ => 1 + n % 2,
    };
    let at = env.now();
    for now in 0..4 {
        let mut settles: Vec<_> = (0..40)
            .filter(|n| round(*n) == now)
            .map(|n| Settle {
                duration: length(n),
                retention: retention(n),
                ..Settle::new(claimed[n].lease, Ending::Succeeded)
            })
            .collect();
        settles.reverse();
        let middle = settles.len() / 2;
        settles.rotate_left(middle);
        server.settle_all(settles).await;
        for (n, id) in ids.iter().enumerate() {
            let record = env.record(*id).await;
            if round(n) > now {
                assert_eq!((record.state(), record.duration), (StateName::Processing, None));
                continue;
            }
            assert_eq!(record.state(), StateName::Succeeded);
            assert_eq!(record.duration, length(n), "the {n}th");
            let Keep::For(kept) = retention(n).succeeded else { panic!("kept for ever") };
            assert_eq!(record.expires_at, Some(at.plus(kept)), "the {n}th");
        }
    }
}

/// SET-11: of the errors of a job the newest are kept, oldest first.
pub async fn the_newest_errors_of_a_job_are_kept(env: Env) {
    let id = env.add(job()).await;
    let mut server = env.claimer("s").await;
    let attempts = bounds::ATTEMPT_ERRORS as u64 + 8;
    for attempt in 1..=attempts {
        let mut settle = Settle::new(server.claim_one().await.lease, RETRY_NOW);
        settle.error = Some(error(&format!("attempt {attempt}")));
        server.settle_with(settle).await;
    }
    let errors = env.details(id).await.errors;
    let fences: Vec<u64> = errors.iter().map(|error| error.fence).collect();
    assert_eq!(fences, (9..=attempts).collect::<Vec<_>>());
    assert_eq!(errors[0].detail, error("attempt 9"));
}

/// SET-10: log lines and progress that come with a settle are readable when it returns.
pub async fn the_last_log_lines_travel_with_the_settle(env: Env) {
    let id = env.add(job()).await;
    let mut server = env.claimer("s").await;
    let lease = server.claim_one().await.lease;
    let line = LogLine { at: env.now(), level: LogLevel::Warn, text: "the last word".into() };
    let bar = Progress { name: "rows".into(), done: 9, total: 10, message: "almost".into() };
    let mut settle = Settle::new(lease, RETRY_NOW);
    settle.log = vec![line.clone()];
    settle.log_dropped = 4;
    settle.progress = vec![bar.clone()];
    server.settle_with(settle).await;
    let page = env.storage.read_log(id, Some(1), 0, 10).await.expect("reads");
    assert_eq!((page.lines, page.dropped), (vec![(1, line)], 4));
    assert_eq!(env.details(id).await.progress, [bar]);
}

/// SET-3, G20: a result that is too large is refused and changes nothing, so that the job can be
/// settled otherwise.
pub async fn a_result_that_is_too_large_is_refused(env: Env) {
    let id = env.add(job()).await;
    let mut server = env.claimer("s").await;
    let lease = server.claim_one().await.lease;
    let mut settle = Settle::new(lease, Ending::Succeeded);
    settle.result = Some(vec![b'1'; bounds::RESULT_BYTES + 1].into());
    let answer = server.settle_with(settle.clone()).await;
    assert!(
        matches!(&answer, SettleAnswer::Refused(Refusal::Invalid { field: "result", .. })),
        "{answer:?}"
    );
    assert_eq!(env.state(id).await, StateName::Processing);
    settle.result = Some(vec![b'1'; bounds::RESULT_BYTES].into());
    assert_eq!(server.settle_with(settle).await, SettleAnswer::Settled(StateName::Succeeded));
    assert_eq!(env.details(id).await.result.expect("is kept").len(), bounds::RESULT_BYTES);
}

/// SET-3, CLM-1: settling and claiming in one call do what the two calls do, also one after the other
/// where they are not one step.
pub async fn settle_and_claim_does_what_both_do(env: Env) {
    let ids = env.add_many(jobs(4)).await;
    let mut server = env.claimer("s").await;
    let first = server.claim(2).await;
    let settles = first.iter().map(|job| Settle::new(job.lease, RETRY_NOW)).collect();
    let settle = SettleRequest { server: server.server.clone(), settles, now: env.at() };
    let claim = server.request(2, 3);
    let (answers, claimed) =
        env.storage.settle_and_claim(&settle, &claim).await.expect("settles and claims");
    assert_eq!(answers, vec![SettleAnswer::Settled(StateName::Enqueued); 2]);
    // What was just settled is claimable again, in its old place.
    let claimed: Vec<_> = claimed.jobs.iter().map(|job| (job.lease.job, job.lease.fence)).collect();
    assert_eq!(claimed, [(ids[0], 2), (ids[1], 2), (ids[2], 1)]);
    let (answers, again) =
        env.storage.settle_and_claim(&settle, &claim).await.expect("settles and claims");
    assert_eq!(answers, [SettleAnswer::LeaseLost, SettleAnswer::LeaseLost]);
    let again: Vec<_> = again.jobs.iter().map(|job| (job.lease.job, job.lease.fence)).collect();
    assert_eq!(again, claimed);
}

/// REN-1, G5: listed leases that are held get the new expiry; others are told that they are lost.
pub async fn a_renew_extends_what_is_held_and_tells_what_is_lost(env: Env) {
    env.add_many(jobs(3)).await;
    let mut server = env.claimer("s").await;
    let claimed = server.claim(3).await;
    server.settled(claimed[2].lease, Ending::Succeeded).await;
    env.advance(20);
    let stale = Lease { fence: 7, ..claimed[0].lease };
    let foreign = Lease { incarnation: Incarnation::new(), ..claimed[1].lease };
    let missing = Lease { job: JobId::new(), ..claimed[1].lease };
    let leases = [claimed[0].lease, claimed[2].lease, stale, claimed[1].lease, foreign, missing];
    let held = leases.map(|lease| Renewal { lease, started: true }).to_vec();
    let renewed = server.renew(1..=1, held).await;
    let expected = RenewAnswer::Renewed { expires_at: env.after(30), cancel: None };
    use RenewAnswer::Lost;
    assert_eq!(renewed.answers, [expected, Lost, Lost, expected, Lost, Lost]);
    assert!(renewed.given_back.is_empty());
    env.advance(20);
    assert!(env.expired().await.is_empty(), "the new expiry holds");
    env.advance(11);
    assert_eq!(env.expired().await.len(), 2);
}

/// REN-2, G21: jobs of the range that are not listed are given back and claimable; those outside the
/// range are not touched.
pub async fn a_renew_gives_back_what_it_does_not_list(env: Env) {
    let ids = env.add_many(jobs(6)).await;
    let mut server = env.claimer("s").await;
    let mut other = env.claimer("other").await;
    let first = server.claim(2).await;
    server.claim(1).await;
    let third = server.claim(1).await.remove(0);
    let strange = other.claim(1).await.remove(0);
    let held = vec![Renewal { lease: first[0].lease, started: true }];
    let renewed = server.renew(1..=2, held).await;
    let mut given_back = renewed.given_back.clone();
    given_back.sort_unstable();
    let mut expected = vec![ids[1], ids[2]];
    expected.sort_unstable();
    assert_eq!(given_back, expected);
    assert_eq!(
        env.states(&ids).await,
        [
            StateName::Processing,
            StateName::Enqueued,
            StateName::Enqueued,
            StateName::Processing,
            StateName::Processing,
            StateName::Enqueued,
        ]
    );
    let head = env.record(ids[1]).await.head;
    assert_eq!((head.failures, head.crashes, head.reason), (0, 0, Reason::GivenBack));
    assert_eq!(other.claim_ids(10).await, [ids[1], ids[2], ids[5]]);
    server.settled(third.lease, Ending::Succeeded).await;
    other.settled(strange.lease, Ending::Succeeded).await;
}

/// REN-2, G5: what a renew gave back is lost to its former holder, even before anyone else claims it.
pub async fn what_a_renew_gave_back_cannot_be_settled(env: Env) {
    let id = env.add(job()).await;
    let mut server = env.claimer("s").await;
    let lease = server.claim_one().await.lease;
    assert_eq!(server.renew(1..=1, Vec::new()).await.given_back, [id]);
    let before = env.details(id).await;
    assert_eq!(server.settle(lease, Ending::Succeeded).await, SettleAnswer::LeaseLost);
    assert_eq!(server.renew_one(lease).await, RenewAnswer::Lost);
    assert!(server.repeat_claim(10).await.is_empty());
    assert_eq!(env.details(id).await, before);
}

/// REN-3: a cancellation that was requested is told by the renew.
pub async fn a_renew_tells_of_a_cancellation(env: Env) {
    let id = env.add(job()).await;
    let mut server = env.claimer("s").await;
    let lease = server.claim_one().await.lease;
    env.change(id, Action::Delete { keep: None }).await;
    for _ in 0..2 {
        let answer = server.renew_one(lease).await;
        let RenewAnswer::Renewed { cancel, .. } = answer else { panic!("{answer:?}") };
        assert_eq!(cancel, Some(Reason::Cancelled));
    }
}

/// REN-4: a renew records which attempts have started, and never takes it back.
pub async fn a_renew_records_what_has_started(env: Env) {
    let id = env.add(job()).await;
    let mut server = env.claimer("s").await.started(0);
    let lease = server.claim_one().await.lease;
    let started = async || match env.record(id).await.head.state {
        State::Processing(hold) => hold.started,
        other => panic!("{other:?}"),
    };
    assert!(!started().await);
    for (told, recorded) in [(false, false), (true, true), (false, true)] {
        server.renew(1..=1, vec![Renewal { lease, started: told }]).await;
        assert_eq!(started().await, recorded);
    }
}

/// PRO-1: jobs whose instant has come become Enqueued, at most as many as told, in their old order;
/// nothing else changes.
pub async fn promotion_moves_what_is_due_and_nothing_else(env: Env) {
    let at = |seconds| NewRecord { start: Start::At(env.after(seconds)), ..job() };
    let later = env.add(at(30)).await;
    let second = env.add(at(20)).await;
    let first = env.add(at(10)).await;
    let deleted = env.add(at(10)).await;
    env.delete(deleted).await;
    assert_eq!(env.promote().await, 0);
    env.advance(20);
    let step = async |max| {
        env.storage.promote_due(StepRequest { max, now: env.at() }).await.expect("promotes")
    };
    assert_eq!(step(1).await.count, 1);
    assert_eq!(env.state(first).await, StateName::Enqueued, "the earliest instant goes first");
    assert_eq!(step(10).await.count, 1);
    assert_eq!(step(10).await.count, 0);
    assert_eq!(env.states(&[later, deleted]).await, [StateName::Scheduled, StateName::Deleted]);
    let record = env.record(second).await;
    assert_eq!((record.head.reason, record.enqueued_at), (Reason::Due, env.at()));
    let mut server = env.claimer("s").await;
    assert_eq!(server.claim_ids(10).await, [second, first], "the place is that of the submit");
}

/// PRO-2: a promotion answers the next due instant of what is left, and the storage's clock.
pub async fn promotion_answers_the_next_instant(env: Env) {
    let step = async |max| {
        env.storage.promote_due(StepRequest { max, now: env.at() }).await.expect("promotes")
    };
    assert_eq!(step(10).await.next_due_at, None);
    for seconds in [40, 10, 25] {
        env.add(NewRecord { start: Start::At(env.after(seconds)), ..job() }).await;
    }
    let (ten, forty) = (env.after(10), env.after(40));
    assert_eq!(step(10).await.next_due_at, Some(ten));
    env.advance(26);
    let promoted = step(10).await;
    assert_eq!((promoted.count, promoted.next_due_at, promoted.now), (2, Some(forty), env.now()));
}

/// PRO-1, CHG-1: promotion never overwrites what someone else did to a job at the same time.
pub async fn promotion_and_deletion_do_not_overwrite_each_other(env: Env) {
    let other = env.second().await;
    for _ in 0..20 {
        let due = NewRecord { start: Start::After(seconds(5)), ..job() };
        let ids = env
            .add_many((0..10).map(|_| NewRecord { id: JobId::new(), ..due.clone() }).collect())
            .await;
        env.advance(5);
        let promoting = env.clone();
        let promote = tokio::spawn(async move { promoting.promote().await });
        for id in &ids {
            // Scheduled or Enqueued: it can be deleted either way.
            other.delete(*id).await;
        }
        promote.await.expect("promotes");
        assert!(env.states(&ids).await.iter().all(|state| *state == StateName::Deleted));
    }
    assert!(env.claimer("s").await.claim(10).await.is_empty());
}

/// RES-1, G4: a look reports what is expired and takes nothing; only what was seen with the same fence
/// and expiry, and is still expired, is taken.
pub async fn rescue_takes_only_what_was_seen_before(env: Env) {
    let ids = env.add_many(jobs(3)).await;
    let mut server = env.claimer("s").await;
    let claimed = server.claim(3).await;
    assert!(env.expired().await.is_empty());
    env.advance(31);
    let first = env.rescue(Vec::new()).await;
    assert!(first.rescued.is_empty());
    assert_eq!(first.expired.len(), 3);
    assert!(first.expired.iter().all(|it| it.expires_at == env.after(-1)));
    // One was renewed, one settled and claimed again, one is still as it was seen.
    let held = claimed.iter().map(|job| Renewal { lease: job.lease, started: true });
    let renewed = claimed[0].lease;
    server.settled(claimed[1].lease, RETRY_NOW).await;
    assert_eq!(server.claim_one().await.lease.fence, 2);
    let request = jobkit_core::storage::RenewRequest {
        incarnation: server.incarnation,
        sequences: 5..=5,
        held: held.take(1).collect(),
        lease: LEASE,
        now: env.at(),
    };
    assert_eq!(env.storage.renew(&request).await.expect("renews").answers.len(), 1);
    env.advance(1);
    let second = env.rescue(first.expired).await;
    assert_eq!(second.rescued, [(ids[2], StateName::Enqueued)]);
    assert!(second.expired.is_empty());
    assert_eq!(server.settled(renewed, Ending::Succeeded).await, StateName::Succeeded);
    // An expiry that was not seen is not taken, even if it has passed.
    env.advance(60);
    let seen = env.expired().await;
    assert_eq!(seen.len(), 1);
    let mut wrong = seen.clone();
    wrong[0].expires_at = env.after(-1);
    assert!(env.rescue(wrong).await.rescued.is_empty());
    let mut wrong = seen;
    wrong[0].fence += 1;
    assert!(env.rescue(wrong).await.rescued.is_empty());
}

/// RES-2, G6: a rescued job is Enqueued in its old place and counts a crash; at the crash limit it is
/// Failed.
pub async fn a_job_that_crashes_too_often_fails(env: Env) {
    let id = env.add(job()).await;
    let mut server = env.claimer("s").await;
    for crash in 1..=CRASH_LIMIT {
        server.claim_one().await;
        env.advance(60);
        let state = if crash < CRASH_LIMIT { StateName::Enqueued } else { StateName::Failed };
        assert_eq!(env.rescue_all().await, [(id, state)]);
        let record = env.record(id).await;
        assert_eq!((record.head.crashes, record.head.failures), (crash, 0));
    }
    let record = env.record(id).await;
    assert_eq!(record.head.reason, Reason::CrashLimit);
    assert!(record.expires_at.is_some());
    assert!(server.claim(10).await.is_empty());
    // A requeue begins anew.
    env.requeue(id).await;
    assert_eq!(env.record(id).await.head.crashes, 0);
}

/// RES-2, CHG-4: a running job whose cancellation was requested is Deleted when it is rescued.
pub async fn a_cancelled_job_is_deleted_when_it_is_rescued(env: Env) {
    let id = env.add(job()).await;
    let mut server = env.claimer("s").await;
    server.claim_one().await;
    env.change(id, Action::Delete { keep: None }).await;
    env.advance(60);
    assert_eq!(env.rescue_all().await, [(id, StateName::Deleted)]);
    assert_eq!(env.record(id).await.head.reason, Reason::Cancelled);
}

/// RES-4, G5: after rescue the former holder's settle and renew are lost, and change nothing.
pub async fn a_rescued_attempt_can_neither_renew_nor_settle(env: Env) {
    let id = env.add(job()).await;
    let mut server = env.claimer("s").await;
    let lease = server.claim_one().await.lease;
    env.advance(60);
    env.rescue_all().await;
    let before = env.details(id).await;
    assert_eq!(server.renew_one(lease).await, RenewAnswer::Lost);
    assert_eq!(server.settle(lease, Ending::Succeeded).await, SettleAnswer::LeaseLost);
    assert!(server.repeat_claim(10).await.is_empty());
    assert_eq!(env.details(id).await, before);
    let mut other = env.claimer("other").await;
    let lease = other.claim_one().await.lease;
    assert_eq!(
        server.settle(lease, Ending::Succeeded).await,
        SettleAnswer::Settled(StateName::Succeeded),
        "a lease is a right, whoever sends it"
    );
}

/// RES-1, G6: of two janitors that rescue at the same time one counts the crash.
pub async fn two_janitors_rescue_a_job_once(env: Env) {
    let other = env.second().await;
    let ids = env.add_many(jobs(40)).await;
    let mut server = env.claimer("s").await;
    assert_eq!(server.claim(40).await.len(), 40);
    env.advance(60);
    let seen = env.expired().await;
    let tasks = [env.clone(), other.clone(), env.clone(), other].map(|env| {
        let seen = seen.clone();
        tokio::spawn(async move { env.rescue(seen).await.rescued.len() })
    });
    let rescued: usize = join(tasks.into()).await.into_iter().sum();
    assert_eq!(rescued, 40);
    for id in ids {
        let head = env.record(id).await.head;
        assert_eq!((head.state, head.crashes), (State::Enqueued, 1));
    }
}

/// RES-1: at most as many are rescued and reported as were asked for.
pub async fn rescue_works_in_bounded_steps(env: Env) {
    env.add_many(jobs(10)).await;
    let mut server = env.claimer("s").await;
    server.claim(10).await;
    env.advance(60);
    let look = async |seen, max| {
        let request = RescueRequest { seen, crash_limit: CRASH_LIMIT, max, now: env.at() };
        env.storage.rescue_expired(&request).await.expect("rescues")
    };
    assert_eq!(look(Vec::new(), 4).await.expired.len(), 4);
    let seen = env.expired().await;
    let step = look(seen, 4).await;
    assert_eq!((step.rescued.len(), step.expired.len()), (4, 4));
}

/// CLM-1, SET-3: steps of 500 items are taken, larger ones are refused and change nothing.
pub async fn steps_of_five_hundred_items_are_taken(env: Env) {
    let max = bounds::MAX_STEP_ITEMS;
    env.add_many(jobs(max + 1)).await;
    let mut server = env.claimer("s").await;
    let error = env.storage.claim(&server.request(1, max + 1)).await.expect_err("too many");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let claimed = server.claim(max).await;
    assert_eq!(claimed.len(), max);
    let renewal =
        |job: &jobkit_core::storage::ClaimedJob| Renewal { lease: job.lease, started: true };
    let renewed = server.renew(1..=1, claimed.iter().map(renewal).collect()).await;
    assert!(renewed.answers.iter().all(|it| matches!(it, RenewAnswer::Renewed { .. })));
    let mut settles: Vec<Settle> =
        claimed.iter().map(|job| Settle::new(job.lease, Ending::Succeeded)).collect();
    settles.push(Settle::new(claimed[0].lease, Ending::Succeeded));
    let request =
        SettleRequest { server: server.server.clone(), settles: settles.clone(), now: env.at() };
    let error = env.storage.settle(&request).await.expect_err("too many");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    settles.pop();
    let answers = server.settle_all(settles).await;
    assert!(answers.iter().all(|it| *it == SettleAnswer::Settled(StateName::Succeeded)));
}

/// Waits for the push that there is work; within the bound, and more for a slow machine.
async fn told(wake_ups: &mut Box<dyn jobkit_core::storage::WakeUps>, of: &str) {
    let bound = Duration::from_secs(5);
    let push = tokio::time::timeout(bound, wake_ups.next()).await;
    let push = push.unwrap_or_else(|_| panic!("nobody told of {of}"));
    assert!(matches!(push, Some(WakeUp::Work | WakeUp::Lost)), "{of}: {push:?}");
}

/// WAK-1, G16, G21: an idle claimer is told of work that became claimable, by whatever way.
pub async fn an_idle_claimer_is_told_of_new_work(env: Env) {
    let filter = WakeUpFilter { queues: vec![name("default")], others: OtherPushes::default() };
    let mut wake_ups = env.storage.wake_ups(filter).await.expect("subscribes").expect("pushes");
    let mut server = env.claimer("s").await;
    let mut request = server.request(1, 1);
    request.sleeps_if_empty = true;
    env.storage.claim(&request).await.expect("claims");
    server.sequence = 1;

    let id = env.add(job()).await;
    told(&mut wake_ups, "a submit").await;
    let lease = server.claim_one().await.lease;
    server.settled(lease, RETRY_NOW).await;
    told(&mut wake_ups, "a retry").await;
    let lease = server.claim_one().await.lease;
    server.settled(lease, Ending::Succeeded).await;
    env.requeue(id).await;
    told(&mut wake_ups, "a requeue").await;
    server.claim_one().await;
    env.advance(60);
    env.rescue_all().await;
    told(&mut wake_ups, "a rescue").await;
    server.claim_one().await;
    let later = env.add(NewRecord { start: Start::After(seconds(60)), ..job() }).await;
    env.changed(later, Action::RunNow).await;
    told(&mut wake_ups, "a run-now").await;
    let lease = server.claim_one().await.lease;
    server.settled(lease, Ending::Retry { delay: seconds(1) }).await;
    env.advance(1);
    env.promote().await;
    told(&mut wake_ups, "a promotion").await;
    server.claim_one().await;
    server.renew(1..=u64::MAX >> 1, Vec::new()).await;
    told(&mut wake_ups, "a lost claim answer").await;
}

/// WAK-1, G16, G21: an idle claimer is told of a child that was released, a slot that was freed and a
/// pause that was lifted.
pub async fn an_idle_claimer_is_told_of_releases_slots_and_resumes(env: Env) {
    if env.storage.capabilities().level < Level::Standard {
        // It has neither children nor limits to tell of.
        return;
    }
    let filter = WakeUpFilter { queues: vec![name("default")], others: OtherPushes::default() };
    let mut server = env.claimer("s").await;
    let parent = env.add(job()).await;
    let child = env.add(after(parent, jobkit_core::edge::On::Success)).await;
    let lease = server.claim_one().await.lease;
    let mut wake_ups =
        env.storage.wake_ups(filter.clone()).await.expect("subscribes").expect("pushes");
    server.settled(lease, Ending::Succeeded).await;
    told(&mut wake_ups, "a release").await;
    assert_eq!(server.run_one(Ending::Succeeded).await, child);

    env.add(limited("l", 1)).await;
    env.add(limited("l", 1)).await;
    let claimed = server.claim(10).await;
    assert_eq!(claimed.len(), 1);
    let mut wake_ups =
        env.storage.wake_ups(filter.clone()).await.expect("subscribes").expect("pushes");
    server.settled(claimed[0].lease, Ending::Succeeded).await;
    told(&mut wake_ups, "a freed slot").await;
    server.run_one(Ending::Succeeded).await;

    let queue = PauseTarget::Queue(name("default"));
    let pause = jobkit_core::recurring::Pause::new("op", "why");
    if env.storage.pause(&queue, &pause, None).await.is_ok() {
        env.add(job()).await;
        let mut wake_ups = env.storage.wake_ups(filter).await.expect("subscribes").expect("pushes");
        env.storage.resume(&queue).await.expect("resumes");
        told(&mut wake_ups, "a resume").await;
        server.run_one(Ending::Succeeded).await;
    }
}

/// WAK-1: who wants them is told of ends, of cancellations and of earlier due instants.
pub async fn ends_cancellations_and_due_instants_are_told(env: Env) {
    let mut server = env.claimer("s").await;
    let others = OtherPushes { finished: true, due: true, cancels_of: Some(server.incarnation) };
    let filter = WakeUpFilter { queues: Vec::new(), others };
    let mut wake_ups = env.storage.wake_ups(filter).await.expect("subscribes").expect("pushes");
    let mut wait_for = async |wanted: WakeUp| {
        let look = async {
            while let Some(push) = wake_ups.next().await {
                if push == wanted || push == WakeUp::Lost {
                    return;
                }
            }
            panic!("the pushes ended");
        };
        let found = tokio::time::timeout(Duration::from_secs(5), look).await;
        found.unwrap_or_else(|_| panic!("nobody told of {wanted:?}"));
    };
    let due = env.after(60);
    env.add(NewRecord { start: Start::At(due), ..job() }).await;
    wait_for(WakeUp::Due(due)).await;
    let id = env.add(job()).await;
    let lease = server.claim_one().await.lease;
    env.change(id, Action::Delete { keep: None }).await;
    wait_for(WakeUp::Cancel(id)).await;
    server.settled(lease, Ending::Deleted(Reason::Cancelled)).await;
    wait_for(WakeUp::Finished(id)).await;
}

/// WAK-2, G16: a server that was told nothing finds the work when it looks.
pub async fn polling_finds_work_without_a_push(env: Env) {
    let mut server = env.claimer("s").await;
    let mut request = server.request(1, 1);
    request.sleeps_if_empty = true;
    assert!(env.storage.claim(&request).await.expect("claims").jobs.is_empty());
    server.sequence = 1;
    let id = env.add(job()).await;
    assert_eq!(server.claim_ids(1).await, [id]);
}
