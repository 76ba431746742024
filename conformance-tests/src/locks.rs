//! Named locks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jobkit_core::storage::{LockLease, LockRequest};
use jobkit_core::{ErrorKind, Incarnation};

use crate::fixtures::*;

fn lock(name: &str, owner: Incarnation) -> LockRequest {
    LockRequest { name: name.into(), owner, ttl: seconds(30) }
}

async fn acquire(env: &Env, owner: Incarnation) -> Option<LockLease> {
    env.storage.try_acquire(&env.call(), &lock("l", owner)).await.expect("asks for the lock")
}

/// LCK-1, G12: while one holds a lock nobody else gets it, and other locks are free.
pub async fn a_held_lock_is_not_given_to_another(env: Env) {
    let (ada, bob) = (Incarnation::new(), Incarnation::new());
    let held = acquire(&env, ada).await.expect("it is free");
    assert_eq!(held.expires_at, env.after(30));
    assert!(held.generation > 0);
    assert_eq!(acquire(&env.second().await, bob).await, None);
    env.advance(29);
    assert_eq!(acquire(&env, bob).await, None);
    // Any text names a lock.
    let other = lock("böse'; -- \u{1F512}", bob);
    assert!(env.storage.try_acquire(&env.call(), &other).await.expect("asks").is_some());
}

/// LCK-1, G12: of many who want a lock at the same time one gets it, again and again.
pub async fn of_many_one_gets_the_lock(env: Env) {
    let other = env.second().await;
    let inside = Arc::new(AtomicBool::new(false));
    let tasks = (0..8).map(|i| {
        let env = if i % 2 == 0 { env.clone() } else { other.clone() };
        let inside = inside.clone();
        tokio::spawn(async move {
            let me = Incarnation::new();
            let mut generations = Vec::new();
            while generations.len() < 10 {
                if let Some(held) = acquire(&env, me).await {
                    assert!(!inside.swap(true, Ordering::SeqCst), "two are inside");
                    tokio::task::yield_now().await;
                    generations.push(held.generation);
                    assert!(inside.swap(false, Ordering::SeqCst));
                    let request = lock("l", me);
                    let freed =
                        env.storage.release_lock(&env.call(), &request, held.generation).await;
                    assert!(freed.expect("releases"));
                }
                tokio::task::yield_now().await;
            }
            assert!(generations.is_sorted(), "generations grow: {generations:?}");
            generations
        })
    });
    let mut all: Vec<u64> = join(tasks.collect()).await.into_iter().flatten().collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 80, "each owner had a generation of its own");
}

/// LCK-2, G12: every new owner gets a greater generation, after a release as after an expiry.
pub async fn each_new_owner_gets_a_greater_generation(env: Env) {
    let mut last = 0;
    for round in 0..6 {
        let owner = Incarnation::new();
        let held = acquire(&env, owner).await.expect("it is free");
        assert!(held.generation > last, "{} after {last}", held.generation);
        last = held.generation;
        if round % 2 == 0 {
            let freed = env.storage.release_lock(&env.call(), &lock("l", owner), last).await;
            assert!(freed.expect("releases"));
        } else {
            env.advance(31);
        }
    }
}

/// LCK-3: an owner that acquires again what it holds gets the same generation and the new expiry.
pub async fn a_repeated_acquire_answers_the_same_generation(env: Env) {
    let owner = Incarnation::new();
    let first = acquire(&env, owner).await.expect("it is free");
    env.advance(20);
    let again = acquire(&env, owner).await.expect("it is its own");
    assert_eq!(again, LockLease { expires_at: env.after(30), ..first });
    env.advance(20);
    assert_eq!(acquire(&env, Incarnation::new()).await, None);
}

/// LCK-4: renew and release by anyone but the holder change nothing.
pub async fn only_the_holder_renews_and_releases(env: Env) {
    let (ada, bob) = (Incarnation::new(), Incarnation::new());
    let held = acquire(&env, ada).await.expect("it is free");
    let generation = held.generation;
    let storage = &env.storage;
    let renew = async |owner, generation| {
        storage.renew_lock(&env.call(), &lock("l", owner), generation).await.expect("renews")
    };
    let release = async |owner, generation| {
        storage.release_lock(&env.call(), &lock("l", owner), generation).await.expect("releases")
    };
    for (owner, generation) in [(bob, generation), (ada, generation + 1)] {
        assert!(!renew(owner, generation).await);
        assert!(!release(owner, generation).await);
    }
    assert!(!storage.renew_lock(&env.call(), &lock("none", ada), 1).await.expect("renews"));
    env.advance(20);
    assert!(renew(ada, generation).await);
    env.advance(20);
    assert_eq!(acquire(&env, bob).await, None, "the renewal holds");
    assert!(release(ada, generation).await);
    assert!(!release(ada, generation).await);
    assert!(!renew(ada, generation).await);
    assert!(acquire(&env, bob).await.is_some());
}

/// LCK-5: a lock that expired is free for others; its former owner's renew answers `false` once another
/// has taken it.
pub async fn an_expired_lock_is_free_for_others(env: Env) {
    let (ada, bob) = (Incarnation::new(), Incarnation::new());
    let old = acquire(&env, ada).await.expect("it is free");
    env.advance(30);
    let new = acquire(&env, bob).await.expect("it has expired");
    assert!(new.generation > old.generation);
    let request = lock("l", ada);
    assert!(!env.storage.renew_lock(&env.call(), &request, old.generation).await.expect("renews"));
    assert!(
        !env.storage.release_lock(&env.call(), &request, old.generation).await.expect("releases")
    );
    assert_eq!(acquire(&env, ada).await, None);
}

/// LCK-1, G20: a name or time out of range is refused.
pub async fn a_lock_out_of_range_is_refused(env: Env) {
    let owner = Incarnation::new();
    let plain = lock("l", owner);
    for request in [
        LockRequest { name: String::new(), ..plain.clone() },
        LockRequest { name: "l".repeat(201), ..plain.clone() },
        LockRequest { name: "a\0b".into(), ..plain.clone() },
        LockRequest { name: "l ".into(), ..plain.clone() },
        LockRequest { ttl: seconds(25 * 3600), ..plain.clone() },
    ] {
        let error = env.storage.try_acquire(&env.call(), &request).await.expect_err("is refused");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{request:?}");
    }
}

/// LCK-6, G12: a lock that was taken while the clock was ahead is held no longer than who asks for it would
/// hold it, unless its owner renews it.
pub async fn a_lock_taken_ahead_of_the_clock_ends(env: Env) {
    let (ada, bob) = (Incarnation::new(), Incarnation::new());
    let now = env.now();
    env.advance(30 * 86_400);
    let held = acquire(&env, ada).await.expect("it is free");
    env.move_to(now);
    assert_eq!(acquire(&env, bob).await, None, "its owner may be alive");
    env.advance(20);
    let renewed = env.storage.renew_lock(&env.call(), &lock("l", ada), held.generation).await;
    assert!(renewed.expect("renews"), "and then it goes on");
    env.advance(29);
    assert_eq!(acquire(&env, bob).await, None);
    env.advance(1);
    let next = acquire(&env, bob).await.expect("it has expired");
    assert!(next.generation > held.generation);
    env.advance(30 * 86_400);
    let last = acquire(&env, ada).await.expect("it has expired");
    env.move_to(now);
    assert_eq!(acquire(&env, bob).await, None);
    env.advance(29);
    assert_eq!(acquire(&env, bob).await, None);
    env.advance(1);
    assert!(acquire(&env, bob).await.expect("nobody renewed it").generation > last.generation);
}
