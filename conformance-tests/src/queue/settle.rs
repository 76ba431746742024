//! `settle`, and `settle_and_claim`.

use std::time::Duration;

use jobkit_core::bounds;
use jobkit_core::ids::Incarnation;
use jobkit_core::record::{HistoryEntry, Lease, Progress};
use jobkit_core::refusal::Refusal;
use jobkit_core::state::{Keep, Reason, Retention, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{LogLevel, LogLine, RenewAnswer, Settle, SettleAnswer, SettleRequest};
use jobkit_core::{JobId, Name};

use crate::fixtures::*;

/// SET-1, G5: only the holder settles; a wrong fence, a wrong life, a job that is not held and one that
/// does not exist answer `LeaseLost` and change nothing.
pub async fn only_the_holder_settles(env: Env) {
    let ids = env.add_many(jobs(2)).await;
    let mut server = env.claimer("s").await;
    let lease = server.claim_one().await.lease;
    let waiting = Lease { job: ids[1], fence: 0, ..lease };
    for wrong in [
        // The locator is another job's, which has not been asked for since its claim.
        Lease { job: ids[1], ..lease },
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

/// SET-2, G6: a settle that comes twice in one call is applied once, whichever way its job ended.
pub async fn a_settle_named_twice_in_a_call_is_applied_once(env: Env) {
    let mut server = env.claimer("s").await;
    for ending in [Ending::Succeeded, Ending::Failed(Reason::OutOfAttempts), RETRY_NOW] {
        let ids = env.add_many(jobs(3)).await;
        let claimed = server.claim(3).await;
        let leases = [0, 1, 0, 2, 1, 0].map(|n| claimed[n].lease);
        let settles = leases.map(|lease| Settle::new(lease, ending)).into();
        let applied = |answer: SettleAnswer| match answer {
            SettleAnswer::Settled(_) => true,
            SettleAnswer::AlreadyApplied => false,
            other => panic!("{other:?}"),
        };
        let answers = server.settle_all(settles).await.into_iter().map(applied);
        assert_eq!(answers.collect::<Vec<_>>(), [true, true, false, true, false, false]);
        for id in ids {
            let details = env.details(id).await;
            assert_eq!(details.history.applied(), 3, "{ending:?}");
            assert_eq!(details.record.head.failures, u32::from(ending != Ending::Succeeded));
        }
        server.run_all(Ending::Succeeded).await;
    }
}

/// SET-3, RES-1, G17: the history tells how each attempt ended: why and when, on which server, how long
/// the handler ran, and for when the next one is scheduled.
pub async fn the_history_tells_each_end_of_an_attempt(env: Env) {
    let plain = |state, reason| HistoryEntry {
        state,
        reason,
        at: env.now(),
        fence: None,
        server: None,
        duration: None,
        run_at: None,
        actor: None,
    };
    let of_attempt = |fence, state, reason| HistoryEntry {
        fence: Some(fence),
        server: Some(Name::from_stored("s")),
        ..plain(state, reason)
    };
    let id = env.add(job()).await;
    let mut expected = vec![plain(StateName::Enqueued, Reason::Submitted)];
    let mut server = env.claimer("s").await;
    let endings = [
        (Ending::GivenBack, None),
        (RETRY_NOW, Some(seconds(2))),
        (Ending::GivenBack, Some(seconds(3))),
        (Ending::Retry { delay: seconds(60) }, None),
        (Ending::Snoozed { delay: seconds(60) }, Some(seconds(4))),
    ];
    let mut fence = 0;
    for (ending, duration) in endings {
        env.advance(1);
        let lease = server.claim_one().await.lease;
        fence += 1;
        expected.push(of_attempt(fence, StateName::Processing, Reason::Claimed));
        env.advance(5);
        let state = server.settle_with(Settle { duration, ..Settle::new(lease, ending) }).await;
        let scheduled = state == SettleAnswer::Settled(StateName::Scheduled);
        let state = if scheduled { StateName::Scheduled } else { StateName::Enqueued };
        let reason = match ending {
            Ending::Retry { .. } => Reason::Retry,
            Ending::Snoozed { .. } => Reason::Snooze,
            _ => Reason::GivenBack,
        };
        let run_at = scheduled.then(|| env.after(60));
        expected.push(HistoryEntry { duration, run_at, ..of_attempt(fence, state, reason) });
        assert_eq!(env.details(id).await.history.entries, expected, "{ending:?}");
        if scheduled {
            env.advance(61);
            env.promote().await;
            expected.push(plain(StateName::Enqueued, Reason::Due));
        }
    }
    server.claim_one().await;
    expected.push(of_attempt(6, StateName::Processing, Reason::Claimed));
    env.advance(1000);
    assert_eq!(env.rescue_all().await, [(id, StateName::Enqueued)]);
    expected.push(of_attempt(6, StateName::Enqueued, Reason::Rescued));
    let lease = server.claim_one().await.lease;
    expected.push(of_attempt(7, StateName::Processing, Reason::Claimed));
    server
        .settle_with(Settle { duration: Some(seconds(7)), ..Settle::new(lease, Ending::Succeeded) })
        .await;
    let ended = of_attempt(7, StateName::Succeeded, Reason::Done);
    expected.push(HistoryEntry { duration: Some(seconds(7)), ..ended });
    let history = env.details(id).await.history;
    assert_eq!((history.entries, history.dropped), (expected, 0));
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
    let ids = env.add_many(jobs(60)).await;
    let mut server = env.claimer("s").await;
    let claimed = server.claim(60).await;
    // From 2 ms to 55 days, at first every second one long; and some of which nothing is known.
    let length = |n: usize| match n % 13 {
        _ if n < 12 && n % 2 == 1 => Some(Duration::from_secs(100_000)),
        12 => None,
        n => Some(Duration::from_micros(7_u64.pow(u32::try_from(n).expect("small") + 4))),
    };
    let retention = |n: usize| match n / 5 {
        2 => Retention { succeeded: Keep::For(seconds(7_200)), ..Retention::default() },
        _ => Retention::default(),
    };
    // Neighbours but for one, then every second one, then those between them, then that one.
    let round = |n: usize| match n {
        36 => 3,
        0..40 => 0,
        _ => 1 + n % 2,
    };
    let at = env.now();
    for now in 0..4 {
        let mut settles: Vec<_> = (0..60)
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
            let Keep::For(kept) = retention(n).succeeded else { panic!("kept forever") };
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
    let settle = SettleRequest { server: server.server.clone(), settles };
    let claim = server.request(2, 3);
    let (answers, claimed) = env
        .storage
        .settle_and_claim(&env.call(), &settle, &claim)
        .await
        .expect("settles and claims");
    assert_eq!(answers, vec![SettleAnswer::Settled(StateName::Enqueued); 2]);
    // What was just settled is claimable again, in its old place.
    let claimed: Vec<_> = claimed.jobs.iter().map(|job| (job.lease.job, job.lease.fence)).collect();
    assert_eq!(claimed, [(ids[0], 2), (ids[1], 2), (ids[2], 1)]);
    let (answers, again) = env
        .storage
        .settle_and_claim(&env.call(), &settle, &claim)
        .await
        .expect("settles and claims");
    assert_eq!(answers, [SettleAnswer::LeaseLost, SettleAnswer::LeaseLost]);
    let again: Vec<_> = again.jobs.iter().map(|job| (job.lease.job, job.lease.fence)).collect();
    assert_eq!(again, claimed);
}
