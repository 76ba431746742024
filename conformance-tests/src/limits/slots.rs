//! Semaphores: what holds a slot, and who comes next.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jobkit_core::edge::On;
use jobkit_core::limit::Limit;
use jobkit_core::record::NewRecord;
use jobkit_core::recurring::Pause;
use jobkit_core::state::{Reason, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{Action, Level, PauseTarget, Settle, SettleAnswer};
use jobkit_core::{ErrorKind, JobId};

use crate::fixtures::*;

/// SUB-11, G13: the first submit that names a limit defines it; later ones do not change it.
pub async fn the_first_submit_defines_a_limit(env: Env) {
    assert_eq!(env.storage.limit(&env.call(), "l").await.expect("reads"), None);
    env.add(limited("l", 2)).await;
    for max in [1, 50] {
        env.add(limited("l", max)).await;
    }
    let usage = env.storage.limit(&env.call(), "l").await.expect("reads").expect("is defined");
    assert_eq!((usage.limit.max, usage.used, usage.waiting), (2, 0, 0));
    assert!(!usage.defined_by_operator);
    assert_eq!(env.claimer("s").await.claim(10).await.len(), 2);
}

/// CLM-7, LIM-2, G13: a job whose limit is full stays Enqueued and is parked, without attempt or
/// history, and others pass it.
pub async fn a_job_whose_limit_is_full_is_parked(env: Env) {
    let ids = env.add_many((0..4).map(|_| limited("l", 2)).collect()).await;
    let free = env.add(job()).await;
    let mut server = env.claimer("s").await;
    let before = env.details(ids[2]).await;
    assert_eq!(server.claim_ids(10).await, [ids[0], ids[1], free]);
    for id in &ids[2..] {
        let details = env.details(*id).await;
        assert_eq!(details.record.state(), StateName::Enqueued);
        assert_eq!(details.record.head.fence, 0);
        assert_eq!(details.record.parked_at.as_deref(), Some("l"));
        assert_eq!(details.history.applied(), 1);
    }
    let after = env.details(ids[2]).await;
    assert_eq!(after.record.head, before.record.head, "parking is no change of the job");
    assert_eq!(env.usage("l").await, (2, 2));
    assert!(server.claim(10).await.is_empty());
    let held = env.storage.limit_holders("l", 10).await.expect("lists");
    assert_eq!(held.iter().map(|it| it.job).collect::<Vec<_>>(), ids[..2]);
    assert!(held.iter().all(|it| it.fence == 1 && it.expires_at == env.after(30)));
    assert_eq!(env.storage.limit_holders("l", 1).await.expect("lists").len(), 1);
}

/// SET-7, LIM-4, G13: each freed slot makes the next waiter claimable, in the order of priority and
/// sequence, whatever way it was freed.
pub async fn freed_slots_go_to_the_next_waiters_in_order(env: Env) {
    let mut waiters = Vec::new();
    let holder = env.add(NewRecord { priority: 9, ..limited("l", 1) }).await;
    for priority in [3, 5, 8, 5, 3] {
        let id = env.add(NewRecord { priority, ..limited("l", 1) }).await;
        waiters.push((9 - priority, waiters.len(), id));
    }
    waiters.sort_unstable();
    let mut server = env.claimer("s").await;
    let mut held = server.claim(10).await;
    assert_eq!(held.len(), 1);
    assert_eq!(held[0].lease.job, holder);
    let mut expected = waiters.into_iter().map(|it| it.2);
    let endings = [
        Ending::Succeeded,
        Ending::Failed(Reason::Permanent),
        Ending::Retry { delay: seconds(900) },
        Ending::Snoozed { delay: seconds(900) },
    ];
    for ending in endings {
        assert!(server.claim(10).await.is_empty());
        server.settled(held[0].lease, ending).await;
        held = server.claim(10).await;
        let ids: Vec<JobId> = held.iter().map(|job| job.lease.job).collect();
        assert_eq!(Some(ids[0]), expected.next(), "after {ending:?}");
        assert_eq!((ids.len(), env.usage("l").await.0), (1, 1));
    }
    env.change(held[0].lease.job, Action::Delete { keep: None }).await;
    assert!(server.claim(10).await.is_empty(), "a cancelled job holds its slot until it ends");
    server.settled(held[0].lease, Ending::Deleted(Reason::Cancelled)).await;
    assert_eq!(server.claim_ids(10).await, [expected.next().expect("one more")]);
}

/// RES-3, G13: the slots of a rescued attempt are free in the same step; until then they are held.
pub async fn a_crash_keeps_its_slot_until_the_rescue(env: Env) {
    let ids = env.add_many(vec![limited("l", 1), limited("l", 1)]).await;
    let mut server = env.claimer("s").await;
    server.claim_one().await;
    env.advance(60);
    let mut other = env.claimer("other").await;
    assert!(other.claim(10).await.is_empty());
    assert_eq!(env.usage("l").await, (1, 1));
    assert_eq!(env.rescue_all().await, [(ids[0], StateName::Enqueued)]);
    assert_eq!(env.usage("l").await.0, 0);
    // Its old place comes first, and there is still one slot.
    env.sweep().await;
    let first = other.claim(1).await.remove(0);
    assert!(other.claim(10).await.is_empty());
    other.settled(first.lease, Ending::Succeeded).await;
    assert_eq!(other.run_all(Ending::Succeeded).await, 1);
    assert_eq!(env.usage("l").await, (0, 0));
}

/// REN-2, G13: a slot of a claim whose answer was lost is free once the renew gave the job back.
pub async fn a_lost_claim_frees_its_slot_with_the_renew(env: Env) {
    let ids = env.add_many(vec![limited("l", 1), limited("l", 1)]).await;
    let mut server = env.claimer("s").await;
    server.claim(10).await;
    server.renew(1..=1, Vec::new()).await;
    env.sweep().await;
    assert_eq!(env.usage("l").await.0, 0);
    let claimed = env.claimer("other").await.claim_ids(10).await;
    assert_eq!(claimed.len(), 1);
    assert!(ids.contains(&claimed[0]));
}

/// LIM-1: an operator's number wins over every submit, and more room makes waiters claimable at once.
pub async fn an_operators_number_wins(env: Env) {
    let ids = env.add_many((0..6).map(|_| limited("l", 1)).collect()).await;
    let mut server = env.claimer("s").await;
    assert_eq!(server.claim_ids(10).await, ids[..1]);
    env.storage.define_limit(&env.call(), &Limit::new("l", 3)).await.expect("defines");
    assert_eq!(server.claim_ids(10).await, ids[1..3]);
    env.add(limited("l", 9)).await;
    let usage = env.storage.limit(&env.call(), "l").await.expect("reads").expect("is defined");
    assert_eq!((usage.limit.max, usage.defined_by_operator), (3, true));
    // Less room takes nothing away, and gives nothing more.
    env.storage.define_limit(&env.call(), &Limit::new("l", 2)).await.expect("defines");
    assert_eq!(env.usage("l").await.0, 3);
    let other = limited("other", 1);
    env.storage.define_limit(&env.call(), &Limit::new("other", 7)).await.expect("defines");
    env.add(other).await;
    assert_eq!(
        env.storage.limit(&env.call(), "other").await.expect("reads").expect("is").limit.max,
        7
    );
    for bad in [Limit::new("l", 0), Limit::new("", 1), Limit::new("l", 1_000_000)] {
        let error = env.storage.define_limit(&env.call(), &bad).await.expect_err("is refused");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}

/// LIM-2: limits are listed by name, in pages and in the order of bytes.
pub async fn limits_are_listed_by_name(env: Env) {
    for limit in ["c", "a", "b:2", "b:1", "é", "B"] {
        env.add(limited(limit, 1)).await;
    }
    let list = async |after: Option<&str>, limit| {
        let limits = env.storage.limits(&env.call(), after, limit).await.expect("lists");
        limits.into_iter().map(|it| it.limit.name).collect::<Vec<_>>()
    };
    assert_eq!(list(None, 4).await, ["B", "a", "b:1", "b:2"]);
    assert_eq!(list(Some("b:2"), 3).await, ["c", "é"]);
    assert!(list(Some("é"), 3).await.is_empty());
}

/// CLM-7, G13: a job under several limits runs only when each has room, and frees all of them.
pub async fn a_job_under_several_limits_needs_room_in_each(env: Env) {
    let under = |names: &[&str]| NewRecord {
        limits: names.iter().map(|name| Limit::new(*name, 1)).collect(),
        ..job()
    };
    let both = env.add(under(&["b", "a"])).await;
    let only_a = env.add(under(&["a"])).await;
    let only_b = env.add(under(&["b"])).await;
    let again = env.add(under(&["a", "b"])).await;
    let mut server = env.claimer("s").await;
    let first = server.claim(10).await;
    assert_eq!(first.len(), 1);
    assert_eq!(first[0].lease.job, both);
    assert_eq!((env.usage("a").await.0, env.usage("b").await.0), (1, 1));
    server.settled(first[0].lease, Ending::Succeeded).await;
    let mut ran = Vec::new();
    for _ in 0..10 {
        env.sweep().await;
        let claimed = server.claim(10).await;
        let at_once: Vec<JobId> = claimed.iter().map(|job| job.lease.job).collect();
        assert!(!at_once.contains(&again) || at_once.len() == 1, "{at_once:?}");
        for job in &claimed {
            server.settled(job.lease, Ending::Succeeded).await;
        }
        ran.extend(at_once);
    }
    ran.sort_unstable();
    let mut expected = [only_a, only_b, again];
    expected.sort_unstable();
    assert_eq!(ran, expected);
    assert_eq!((env.usage("a").await, env.usage("b").await), ((0, 0), (0, 0)));
}

/// LIM-3, CLM-7, G13: never more than the number hold a limit, however many claim at the same time, and
/// every job runs.
pub async fn a_limit_holds_however_many_claim(env: Env) {
    const MAX: usize = 3;
    const JOBS: usize = 150;
    let other = env.second().await;
    env.add_many((0..JOBS).map(|_| limited("l", 3)).collect()).await;
    let running = Arc::new(AtomicUsize::new(0));
    let done = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for i in 0..6 {
        let env = if i % 2 == 0 { &env } else { &other };
        let mut server = env.claimer(&format!("s{i}")).await;
        let (running, done) = (running.clone(), done.clone());
        tasks.push(tokio::spawn(async move {
            let mut idle = 0;
            while done.load(Ordering::SeqCst) < JOBS {
                let claimed = server.claim(5).await;
                let now = running.fetch_add(claimed.len(), Ordering::SeqCst) + claimed.len();
                assert!(now <= MAX, "{now} run at once");
                tokio::task::yield_now().await;
                for (n, job) in claimed.iter().enumerate() {
                    running.fetch_sub(1, Ordering::SeqCst);
                    let ending = if n % 2 == 0 { Ending::Succeeded } else { RETRY_NOW };
                    let answer = server.settle_with(Settle::new(job.lease, ending)).await;
                    assert!(matches!(answer, SettleAnswer::Settled(_)), "{answer:?}");
                    done.fetch_add(usize::from(n % 2 == 0), Ordering::SeqCst);
                }
                idle = if claimed.is_empty() { idle + 1 } else { 0 };
                if idle % 20 == 19 {
                    server.env.sweep_once(100).await;
                }
                assert!(idle < 20_000, "waiters are forgotten");
            }
        }));
    }
    join(tasks).await;
    assert_eq!(env.usage("l").await, (0, 0));
}

/// SWP-2, G21: a waiting job at a limit that has room is found, also when those admitted before it are
/// in a queue that was paused.
pub async fn a_waiter_is_not_forgotten_behind_a_pause(env: Env) {
    let in_queue = |queue: &str| NewRecord { queue: name(queue), ..limited("l", 1) };
    env.add(in_queue("default")).await;
    let mut server = env.claimer("s").await.queues(&["default", "slow"]);
    let lease = server.claim_one().await.lease;
    let slow = env.add(in_queue("slow")).await;
    let other = env.add(in_queue("default")).await;
    assert!(server.claim(10).await.is_empty());
    let pauses = env.storage.capabilities().level >= Level::Full;
    let target = PauseTarget::Queue(name("slow"));
    server.settled(lease, Ending::Succeeded).await;
    if pauses {
        // Whoever was admitted by the settle: the first is paused, so the other must get its turn.
        env.storage.pause(&env.call(), &target, &Pause::new("op", "why")).await.expect("pauses");
        let mut ran = false;
        for _ in 0..3 {
            env.sweep().await;
            for job in server.claim(10).await {
                assert_eq!(job.lease.job, other);
                server.settled(job.lease, Ending::Succeeded).await;
                ran = true;
            }
        }
        assert!(ran, "the free slot was kept for a paused job");
        env.storage.resume(&env.call(), &target).await.expect("resumes");
    }
    for _ in 0..3 {
        env.sweep().await;
        server.run_all(Ending::Succeeded).await;
    }
    assert_eq!(env.states(&[slow, other]).await, [StateName::Succeeded; 2]);
}

/// CLM-7, CHG-5, CHG-10: a parked job can be deleted, moved and rescheduled, and leaves no trace at its
/// limit.
pub async fn a_parked_job_can_be_changed(env: Env) {
    env.add(limited("l", 1)).await;
    let waiting = env.add_many((0..3).map(|_| limited("l", 1)).collect()).await;
    let child = env.add(after(waiting[0], On::Any)).await;
    let mut server = env.claimer("s").await;
    let lease = server.claim(10).await.remove(0).lease;
    assert_eq!(env.usage("l").await, (1, 3));
    env.delete(waiting[0]).await;
    let run_at = env.after(60);
    env.changed(waiting[1], Action::Reschedule { run_at }).await;
    let to = Action::Move { queue: Some(name("mail")), priority: Some(9) };
    env.changed(waiting[2], to).await;
    assert_eq!(env.usage("l").await.1, 1);
    assert_eq!(server.run_one(Ending::Succeeded).await, child);
    server.settled(lease, Ending::Succeeded).await;
    let mut mail = env.claimer("mail").await.queues(&["mail"]);
    assert_eq!(mail.run_one(Ending::Succeeded).await, waiting[2]);
    env.advance(60);
    env.promote().await;
    assert_eq!(server.run_one(Ending::Succeeded).await, waiting[1]);
    assert_eq!(env.usage("l").await, (0, 0));
}
