//! Clients and servers beside what a stranger's transaction holds, in virtual time.

use std::time::Duration;

use jobkit_core::state::StateName;
use jobkit_core::testing::Held;
use jobkit_core::{Batch, Recurring, ServerOptions};
use tokio::time::Instant;

use crate::support::{Act, Bench, eventually, script};

const SOON: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn a_held_key_delays_its_own_job_alone() {
    let bench = Bench::new();
    let hold = bench.storage.hold(Held::Key("held".into()));
    let client = bench.client.clone();
    let job = script("blocked", Act::Return(1)).unique("held");
    let blocked = tokio::spawn(async move { client.enqueue(job).await });
    for n in 0..20 {
        let began = Instant::now();
        let key = format!("free {n}");
        bench.client.enqueue(script("free", Act::Return(1)).unique(key)).await.unwrap();
        assert!(began.elapsed() < Duration::from_millis(20), "{:?}", began.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!blocked.is_finished());
    drop(hold);
    let began = Instant::now();
    blocked.await.unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_stays_held_is_an_error_that_says_so() {
    let bench = Bench::new();
    let _hold = bench.storage.hold(Held::Key("held".into()));
    let job = script("blocked", Act::Return(1)).unique("held");
    let error = bench.client.enqueue(job).await.unwrap_err();
    assert_eq!(error.kind(), jobkit_core::ErrorKind::Unavailable);
    assert!(error.to_string().contains("another transaction"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_outcome_of_a_held_job_is_stored_when_it_is_free_and_others_go_on() {
    let bench = Bench::new();
    let _server = bench.server(ServerOptions::default()).await;
    let held = bench.client.enqueue(script("held", Act::Sleep(300))).await.unwrap();
    eventually("it runs", || async { bench.starts_of("held") == 1 }).await;
    let hold = bench.storage.hold(Held::Job(held.id()));
    tokio::time::sleep(Duration::from_secs(2)).await;
    for _ in 0..20 {
        let other = bench.client.enqueue(script("other", Act::Return(1))).await.unwrap();
        let began = Instant::now();
        other.wait(SOON).await.unwrap();
        assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    }
    assert_eq!(bench.client.state(held.id()).await.unwrap(), Some(StateName::Processing));
    drop(hold);
    held.wait(SOON).await.unwrap();
    assert_eq!(bench.starts_of("held"), 1);
}

#[tokio::test(start_paused = true)]
async fn jobs_of_a_held_limit_run_when_it_is_free_and_others_go_on() {
    let bench = Bench::new();
    let _server = bench.server(ServerOptions::default()).await;
    let limited = |limit: &str| script(limit, Act::Return(1)).limit(limit, 3);
    bench.client.enqueue(limited("held")).await.unwrap().wait(SOON).await.unwrap();
    let hold = bench.storage.hold(Held::Limit("held".into()));
    let waits = bench.client.enqueue(limited("held")).await.unwrap();
    let other = bench.client.enqueue(limited("free")).await.unwrap();
    let began = Instant::now();
    other.wait(SOON).await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(bench.starts_of("held"), 1);
    drop(hold);
    let began = Instant::now();
    waits.wait(SOON).await.unwrap();
    // No push tells when a stranger lets go; the claim said when to come again.
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

/// In real time, which the storage's clock follows.
#[tokio::test(flavor = "multi_thread")]
async fn a_held_schedule_fires_its_occurrence_when_it_is_free() {
    let bench = Bench::new();
    let _server = bench.server(ServerOptions::default()).await;
    let recurring =
        |id| Recurring::every(id, Duration::from_secs(2)).job(script(id, Act::Return(1)));
    bench.client.save_recurring(recurring("held")).await.unwrap();
    bench.client.save_recurring(recurring("free")).await.unwrap();
    let hold = bench.storage.hold(Held::Schedule("held".into()));
    eventually("the other fires", || async { bench.starts_of("free") >= 1 }).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(bench.starts_of("held"), 0);
    drop(hold);
    eventually("the occurrence was not lost", || async { bench.starts_of("held") >= 1 }).await;
}

#[tokio::test(start_paused = true)]
async fn a_trigger_beside_a_held_schedule_waits_and_gives_up() {
    let bench = Bench::new();
    let recurring = Recurring::every("held", Duration::from_secs(60));
    let recurring = recurring.job(script("held", Act::Return(1)));
    bench.client.save_recurring(recurring).await.unwrap();
    let hold = bench.storage.hold(Held::Schedule("held".into()));
    let error = bench.client.trigger_recurring("held").await.unwrap_err();
    assert_eq!(error.kind(), jobkit_core::ErrorKind::Unavailable);
    drop(hold);
    bench.client.trigger_recurring("held").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_held_batch_is_cancelled_when_it_is_free() {
    let bench = Bench::new();
    let hour = Duration::from_secs(3600);
    let batch = Batch::new("b").job(script("member", Act::Return(1)).delay(hour));
    let batch = bench.client.enqueue(batch).await.unwrap();
    let hold = bench.storage.hold(Held::Batch(batch.id()));
    let cancels = batch.clone();
    let cancelled = tokio::spawn(async move { cancels.cancel().await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!cancelled.is_finished());
    drop(hold);
    cancelled.await.unwrap().unwrap();
    assert_eq!(batch.status().await.unwrap().unwrap().counts.deleted, 1);
}
