//! Rate limits: starts in fixed and sliding windows.

use std::time::Duration;

use jobkit_core::limit::{Limit, Window};
use jobkit_core::record::NewRecord;
use jobkit_core::state::{Start, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{Level, Promoted, StepRequest, WakeUp, WakeUpFilter};
use jobkit_core::{ErrorKind, JobId, Timestamp};

use super::park_all;
use crate::fixtures::*;

/// A job that runs under a rate limit.
fn rated(limit: &str, max: u32, window: Window) -> NewRecord {
    NewRecord { limits: vec![Limit::rate(limit, max, window)], ..job() }
}

fn several(count: usize, job: impl Fn() -> NewRecord) -> Vec<NewRecord> {
    (0..count).map(|_| job()).collect()
}

const MINUTE: Duration = Duration::from_secs(60);

async fn promoted(env: &Env) -> Promoted {
    let request = StepRequest { max: 500 };
    env.storage.promote_due(&env.call(), request).await.expect("promotes")
}

/// LIM-6, PRO-3: fixed windows follow each other from the epoch on; each has its number of starts, and
/// the next begins at its very instant.
pub async fn fixed_windows_begin_at_their_instants(env: Env) {
    let minute = 60_000_000;
    let begin = Timestamp::from_micros((env.now().as_micros() / minute + 1) * minute);
    let window = Window::Fixed(MINUTE);
    env.move_to(begin.plus(seconds(50)));
    let ids = env.add_many(several(8, || rated("l", 3, window))).await;
    let mut server = env.claimer("s").await;
    assert_eq!(server.claim_ids(10).await, ids[..3]);
    env.move_to(begin.plus(seconds(59)));
    let step = promoted(&env).await;
    assert_eq!((step.count, step.next_due_at), (0, Some(begin.plus(MINUTE))));
    assert!(server.claim(10).await.is_empty());
    env.move_to(begin.plus(MINUTE));
    let step = promoted(&env).await;
    // Nothing has started in this window yet, so nothing will be free at its end.
    assert_eq!((step.count, step.next_due_at), (3, None));
    assert_eq!(server.claim_ids(10).await, ids[3..6]);
    env.move_to(begin.plus(seconds(119)));
    let step = promoted(&env).await;
    assert_eq!((step.count, step.next_due_at), (0, Some(begin.plus(seconds(120)))));
    assert!(server.claim(10).await.is_empty());
    env.move_to(begin.plus(seconds(120)));
    // Without a promotion the parked ones stay where they are, and others start.
    let new = env.add(rated("l", 3, window)).await;
    assert_eq!(server.claim_ids(1).await, [new]);
    assert_eq!(server.claim_ids(10).await, ids[6..], "the claim found that there is room");
}

/// LIM-6, PRO-2, PRO-3: a sliding window is exact: no span of its length sees more starts, and each start
/// is free again at its own instant.
pub async fn sliding_windows_free_each_start_at_its_instant(env: Env) {
    let begin = env.now();
    let ids = env.add_many(several(7, || rated("l", 3, Window::Sliding(MINUTE)))).await;
    let mut server = env.claimer("s").await;
    assert_eq!(server.claim_ids(2).await, ids[..2]);
    env.advance(30);
    assert_eq!(server.claim_ids(10).await, ids[2..3]);
    assert_eq!(promoted(&env).await.next_due_at, Some(begin.plus(MINUTE)));
    env.move_to(begin.plus(Duration::from_millis(59_999)));
    assert_eq!(promoted(&env).await.count, 0);
    assert!(server.claim(10).await.is_empty());
    env.move_to(begin.plus(MINUTE));
    let step = promoted(&env).await;
    assert_eq!((step.count, step.next_due_at), (2, Some(begin.plus(seconds(90)))));
    assert_eq!(promoted(&env).await.count, 0, "the room is given once");
    assert_eq!(server.claim_ids(10).await, ids[3..5]);
    env.move_to(begin.plus(seconds(90)));
    assert_eq!(promoted(&env).await.count, 1);
    assert_eq!(server.claim_ids(10).await, ids[5..6]);
    env.move_to(begin.plus(seconds(119)));
    assert_eq!(promoted(&env).await.count, 0);
    env.move_to(begin.plus(seconds(120)));
    assert_eq!(promoted(&env).await.count, 1);
    assert_eq!(server.claim_ids(10).await, ids[6..]);
    assert_eq!(env.usage("l").await.1, 0);
}

/// LIM-6: every attempt is a start, and none is given back: not by a retry, a give-back, a lost answer
/// or a rescue.
pub async fn nothing_gives_a_start_back(env: Env) {
    let mut server = env.claimer("s").await;
    for (n, what) in ["success", "retry", "give-back", "lost", "rescue"].into_iter().enumerate() {
        let limit = format!("l{n}");
        let sliding = Window::Sliding(seconds(600));
        let id = env.add(rated(&limit, 2, sliding)).await;
        let lease = server.claim_one().await.lease;
        match what {
            "success" => {
                server.settled(lease, Ending::Succeeded).await;
                env.requeue(id).await;
            }
            "retry" => drop(server.settled(lease, RETRY_NOW).await),
            "give-back" => drop(server.settled(lease, Ending::GivenBack).await),
            "lost" => drop(server.renew(server.sequence..=server.sequence, Vec::new()).await),
            _ => {
                env.advance(60);
                env.rescue_all().await;
            }
        }
        assert_eq!(env.state(id).await, StateName::Enqueued, "{what}");
        let lease = server.claim_one().await.lease;
        assert_eq!(lease.job, id, "{what}");
        server.settled(lease, RETRY_NOW).await;
        assert!(server.claim(10).await.is_empty(), "two starts after a {what}");
        assert_eq!(env.record(id).await.parked_at, Some(limit.clone()));
        let usage =
            env.storage.limit(&env.call(), &limit).await.expect("reads").expect("is defined");
        assert_eq!((usage.used, usage.waiting), (2, 1), "{what}");
    }
}

/// PRO-3, LIM-4, LIM-7, G13: time makes the waiters of a rate limit claimable in the order of priority and
/// sequence, without attempt or history, and what nobody serves is not in the way.
pub async fn time_makes_waiters_claimable_in_order(env: Env) {
    let mut server = env.claimer("s").await;
    let mut other = env.stranger("other").kinds(&["other"]);
    other.announce().await;
    let rated = || rated("l", 2, Window::Sliding(MINUTE));
    env.add_many(several(2, rated)).await;
    assert_eq!(server.claim(10).await.len(), 2);
    let unserved = several(50, || NewRecord { kind: name("other"), priority: 9, ..rated() });
    env.add_many(unserved).await;
    assert!(other.claim(100).await.is_empty());
    env.storage.remove_server(&env.call(), other.incarnation, &[]).await.expect("deregisters");
    let mut waiters = Vec::new();
    for priority in [3, 5, 8, 5, 3] {
        let id = env.add(NewRecord { priority, ..rated() }).await;
        waiters.push((9 - priority, waiters.len(), id));
    }
    waiters.sort_unstable();
    let expected: Vec<JobId> = waiters.into_iter().map(|it| it.2).collect();
    assert!(server.claim(10).await.is_empty());
    for part in expected.chunks(2) {
        env.advance(60);
        env.promote().await;
        let details = env.details(part[0]).await;
        assert_eq!(details.record.parked_at, None, "time let it go");
        assert_eq!((details.record.head.fence, details.history.applied()), (0, 1));
        assert_eq!(server.claim_ids(10).await, part);
    }
}

/// PRO-1, PRO-3: one promotion moves no more than it was told, due jobs and waiters taken together; sweeps
/// and promotions move the rest.
pub async fn a_promotion_is_bounded_waiters_included(env: Env) {
    let mut server = env.claimer("s").await;
    let ids = env.add_many(several(20, || rated("l", 10, Window::Sliding(MINUTE)))).await;
    assert_eq!(server.claim_ids(20).await, ids[..10]);
    let due = || NewRecord { start: Start::After(seconds(30)), ..job() };
    let due = env.add_many(several(3, due)).await;
    env.advance(60);
    let step = StepRequest { max: 5 };
    assert_eq!(env.storage.promote_due(&env.call(), step).await.expect("promotes").count, 5);
    let mut expected = [&ids[10..12], &due].concat();
    assert_eq!(server.claim_ids(20).await, expected);
    env.sweep().await;
    env.promote().await;
    expected = ids[12..].to_vec();
    assert_eq!(server.claim_ids(20).await, expected);
    // Of several limits together, too.
    for (limit, max, count) in [("few", 1, 2), ("many", 5, 10)] {
        env.add_many(several(count, || rated(limit, max, Window::Sliding(MINUTE)))).await;
    }
    assert_eq!(server.claim(20).await.len(), 6);
    env.advance(60);
    let step = StepRequest { max: 4 };
    assert_eq!(env.storage.promote_due(&env.call(), step).await.expect("promotes").count, 4);
}

/// PRO-3, G16: where instants are pushed, the first job that is parked at a rate limit tells when there
/// is room again, and so do a change of the window and a start while jobs are parked.
pub async fn the_instant_of_room_is_told(env: Env) {
    if env.storage.capabilities().level < Level::Standard {
        // It has no limits.
        return;
    }
    let mut server = env.claimer("s").await;
    let filter = WakeUpFilter { due: true, ..WakeUpFilter::default() };
    let mut wake_ups = env.storage.wake_ups(filter).await.expect("subscribes").expect("pushes");
    env.add_many(several(3, || rated("l", 1, Window::Sliding(MINUTE)))).await;
    assert_eq!(server.claim(10).await.len(), 1);
    let mut told = async |room_at| {
        let look = async {
            while let Some(push) = wake_ups.next().await {
                if push == WakeUp::Due(room_at) {
                    return;
                }
            }
            panic!("the pushes ended");
        };
        tokio::time::timeout(Duration::from_secs(5), look).await.expect("somebody tells");
    };
    told(env.after(60)).await;
    // An operator's window may bring it forward.
    let shorter = Limit::rate("l", 1, Window::Sliding(seconds(20)));
    env.storage.define_limit(&env.call(), &shorter).await.expect("is set");
    told(env.after(20)).await;
    // So does the next start, while one waits that was parked before it.
    env.advance(20);
    assert_eq!(promoted(&env).await.count, 1);
    assert_eq!(server.claim(10).await.len(), 1);
    told(env.after(20)).await;
}

/// LIM-6, G21: where the clock goes back, a start counts no longer than one length from then on, also
/// when everybody who could start is parked.
pub async fn a_clock_that_goes_back_closes_no_rate_limit(env: Env) {
    for (limit, window) in [("sliding", Window::Sliding(MINUTE)), ("fixed", Window::Fixed(MINUTE))]
    {
        let mut server = env.claimer("s").await;
        let ids = env.add_many(several(3, || rated(limit, 2, window))).await;
        env.advance(3600);
        assert_eq!(server.claim_ids(10).await, ids[..2]);
        env.advance(-3600);
        env.promote().await;
        assert!(server.claim(10).await.is_empty(), "they count");
        env.advance(60);
        env.promote().await;
        assert_eq!(server.claim_ids(10).await, ids[2..], "{limit}");
    }
}

/// LIM-8: what started in a fixed window counts after a change of the window, and as if it had started
/// with the change; of a sliding window every instant is known.
pub async fn a_change_of_windows_loses_no_start(env: Env) {
    // The operator's call goes by the storage's clock, which is the case's as long as nothing is moved.
    let hour = seconds(3600);
    let define =
        async |limit: &Limit| env.storage.define_limit(&env.call(), limit).await.expect("defines");
    let mut server = env.claimer("s").await;
    let changes = [
        (Window::Fixed(hour), Window::Sliding(MINUTE)),
        (Window::Fixed(hour), Window::Fixed(hour * 2)),
        (Window::Fixed(hour * 2), Window::Fixed(hour)),
        (Window::Sliding(hour), Window::Sliding(MINUTE)),
        (Window::Sliding(MINUTE), Window::Sliding(hour)),
    ];
    for (n, (before, after)) in changes.into_iter().enumerate() {
        let limit = format!("limit-{n}");
        let ids = env.add_many(several(3, || rated(&limit, 2, before))).await;
        assert_eq!(server.claim_ids(10).await, ids[..2]);
        define(&Limit::rate(&limit, 2, after)).await;
        assert!(server.claim(10).await.is_empty(), "{before:?} to {after:?}");
        let usage =
            env.storage.limit(&env.call(), &limit).await.expect("reads").expect("is defined");
        assert_eq!((usage.used, usage.waiting), (2, 1), "{before:?} to {after:?}");
        let room_at = usage.room_at.expect("it is full");
        // Until then it stays so, and no longer than a length.
        assert!(room_at > env.now() && room_at <= env.after(30).plus(after.length()), "{usage:?}");
        env.delete(ids[2]).await;
    }
}

/// LIM-6, LIM-7: a rate limit forgets many starts in bounded looks, and gives each back.
pub async fn many_starts_end_at_their_instants(env: Env) {
    const STARTS: usize = 1_500;
    let mut server = env.claimer("s").await;
    let rated = || rated("l", 1_500, Window::Sliding(MINUTE));
    env.add_many(several(STARTS, rated)).await;
    for _ in 0..STARTS {
        // Each at an instant of its own.
        env.move_to(env.now().plus(Duration::from_millis(1)));
        server.claim_one().await;
    }
    let ids = env.add_many(several(STARTS, rated)).await;
    park_all(&mut server).await;
    assert_eq!(env.usage("l").await.0, 1_500);
    env.advance(60);
    let mut started = Vec::new();
    for _ in 0..20 {
        promoted(&env).await;
        env.sweep().await;
        started.extend(server.claim_ids(500).await);
    }
    assert_eq!(started, ids);
    assert_eq!(env.usage("l").await, (1_500, 0));
}

/// LIM-2, SUB-11: a rate limit tells its window, the starts that count, and when there is room again; it
/// has no holders.
pub async fn a_rate_limit_tells_its_starts(env: Env) {
    let window = Window::Sliding(seconds(3600));
    env.add_many(several(3, || rated("l", 2, window))).await;
    let usage =
        async || env.storage.limit(&env.call(), "l").await.expect("reads").expect("is defined");
    let first = usage().await;
    assert_eq!(first.limit, Limit::rate("l", 2, window));
    assert_eq!((first.used, first.waiting, first.room_at), (0, 0, None));
    let mut server = env.claimer("s").await;
    let room_at = env.after(3600);
    server.claim_one().await;
    assert_eq!((usage().await.used, usage().await.room_at), (1, None));
    env.advance(1);
    server.claim(10).await;
    let full = usage().await;
    assert_eq!((full.used, full.waiting, full.room_at), (2, 1, Some(room_at)));
    assert!(env.storage.limit_holders("l", 10).await.expect("lists").is_empty());
    assert_eq!(env.storage.limits(&env.call(), None, 10).await.expect("lists"), [full]);
}

/// LIM-8, LIM-1, SUB-11: an operator changes number and window, and makes a rate limit of a limit and the
/// reverse; submits take what is stored.
pub async fn an_operator_changes_windows(env: Env) {
    let window = Window::Sliding(seconds(600));
    let ids = env.add_many(several(9, || rated("l", 2, window))).await;
    let mut server = env.claimer("s").await;
    assert_eq!(server.claim(10).await.len(), 2);
    let define =
        async |limit: Limit| env.storage.define_limit(&env.call(), &limit).await.expect("defines");
    define(Limit::rate("l", 4, window)).await;
    let held = server.claim(10).await;
    assert_eq!(held.iter().map(|it| it.lease.job).collect::<Vec<_>>(), ids[2..4]);
    env.advance(60);
    assert_eq!(promoted(&env).await.count, 0);
    define(Limit::rate("l", 4, Window::Sliding(MINUTE))).await;
    env.promote().await;
    assert_eq!(server.claim_ids(10).await, ids[4..8], "those starts count for a minute only");
    // Eight run now: a limit on these, and then one that they do not fill.
    define(Limit::new("l", 8)).await;
    assert_eq!(env.usage("l").await, (8, 1));
    assert_eq!(env.storage.limit_holders("l", 10).await.expect("lists").len(), 8);
    assert!(server.claim(10).await.is_empty());
    // A submit means the stored one.
    env.add(rated("l", 100, window)).await;
    assert!(server.claim(10).await.is_empty());
    server.settled(held[0].lease, Ending::Succeeded).await;
    assert_eq!(server.claim_ids(10).await, ids[8..]);
    let usage = env.storage.limit(&env.call(), "l").await.expect("reads").expect("is defined");
    assert_eq!((usage.limit, usage.used, usage.waiting), (Limit::new("l", 8), 8, 1));
    for window in [Window::Fixed(Duration::from_millis(10)), Window::Sliding(seconds(99_000_000))] {
        let refused = env.storage.define_limit(&env.call(), &Limit::rate("l", 1, window)).await;
        assert_eq!(refused.expect_err("is refused").kind(), ErrorKind::InvalidInput);
    }
}

/// LIM-7, CLM-7: a job under limits of both kinds needs room in each, and takes nothing of one while the
/// other is full.
pub async fn a_job_may_be_under_limits_of_both_kinds(env: Env) {
    let both = || NewRecord {
        limits: vec![Limit::new("a", 1), Limit::rate("b", 2, Window::Sliding(MINUTE))],
        ..job()
    };
    let ids = env.add_many(several(4, both)).await;
    let only_a = env.add(limited("a", 1)).await;
    let mut server = env.claimer("s").await;
    for id in &ids[..2] {
        let claimed = server.claim(10).await;
        assert_eq!(claimed.iter().map(|it| it.lease.job).collect::<Vec<_>>(), [*id]);
        server.settled(claimed[0].lease, Ending::Succeeded).await;
    }
    let mut ran = Vec::new();
    for _ in 0..10 {
        for job in server.claim(10).await {
            server.settled(job.lease, Ending::Succeeded).await;
            ran.push(job.lease.job);
        }
    }
    assert_eq!(ran, [only_a], "what waits for a start holds no slot");
    assert_eq!((env.usage("a").await, env.usage("b").await), ((0, 0), (2, 2)));
    env.advance(60);
    env.promote().await;
    assert_eq!(server.run_one(Ending::Succeeded).await, ids[2]);
    assert_eq!(server.run_one(Ending::Succeeded).await, ids[3]);
}

/// LIM-6, LIM-3, G13: however many claim at the same time, each window sees its number of starts, and
/// every job starts.
pub async fn a_window_holds_however_many_claim(env: Env) {
    const MAX: usize = 7;
    let other = env.second().await;
    let ids = env.add_many(several(50, || rated("l", 7, Window::Sliding(MINUTE)))).await;
    let mut started = Vec::new();
    let mut servers = Vec::new();
    for i in 0..6 {
        let env = if i % 2 == 0 { &env } else { &other };
        servers.push(env.claimer(&format!("s{i}")).await);
    }
    while started.len() < ids.len() {
        let tasks = servers.into_iter().map(|mut server| {
            tokio::spawn(async move {
                let mut claimed = Vec::new();
                for _ in 0..5 {
                    for job in server.claim(3).await {
                        server.settled(job.lease, Ending::Succeeded).await;
                        claimed.push(job.lease.job);
                    }
                    promoted(&server.env).await;
                }
                (server, claimed)
            })
        });
        let answers = join(tasks.collect()).await;
        let mut here: Vec<JobId> = answers.iter().flat_map(|it| it.1.clone()).collect();
        assert_eq!(here.len(), MAX.min(ids.len() - started.len()));
        started.append(&mut here);
        servers = answers.into_iter().map(|it| it.0).collect();
        env.advance(60);
        promoted(&env).await;
    }
    started.sort_unstable();
    started.dedup();
    assert_eq!(started.len(), ids.len());
}

/// LIM-8: starts are forgotten with the window: one that is set later begins anew.
pub async fn a_window_that_was_taken_away_begins_anew(env: Env) {
    let rated = Limit::rate("r", 2, Window::Sliding(seconds(600)));
    let limited = || NewRecord { limits: vec![rated.clone()], ..job() };
    env.add_many(vec![limited(), limited(), limited()]).await;
    let mut server = env.claimer("s").await;
    assert_eq!(server.claim(10).await.len(), 2);
    env.storage.define_limit(&env.call(), &Limit::new("r", 2)).await.expect("defines");
    for _ in 0..2 {
        server.run_all(Ending::Succeeded).await;
    }
    env.storage.define_limit(&env.call(), &rated).await.expect("defines");
    let usage = env.storage.limit(&env.call(), "r").await.expect("reads").expect("is defined");
    assert_eq!((usage.limit.window, usage.used), (rated.window, 0));
}
