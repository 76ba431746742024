//! `wake_ups`.

use std::time::Duration;

use jobkit_core::record::NewRecord;
use jobkit_core::state::{Reason, Start};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{Action, Level, OtherPushes, PauseTarget, WakeUp, WakeUpFilter};

use crate::fixtures::*;

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
    env.storage.claim(&env.call(), &request).await.expect("claims");
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
    if env.storage.pause(&env.call(), &queue, &pause).await.is_ok() {
        env.add(job()).await;
        let mut wake_ups = env.storage.wake_ups(filter).await.expect("subscribes").expect("pushes");
        env.storage.resume(&env.call(), &queue).await.expect("resumes");
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
    server.settled(lease, Ending::Retry { delay: seconds(50) }).await;
    wait_for(WakeUp::Due(env.after(50))).await;
    env.change(id, Action::Reschedule { run_at: env.after(40) }).await;
    wait_for(WakeUp::Due(env.after(40))).await;
    env.change(id, Action::RunNow).await;
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
    assert!(env.storage.claim(&env.call(), &request).await.expect("claims").jobs.is_empty());
    server.sequence = 1;
    let id = env.add(job()).await;
    assert_eq!(server.claim_ids(1).await, [id]);
}
