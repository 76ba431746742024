//! Limits on how many run at once, or start in a window.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jobkit_core::edge::On;
use jobkit_core::limit::{Limit, Window};
use jobkit_core::record::NewRecord;
use jobkit_core::recurring::Pause;
use jobkit_core::state::{Reason, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{
    Action, Level, OtherPushes, PauseTarget, Promoted, Settle, SettleAnswer, StepRequest, WakeUp,
    WakeUpFilter,
};
use jobkit_core::{ErrorKind, JobId, Timestamp};

use crate::fixtures::*;

/// SUB-11, G13: the first submit that names a limit defines it; later ones do not change it.
pub async fn the_first_submit_defines_a_limit(env: Env) {
    assert_eq!(env.storage.limit("l").await.expect("reads"), None);
    env.add(limited("l", 2)).await;
    for max in [1, 50] {
        env.add(limited("l", max)).await;
    }
    let usage = env.storage.limit("l").await.expect("reads").expect("is defined");
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
    env.storage.define_limit(&Limit::new("l", 3)).await.expect("defines");
    assert_eq!(server.claim_ids(10).await, ids[1..3]);
    env.add(limited("l", 9)).await;
    let usage = env.storage.limit("l").await.expect("reads").expect("is defined");
    assert_eq!((usage.limit.max, usage.defined_by_operator), (3, true));
    // Less room takes nothing away, and gives nothing more.
    env.storage.define_limit(&Limit::new("l", 2)).await.expect("defines");
    assert_eq!(env.usage("l").await.0, 3);
    let other = limited("other", 1);
    env.storage.define_limit(&Limit::new("other", 7)).await.expect("defines");
    env.add(other).await;
    assert_eq!(env.storage.limit("other").await.expect("reads").expect("is").limit.max, 7);
    for bad in [Limit::new("l", 0), Limit::new("", 1), Limit::new("l", 1_000_000)] {
        let error = env.storage.define_limit(&bad).await.expect_err("is refused");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}

/// LIM-2: limits are listed by name, in pages.
pub async fn limits_are_listed_by_name(env: Env) {
    for limit in ["c", "a", "b:2", "b:1", "é"] {
        env.add(limited(limit, 1)).await;
    }
    let list = async |after: Option<&str>, limit| {
        let limits = env.storage.limits(after, limit).await.expect("lists");
        limits.into_iter().map(|it| it.limit.name).collect::<Vec<_>>()
    };
    assert_eq!(list(None, 3).await, ["a", "b:1", "b:2"]);
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
        env.storage.pause(&target, &Pause::new("op", "why"), env.at()).await.expect("pauses");
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
        env.storage.resume(&target).await.expect("resumes");
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

/// A job of another kind, under a limit.
fn limited_of(kind: &str, limit: &str, max: u32) -> NewRecord {
    NewRecord { kind: name(kind), ..limited(limit, max) }
}

/// Parks what can be claimed: nobody has room for it. A claim need not park all of it at once.
async fn park_all(server: &mut Claimer) {
    for _ in 0..20 {
        assert!(server.claim(200).await.is_empty(), "there is no room");
    }
}

/// LIM-5, G21: a thousand waiters of a kind that nobody serves any more do not keep one waiting that is
/// served; and whoever comes to serve them finds the next one claimable.
pub async fn what_nobody_serves_is_not_in_the_way(env: Env) {
    let mut server = env.claimer("s").await;
    let mut other = env.stranger("other").kinds(&["other"]);
    other.announce().await;
    env.add(limited("l", 1)).await;
    let mut lease = server.claim_one().await.lease;
    let unserved =
        (0..1000).map(|_| NewRecord { priority: 9, ..limited_of("other", "l", 1) }).collect();
    let unserved = env.add_many(unserved).await;
    park_all(&mut other).await;
    assert_eq!(env.usage("l").await, (1, 1000));
    env.storage.remove_server(other.incarnation, &[]).await.expect("says goodbye");
    let served = env.add_many((0..4).map(|_| limited("l", 1)).collect()).await;
    assert!(server.claim(10).await.is_empty());
    for id in &served {
        server.settled(lease, Ending::Succeeded).await;
        let claimed = server.claim(10).await;
        assert_eq!(claimed.len(), 1, "the slot is free for what is served");
        assert_eq!(claimed[0].lease.job, *id);
        lease = claimed[0].lease;
    }
    server.settled(lease, Ending::Succeeded).await;
    let mut other = env.stranger("other-again").kinds(&["other"]);
    other.announce().await;
    for id in &unserved[..3] {
        assert_eq!(other.run_one(Ending::Succeeded).await, *id);
    }
}

/// LIM-5, G21: room that was given to a job goes on to the next when its servers go, when it is given
/// up, and when it finds another limit full.
pub async fn room_that_is_not_used_goes_to_the_next_waiter(env: Env) {
    let mut server = env.claimer("s").await;
    let mut other = env.stranger("other").kinds(&["other"]);
    other.announce().await;
    env.add(limited("l", 1)).await;
    let lease = server.claim_one().await.lease;
    let theirs = env.add(NewRecord { priority: 9, ..limited_of("other", "l", 1) }).await;
    let mine = env.add_many((0..3).map(|_| limited("l", 1)).collect()).await;
    assert!(server.claim(10).await.is_empty());
    assert!(other.claim(10).await.is_empty());
    server.settled(lease, Ending::Succeeded).await;
    assert_eq!(env.record(theirs).await.parked_at, None, "its turn");
    assert!(server.claim(10).await.is_empty());
    env.storage.remove_server(other.incarnation, &[]).await.expect("says goodbye");
    let record = env.record(mine[0]).await;
    assert_eq!(record.parked_at, None, "the other's servers went");
    env.delete(mine[0]).await;
    assert_eq!(env.record(mine[1]).await.parked_at, None, "the one before was given up");
    let run_at = env.after(60);
    env.changed(mine[1], Action::Reschedule { run_at }).await;
    assert_eq!(server.run_one(Ending::Succeeded).await, mine[2]);

    // Under two limits: let go by the first, it finds the second full.
    let mut full = env.stranger("full").kinds(&["full"]);
    full.announce().await;
    env.add(limited_of("full", "z", 1)).await;
    full.claim_one().await;
    env.add(limited("a", 1)).await;
    let lease = server.claim_one().await.lease;
    let limits = vec![Limit::new("a", 1), Limit::new("z", 1)];
    let both = env.add(NewRecord { limits, ..job() }).await;
    let next = env.add(limited("a", 1)).await;
    assert!(server.claim(10).await.is_empty());
    server.settled(lease, Ending::Succeeded).await;
    assert!(server.claim(10).await.is_empty());
    assert_eq!(env.record(both).await.parked_at.as_deref(), Some("z"));
    assert_eq!(server.run_one(Ending::Succeeded).await, next);
}

/// LIM-5, G21: room that was given to what a live server does not come to claim is for others, too.
pub async fn room_is_not_kept_for_a_server_that_is_busy(env: Env) {
    let mut busy = env.stranger("busy").kinds(&["busy"]);
    busy.announce().await;
    let mut server = env.claimer("s").await;
    env.add(limited("l", 1)).await;
    let lease = server.claim_one().await.lease;
    let theirs: Vec<_> =
        (0..3).map(|_| NewRecord { priority: 9, ..limited_of("busy", "l", 1) }).collect();
    let theirs = env.add_many(theirs).await;
    let mine = env.add_many((0..2).map(|_| limited("l", 1)).collect()).await;
    assert!(busy.claim(10).await.is_empty() && server.claim(10).await.is_empty());
    server.settled(lease, Ending::Succeeded).await;
    assert_eq!(env.record(theirs[0]).await.parked_at, None, "its turn");
    env.advance(9);
    let step = env.sweep_once(500).await;
    assert!(step.next_in.is_some_and(|next| next <= seconds(1)), "{step:?}");
    assert!(server.claim(10).await.is_empty());
    for id in &mine {
        env.advance(11);
        env.sweep().await;
        assert_eq!(server.run_one(Ending::Succeeded).await, *id);
    }
    assert_eq!(busy.claim_ids(10).await, theirs[..1], "and still no more than the number run");
    assert_eq!(env.usage("l").await.0, 1);
}

/// CHG-10, LIM-5: a parked job that is moved to a queue with servers takes the room that there is, and
/// one that was let go and is moved away gives it on.
pub async fn a_move_gives_room_and_takes_it(env: Env) {
    let in_mail = |priority| NewRecord { queue: name("mail"), priority, ..limited("l", 1) };
    let move_to = async |job, queue: &str| {
        env.changed(job, Action::Move { queue: Some(name(queue)), priority: None }).await
    };
    let mut server = env.claimer("s").await;
    let mut mail = env.stranger("mail").queues(&["mail"]);
    mail.announce().await;
    env.add(limited("l", 1)).await;
    let lease = server.claim_one().await.lease;
    let ids = env.add_many((0..4).map(|n| in_mail(9 - n)).collect()).await;
    assert!(mail.claim(10).await.is_empty());
    env.storage.remove_server(mail.incarnation, &[]).await.expect("says goodbye");
    server.settled(lease, Ending::Succeeded).await;
    assert!(env.record(ids[2]).await.parked_at.is_some());
    move_to(ids[2], "default").await;
    assert_eq!(env.record(ids[2]).await.parked_at, None, "there is room");
    move_to(ids[3], "default").await;
    assert!(env.record(ids[3]).await.parked_at.is_some(), "there was room for one");
    move_to(ids[2], "mail").await;
    assert_eq!(env.record(ids[3]).await.parked_at, None, "the other went");
    assert_eq!(server.run_one(Ending::Succeeded).await, ids[3]);
}

/// LIM-5, SWP-2, SWP-4, G15: waiters in a great many lanes that nobody serves are left alone once each
/// lane was looked at, and do not keep one waiting that is served; each is found by who comes.
pub async fn lanes_that_nobody_serves_are_left_alone(env: Env) {
    const LANES: usize = 300;
    let queues: Vec<String> = (0..LANES).map(|n| format!("tenant-{n:03}")).collect();
    let mut server = env.claimer("s").await;
    env.add(limited("l", 1)).await;
    let mut lease = server.claim_one().await.lease;
    let in_lanes = queues.iter().flat_map(|queue| {
        (0..2).map(|_| NewRecord { queue: name(queue), priority: 9, ..limited("l", 1) })
    });
    env.add_many(in_lanes.collect()).await;
    for part in queues.chunks(50) {
        let part: Vec<&str> = part.iter().map(String::as_str).collect();
        let mut other = env.stranger("other").queues(&part);
        other.announce().await;
        assert!(other.claim(200).await.is_empty());
        env.storage.remove_server(other.incarnation, &[]).await.expect("says goodbye");
    }
    assert_eq!(env.usage("l").await, (1, 600));
    let served = env.add_many((0..3).map(|_| limited("l", 1)).collect()).await;
    assert!(server.claim(10).await.is_empty());
    for id in &served {
        server.settled(lease, Ending::Succeeded).await;
        env.sweep().await;
        let claimed = server.claim(10).await;
        assert_eq!(claimed.iter().map(|it| it.lease.job).collect::<Vec<_>>(), [*id]);
        lease = claimed[0].lease;
    }
    server.settled(lease, Ending::Succeeded).await;
    env.sweep().await;
    assert_eq!(env.usage("l").await, (0, 300), "of each lane one is let go");
    let step = env.sweep_once(500).await;
    assert_eq!((step.done, step.more), (0, false));
    for queue in [0, 150, 299] {
        let mut other = env.stranger("other").queues(&[&queues[queue]]);
        other.announce().await;
        for _ in 0..2 {
            env.sweep().await;
            other.run_one(Ending::Succeeded).await;
        }
    }
}

/// LIM-4, LIM-1: many waiters become claimable in bounded steps, each once and no more than have room.
pub async fn no_more_are_let_go_than_have_room(env: Env) {
    const WAITERS: usize = 700;
    let mut server = env.claimer("s").await;
    env.add(limited("l", 1)).await;
    server.claim_one().await;
    let ids = env.add_many((0..WAITERS).map(|_| limited("l", 1)).collect()).await;
    park_all(&mut server).await;
    env.storage.define_limit(&Limit::new("l", 11)).await.expect("defines");
    assert_eq!(env.usage("l").await, (1, 690));
    env.sweep().await;
    assert_eq!(env.usage("l").await, (1, 690), "the room is given once");
    assert_eq!(server.claim_ids(500).await, ids[..10]);
    env.storage.define_limit(&Limit::new("l", 1_000)).await.expect("defines");
    env.sweep().await;
    assert_eq!(env.usage("l").await, (11, 0));
    let mut rest = server.claim_ids(500).await;
    rest.extend(server.claim_ids(500).await);
    assert_eq!(rest, ids[10..]);
}

/// SWP-2, LIM-5, G15, G21: sweeps look at every limit, however many have waiters: what is claimable is
/// not kept waiting by what was let go and then paused.
pub async fn every_limit_with_waiters_is_looked_at(env: Env) {
    const LIMITS: usize = 150;
    let mut server = env.stranger("s").kinds(&["k", "slow"]);
    server.announce().await;
    let name_of = |n: usize| format!("limit-{n:03}");
    env.add_many((0..LIMITS).map(|n| limited(&name_of(n), 1)).collect()).await;
    let held = server.claim(500).await;
    assert_eq!(held.len(), LIMITS);
    env.add_many((0..LIMITS).map(|n| limited_of("slow", &name_of(n), 1)).collect()).await;
    let ids = env.add_many((0..LIMITS).map(|n| limited(&name_of(n), 1)).collect()).await;
    park_all(&mut server).await;
    let settles = held.iter().map(|job| Settle::new(job.lease, Ending::Succeeded)).collect();
    server.settle_all(settles).await;
    // Now every slot is meant for a slow one.
    let target = PauseTarget::Kind(name("slow"));
    if env.storage.capabilities().level >= Level::Full {
        env.storage.pause(&target, &Pause::new("op", "why"), env.at()).await.expect("pauses");
        env.sweep().await;
        assert_eq!(server.claim_ids(500).await, ids);
    }
}

/// A job that runs under a rate limit.
fn rated(limit: &str, max: u32, window: Window) -> NewRecord {
    NewRecord { limits: vec![Limit::rate(limit, max, window)], ..job() }
}

fn several(count: usize, job: impl Fn() -> NewRecord) -> Vec<NewRecord> {
    (0..count).map(|_| job()).collect()
}

const MINUTE: Duration = Duration::from_secs(60);

async fn promoted(env: &Env) -> Promoted {
    let request = StepRequest { max: 500, now: env.at() };
    env.storage.promote_due(request).await.expect("promotes")
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
        let usage = env.storage.limit(&limit).await.expect("reads").expect("is defined");
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
    env.storage.remove_server(other.incarnation, &[]).await.expect("says goodbye");
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

/// PRO-3, G16: where instants are pushed, the first job that is parked at a rate limit tells when there
/// is room again.
pub async fn the_instant_of_room_is_told(env: Env) {
    if env.storage.capabilities().level < Level::Standard {
        // It has no limits.
        return;
    }
    let mut server = env.claimer("s").await;
    let others = OtherPushes { finished: false, due: true, cancels_of: None };
    let filter = WakeUpFilter { queues: Vec::new(), others };
    let mut wake_ups = env.storage.wake_ups(filter).await.expect("subscribes").expect("pushes");
    env.add_many(several(2, || rated("l", 1, Window::Sliding(MINUTE)))).await;
    assert_eq!(server.claim(10).await.len(), 1);
    let room_at = env.after(60);
    let look = async {
        while let Some(push) = wake_ups.next().await {
            if push == WakeUp::Due(room_at) {
                return;
            }
        }
        panic!("the pushes ended");
    };
    tokio::time::timeout(Duration::from_secs(5), look).await.expect("somebody tells");
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
    let define = async |limit: &Limit| env.storage.define_limit(limit).await.expect("defines");
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
        let usage = env.storage.limit(&limit).await.expect("reads").expect("is defined");
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
    let usage = async || env.storage.limit("l").await.expect("reads").expect("is defined");
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
    assert_eq!(env.storage.limits(None, 10).await.expect("lists"), [full]);
}

/// LIM-8, LIM-1, SUB-11: an operator changes number and window, and makes a rate limit of a limit and the
/// reverse; submits take what is stored.
pub async fn an_operator_changes_windows(env: Env) {
    let window = Window::Sliding(seconds(600));
    let ids = env.add_many(several(9, || rated("l", 2, window))).await;
    let mut server = env.claimer("s").await;
    assert_eq!(server.claim(10).await.len(), 2);
    let define = async |limit: Limit| env.storage.define_limit(&limit).await.expect("defines");
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
    let usage = env.storage.limit("l").await.expect("reads").expect("is defined");
    assert_eq!((usage.limit, usage.used, usage.waiting), (Limit::new("l", 8), 8, 1));
    for window in [Window::Fixed(Duration::from_millis(10)), Window::Sliding(seconds(99_000_000))] {
        let refused = env.storage.define_limit(&Limit::rate("l", 1, window)).await;
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
    env.storage.define_limit(&Limit::new("r", 2)).await.expect("defines");
    for _ in 0..2 {
        server.run_all(Ending::Succeeded).await;
    }
    env.storage.define_limit(&rated).await.expect("defines");
    let usage = env.storage.limit("r").await.expect("reads").expect("is defined");
    assert_eq!((usage.limit.window, usage.used), (rated.window, 0));
}
