//! Servers and their proof of life.

use jobkit_core::Incarnation;
use jobkit_core::state::StateName;
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{Announced, Heartbeat, RenewAnswer};

use crate::fixtures::*;

/// SRV-1: an announced server is listed with what it serves, and may claim.
pub async fn an_announced_server_is_listed_and_may_claim(env: Env) {
    let mut server = env.claimer("b").await.queues(&["mail", "default"]).kinds(&["k", "x@2"]);
    server.announce().await;
    env.claimer("a").await;
    let servers = env.second().await.storage.servers().await.expect("lists");
    let names: Vec<_> = servers.iter().map(|it| it.info.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(servers[1].info, server.info());
    assert_eq!((servers[1].heartbeat_at, servers[1].busy), (env.now(), 0));
    assert_eq!(servers[1].order, None);
    let id = env.add(job()).await;
    assert_eq!(server.claim_ids(1).await, [id]);
}

/// SRV-2: a heartbeat proves life on the storage's clock; for an unknown life it says so and changes
/// nothing.
pub async fn a_heartbeat_proves_life(env: Env) {
    let server = env.claimer("s").await;
    env.advance(10);
    let beat = async |incarnation| {
        let beat = Heartbeat { incarnation, busy: 3 };
        env.storage.heartbeat(&env.call(), &beat).await.expect("beats")
    };
    let answer = beat(server.incarnation).await;
    assert_eq!((answer.known, answer.command, answer.now), (true, None, env.now()));
    assert!(answer.paused.is_empty());
    let listed = env.storage.servers().await.expect("lists").remove(0);
    assert_eq!((listed.heartbeat_at, listed.busy), (env.now(), 3));
    assert!(!beat(Incarnation::new()).await.known);
    assert_eq!(env.storage.servers().await.expect("lists"), [listed]);
}

/// SRV-3, RES-2: a server that deregisters is forgotten; attempts it names still run, may be settled,
/// and count no crash when they are rescued.
pub async fn a_server_that_deregisters_counts_no_crash(env: Env) {
    let ids = env.add_many(jobs(3)).await;
    let mut server = env.claimer("s").await;
    let claimed = server.claim(3).await;
    let running = [claimed[0].lease, claimed[1].lease];
    env.storage.remove_server(&env.call(), server.incarnation, &running).await.expect("removes");
    assert!(env.storage.servers().await.expect("lists").is_empty());
    assert!(env.storage.claim(&env.call(), &server.request(9, 1)).await.is_err());
    let states = env.states(&ids).await;
    assert!(states.iter().all(|state| *state == StateName::Processing));
    assert_eq!(server.settled(claimed[0].lease, Ending::Succeeded).await, StateName::Succeeded);
    env.advance(60);
    assert_eq!(env.rescue_all().await.len(), 2);
    assert_eq!(env.record(ids[1]).await.head.crashes, 0);
    assert_eq!(env.record(ids[2]).await.head.crashes, 1, "one that was not named vanished");
    // Saying it twice is as once.
    env.storage.remove_server(&env.call(), server.incarnation, &running).await.expect("removes");
}

/// SRV-4: lives silent for longer than told are forgotten, and no others; their leases stay.
pub async fn silent_servers_are_forgotten_and_keep_their_leases(env: Env) {
    let id = env.add(job()).await;
    let mut dead = env.claimer("dead").await;
    let lease = dead.claim_one().await.lease;
    let alive = env.claimer("alive").await;
    env.advance(60);
    let beat = Heartbeat { incarnation: alive.incarnation, busy: 0 };
    env.storage.heartbeat(&env.call(), &beat).await.expect("beats");
    let remove = async |silent_for| {
        env.storage.remove_dead(&env.call(), seconds(silent_for)).await.expect("removes")
    };
    assert!(remove(60).await.is_empty());
    env.advance(1);
    assert_eq!(remove(60).await, [name("dead")]);
    assert!(remove(60).await.is_empty());
    let left = env.storage.servers().await.expect("lists");
    assert_eq!(left.iter().map(|it| it.info.name.clone()).collect::<Vec<_>>(), [name("alive")]);
    assert_eq!(env.state(id).await, StateName::Processing);
    let beat = Heartbeat { incarnation: dead.incarnation, busy: 1 };
    assert!(!env.storage.heartbeat(&env.call(), &beat).await.expect("beats").known);
    // It was merely slow: it announces itself again, and goes on with what it holds.
    dead.announce().await;
    assert!(matches!(dead.renew_one(lease).await, RenewAnswer::Renewed { .. }));
    let again = dead.repeat_claim(5).await;
    assert_eq!(again.iter().map(|job| job.lease).collect::<Vec<_>>(), [lease]);
    assert_eq!(dead.settled(lease, Ending::Succeeded).await, StateName::Succeeded);
}

/// SRV-5: another life takes the name of a server that drains, or is silent; leases of the former stay what
/// they are.
pub async fn a_successor_takes_the_name_of_a_server_that_drains_or_is_silent(env: Env) {
    let ids = env.add_many(jobs(2)).await;
    let mut former = env.claimer("s").await;
    let lease = former.claim_one().await.lease;
    former.drain().await;
    let listed = env.storage.servers().await.expect("lists").remove(0);
    assert!(listed.info.draining);
    let mut successor = env.claimer("s").await;
    let listed = env.storage.servers().await.expect("lists");
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].info, successor.info());
    assert!(
        env.storage.claim(&env.call(), &former.request(2, 1)).await.is_err(),
        "the former is unknown"
    );
    assert_eq!(successor.claim_ids(10).await, [ids[1]], "its claims begin anew");
    assert_eq!(env.state(ids[0]).await, StateName::Processing);
    assert_eq!(former.settled(lease, Ending::Succeeded).await, StateName::Succeeded);
    // The successor was killed.
    env.advance(25);
    let third = env.claimer("s").await;
    let listed = env.storage.servers().await.expect("lists");
    assert_eq!(
        listed.iter().map(|it| it.info.incarnation).collect::<Vec<_>>(),
        [third.incarnation]
    );
}

