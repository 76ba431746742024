//! `rescue_expired`.

use jobkit_core::state::{Reason, State, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{Action, Call, RenewAnswer, Renewal, RescueRequest, SettleAnswer};

use crate::fixtures::*;

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
    };
    assert_eq!(env.storage.renew(&env.call(), &request).await.expect("renews").answers.len(), 1);
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
    let mut wrong = seen.clone();
    wrong[0].fence += 1;
    assert!(env.rescue(wrong).await.rescued.is_empty());
    // What is seen and not expired yet is not taken, as by a janitor whose clock was ahead; at its very
    // instant it is.
    let expires_at = seen[0].expires_at;
    let rescue = async |now| {
        let request = RescueRequest { seen: seen.clone(), crash_limit: CRASH_LIMIT, max: 100 };
        env.storage.rescue_expired(&Call::at(now), &request).await.expect("rescues").rescued
    };
    assert_eq!(rescue(expires_at.minus(seconds(1))).await, []);
    assert_eq!(rescue(expires_at).await, [(ids[1], StateName::Enqueued)]);
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
        let request = RescueRequest { seen, crash_limit: CRASH_LIMIT, max };
        env.storage.rescue_expired(&env.call(), &request).await.expect("rescues")
    };
    assert_eq!(look(Vec::new(), 4).await.expired.len(), 4);
    let seen = env.expired().await;
    let step = look(seen, 4).await;
    assert_eq!((step.rescued.len(), step.expired.len()), (4, 4));
}

/// RES-5, G4, G6: a lease of a time when the clock was ahead counts as expired; it is taken on the second look,
/// unless its holder renewed it meanwhile.
pub async fn a_lease_taken_ahead_of_the_clock_is_rescued(env: Env) {
    let ids = env.add_many(jobs(2)).await;
    let (now, mut dead, mut alive) =
        (env.now(), env.claimer("dead").await, env.claimer("alive").await);
    env.advance(30 * 86_400);
    let lost = dead.claim_one().await;
    let held = alive.claim_one().await;
    env.move_to(now);
    let first = env.rescue(Vec::new()).await;
    assert!(first.rescued.is_empty());
    assert_eq!(first.expired.len(), 2);
    assert!(matches!(alive.renew_one(held.lease).await, RenewAnswer::Renewed { .. }));
    env.advance(10);
    let second = env.rescue(first.expired).await;
    assert_eq!(second.rescued, [(ids[0], StateName::Enqueued)]);
    assert!(second.expired.is_empty());
    assert_eq!(dead.settle(lost.lease, Ending::Succeeded).await, SettleAnswer::LeaseLost);
    assert_eq!(alive.settled(held.lease, Ending::Succeeded).await, StateName::Succeeded);
}
