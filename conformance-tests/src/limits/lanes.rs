//! What is let go where servers come and go, and nobody serves some of those who wait.

use jobkit_core::limit::Limit;
use jobkit_core::record::NewRecord;
use jobkit_core::recurring::Pause;
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{Action, Level, PauseTarget, Settle};

use super::park_all;
use crate::fixtures::*;

/// A job of another kind, under a limit.
fn limited_of(kind: &str, limit: &str, max: u32) -> NewRecord {
    NewRecord { kind: name(kind), ..limited(limit, max) }
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
    env.storage.remove_server(&env.call(), other.incarnation, &[]).await.expect("deregisters");
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
    env.storage.remove_server(&env.call(), other.incarnation, &[]).await.expect("deregisters");
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
    env.storage.remove_server(&env.call(), mail.incarnation, &[]).await.expect("deregisters");
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
    const LANES: usize = 600;
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
        env.storage.remove_server(&env.call(), other.incarnation, &[]).await.expect("deregisters");
    }
    assert_eq!(env.usage("l").await, (1, 2 * LANES as u64));
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
    assert_eq!(env.usage("l").await, (0, LANES as u64), "of each lane one is let go");
    let step = env.sweep_once(500).await;
    assert_eq!((step.done, step.more), (0, false));
    for queue in [0, 300, 599] {
        let mut other = env.stranger(&format!("other-{queue}")).queues(&[&queues[queue]]);
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
    env.storage.define_limit(&env.call(), &Limit::new("l", 11)).await.expect("defines");
    assert_eq!(env.usage("l").await, (1, 690));
    env.sweep().await;
    assert_eq!(env.usage("l").await, (1, 690), "the room is given once");
    assert_eq!(server.claim_ids(500).await, ids[..10]);
    env.storage.define_limit(&env.call(), &Limit::new("l", 1_000)).await.expect("defines");
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
        env.storage.pause(&env.call(), &target, &Pause::new("op", "why")).await.expect("pauses");
        env.sweep().await;
        assert_eq!(server.claim_ids(500).await, ids);
    }
}