/// SRV-7: the name of a live server stays its own, also when that announces itself again; whoever asks for
/// it learns who has it, and changes nothing.
pub async fn a_live_server_keeps_its_name(env: Env) {
    let first = env.claimer("s").await;
    let second = env.stranger("s");
    for wait in [0, 24, 24] {
        env.advance(wait);
        let before = env.storage.servers().await.expect("lists");
        let Announced::NameTaken(holder) = second.try_announce().await else {
            panic!("the name was taken away");
        };
        assert_eq!(holder.info.incarnation, first.incarnation);
        assert_eq!(env.storage.servers().await.expect("lists"), before);
        let beat = Heartbeat { incarnation: second.incarnation, busy: 0 };
        assert!(!env.storage.heartbeat(&env.call(), &beat).await.expect("beats").known);
        first.announce().await;
    }
    // A heartbeat by a clock that was ahead protects nobody.
    env.advance(3600);
    first.announce().await;
    env.advance(-3600);
    second.announce().await;
}

/// SRV-4: a life whose last heartbeat lies ahead of the clock is silent, too: a live one would have sent
/// another since the clock went back.
pub async fn a_server_that_was_heard_ahead_of_the_clock_is_forgotten(env: Env) {
    let now = env.now();
    env.advance(30 * 86_400);
    let _dead = env.claimer("dead").await;
    let alive = env.claimer("alive").await;
    env.move_to(now);
    let beat = Heartbeat { incarnation: alive.incarnation, busy: 0 };
    assert!(env.storage.heartbeat(&env.call(), &beat).await.expect("beats").known);
    let removed = env.storage.remove_dead(&env.call(), seconds(60)).await.expect("removes");
    assert_eq!(removed, [name("dead")]);
    // By less than that it may have been heard by another clock.
    env.advance(-60);
    assert!(env.storage.remove_dead(&env.call(), seconds(60)).await.expect("removes").is_empty());
}
