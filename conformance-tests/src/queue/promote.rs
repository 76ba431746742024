//! `promote_due`.

use jobkit_core::JobId;
use jobkit_core::record::NewRecord;
use jobkit_core::state::{Reason, Start, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::StepRequest;

use crate::fixtures::*;

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
        env.storage.promote_due(&env.call(), StepRequest { max }).await.expect("promotes")
    };
    assert_eq!(step(1).await.count, 1);
    assert_eq!(env.state(first).await, StateName::Enqueued, "the earliest instant goes first");
    assert_eq!(step(10).await.count, 1);
    assert_eq!(step(10).await.count, 0);
    assert_eq!(env.states(&[later, deleted]).await, [StateName::Scheduled, StateName::Deleted]);
    let record = env.record(second).await;
    assert_eq!((record.head.reason, record.enqueued_at), (Reason::Due, Some(env.now())));
    let mut server = env.claimer("s").await;
    assert_eq!(server.claim_ids(10).await, [second, first], "the place is that of the submit");
}

/// PRO-2: a promotion answers the next due instant of what is left, and the storage's clock.
pub async fn promotion_answers_the_next_instant(env: Env) {
    let step = async |max| {
        env.storage.promote_due(&env.call(), StepRequest { max }).await.expect("promotes")
    };
    assert_eq!(step(10).await.next_due_at, None);
    for seconds in [40, 10, 25] {
        env.add(NewRecord { start: Start::At(env.after(seconds)), ..job() }).await;
    }
    let (ten, forty) = (env.after(10), env.after(40));
    assert_eq!(step(10).await.next_due_at, Some(ten));
    let looked = step(0).await;
    assert_eq!((looked.count, looked.next_due_at), (0, Some(ten)), "a mere look");
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

/// PRO-4: the delay of a job that was scheduled while the clock was ahead counts from now on, a retry's too; an
/// instant that was named stays.
pub async fn a_delay_begun_ahead_of_the_clock_begins_again(env: Env) {
    let now = env.now();
    let mut server = env.claimer("s").await;
    let retried = env.add(job()).await;
    env.advance(30 * 86_400);
    let lease = server.claim_one().await.lease;
    server.settled(lease, Ending::Retry { delay: seconds(100) }).await;
    env.move_to(now);
    let step = async |max| {
        env.storage.promote_due(&env.call(), StepRequest { max }).await.expect("promotes")
    };
    assert_eq!(step(10).await.count, 0);
    env.advance(99);
    assert_eq!(step(10).await.count, 0);
    env.advance(1);
    assert_eq!(step(10).await.count, 1);
    assert_eq!(env.state(retried).await, StateName::Enqueued);
    // Of several, in steps; and by a little another server's clock may differ.
    let named = env.after(86_400);
    env.advance(600);
    let at = NewRecord { start: Start::At(named), ..job() };
    let at = env.add(at).await;
    let after = || NewRecord { start: Start::After(seconds(100)), ..job() };
    let delayed = [env.add(after()).await, env.add(after()).await];
    env.advance(-60);
    assert_eq!(step(10).await.next_due_at, Some(env.after(160)));
    env.advance(-540);
    for _ in 0..3 {
        assert_eq!(step(1).await.count, 0);
    }
    assert_eq!(step(10).await.next_due_at, Some(env.after(100)));
    env.advance(100);
    assert_eq!(step(10).await.count, 2);
    assert_eq!(env.states(&delayed).await, [StateName::Enqueued; 2]);
    assert_eq!(step(10).await.next_due_at, Some(named));
    assert_eq!(env.state(at).await, StateName::Scheduled);
}
