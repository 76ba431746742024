//! The server for tests.

use std::time::Duration;

use jobkit_core::limit::Window;
use jobkit_core::state::StateName;
use jobkit_core::testing::{Fault, TestServer};
use jobkit_core::unique::Until;
use jobkit_core::{Batch, Recurring, RetryPolicy};

use crate::support::{Act, Shared, jobs, script};

fn server() -> (TestServer, Shared) {
    let ledger = Shared::default();
    (TestServer::new(jobs(&ledger)), ledger)
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn delays_and_retries_happen_in_virtual_time() {
    let (mut t, ledger) = server();
    let client = t.client();
    client.enqueue(script("later", Act::Return(1)).delay(HOUR * 48)).await.unwrap();
    let retried = script("retried", Act::FailTimes(2)).retry(RetryPolicy::fixed(HOUR));
    let retried = client.enqueue(retried).await.unwrap();
    t.run_until_idle().await;
    assert_eq!(t.job(retried.id()).await.0.record.state(), StateName::Scheduled);
    t.advance(HOUR).await;
    assert_eq!(ledger.lock().unwrap().starts.len(), 2);
    t.advance(HOUR * 47).await;
    assert_eq!(t.succeeded("script").await, 2);
    // Made long before, by the storage's clock: values of the application are not refused.
    client.enqueue(script("after", Act::Return(1))).await.unwrap();
    t.run_until_idle().await;
    assert_eq!(t.succeeded("script").await, 3);
}

#[tokio::test]
async fn windows_and_periods_pass_in_virtual_time() {
    let (mut t, ledger) = server();
    let client = t.client();
    let window = Window::Fixed(HOUR);
    for n in 0..5 {
        let job = script("call", Act::Return(n)).rate_limit("carrier", 2, window);
        client.enqueue(job).await.unwrap();
    }
    let daily =
        || script("daily", Act::Return(1)).unique("u").unique_until(Until::Period(HOUR * 24));
    let first = client.enqueue(daily()).await.unwrap();
    t.run_until_idle().await;
    let starts = || ledger.lock().unwrap().starts.len();
    assert_eq!(starts(), 3);
    t.advance(HOUR).await;
    assert_eq!(starts(), 5);
    t.advance(HOUR).await;
    assert_eq!(starts(), 6);
    assert_eq!(client.enqueue(daily()).await.unwrap().id(), first.id());
    t.advance(HOUR * 22).await;
    assert_ne!(client.enqueue(daily()).await.unwrap().id(), first.id());
}

#[tokio::test]
async fn flows_batches_and_schedules_run_to_their_end() {
    let ledger = Shared::default();
    let tick = Recurring::cron("tick", "0 * * * *").job(script("tick", Act::Return(1)));
    let mut t = TestServer::new(jobs(&ledger)).recurring(tick);
    let members = (0..50).map(|n| script("member", Act::Return(n)));
    let batch = Batch::new("b").jobs(members).then(script("then", Act::Return(1)));
    t.client().enqueue(batch).await.unwrap();
    t.run_until_idle().await;
    assert_eq!(t.succeeded("script").await, 51);
    assert_eq!(ledger.lock().unwrap().ends.last().map(String::as_str), Some("then"));
    t.advance(HOUR * 24).await;
    assert_eq!(t.succeeded("script").await, 51 + 24, "each hour");
}

#[tokio::test]
async fn a_lost_worker_and_a_lost_answer_are_survived() {
    let (mut t, ledger) = server();
    let job = t.client().enqueue(script("a", Act::Return(7))).await.unwrap();
    t.lose_next_worker();
    t.run_until_idle().await;
    assert_eq!(t.job(job.id()).await.0.record.state(), StateName::Processing);
    t.advance(HOUR).await;
    let record = t.job(job.id()).await.0.record;
    assert_eq!((record.state(), record.head.crashes), (StateName::Succeeded, 1));
    assert_eq!(ledger.lock().unwrap().starts.len(), 2);
    for method in ["submit", "claim", "settle"] {
        t.fail_next(method, Fault::AnswerLost);
        t.fail_next(method, Fault::Before);
    }
    t.client().enqueue(script("b", Act::Return(7))).await.unwrap();
    t.run_until_idle().await;
    assert_eq!(ledger.lock().unwrap().starts.len(), 3);
    assert_eq!(t.jobs().await.len(), 2);
}

#[tokio::test]
async fn assertions_tell_what_there_is() {
    let (t, _) = server();
    let one = script("one", Act::Return(1));
    t.assert_none_enqueued("script").await;
    let one = t.client().enqueue(one).await.unwrap();
    t.client().delete(one.id()).await.unwrap();
    t.assert_enqueued(script("one", Act::Return(1))).await;
    t.assert_none_enqueued("other").await;
    let told = tokio::spawn(async move { t.assert_enqueued(script("two", Act::Return(2))).await });
    let panic = told.await.unwrap_err().into_panic();
    let text = panic.downcast_ref::<String>().unwrap();
    assert!(text.contains(r#""name":"two""#) && text.contains(r#""name":"one""#), "{text}");
    assert!(text.contains("test_server.rs"), "{text}");
    assert!(text.contains(" is deleted (on request)"), "{text}");
}

#[tokio::test]
async fn batches_inside_a_batch_run_to_their_end() {
    let (mut t, ledger) = server();
    let region = |name: &str, count| {
        let members = (0..count).map(|n| script("member", Act::Return(n)));
        Batch::new(name).jobs(members).then(script(name, Act::Return(1)))
    };
    // The second one is larger than a submission, and has one inside.
    let world = Batch::new("world")
        .job(script("member", Act::Return(1)))
        .batch(region("north", 3))
        .batch(region("south", 1_500).batch(region("cape", 2)))
        .then(script("world", Act::Return(1)));
    let world = t.client().enqueue(world).await.unwrap();
    t.run_until_idle().await;
    t.advance(Duration::from_secs(2)).await;
    let status = world.status().await.unwrap().expect("kept");
    assert_eq!((status.counts.total, status.counts.succeeded), (3, 3));
    let ended =
        |name: &str| ledger.lock().unwrap().ends.iter().filter(|end| **end == *name).count();
    assert_eq!(ended("member"), 1 + 3 + 1_500 + 2);
    assert_eq!(["north", "south", "cape", "world"].map(ended), [1; 4]);
    let place = |name: &str| ledger.lock().unwrap().ends.iter().rposition(|end| *end == *name);
    assert!(place("world") > place("member"), "it waits for the members of every batch inside");
}

#[tokio::test]
async fn of_debounced_jobs_the_last_runs_and_of_throttled_ones_the_first() {
    let (mut t, ledger) = server();
    let client = t.client();
    let debounced = |n: u64| script(&format!("d{n}"), Act::Return(n)).debounce("d", HOUR);
    let throttled = |n: u64| script(&format!("t{n}"), Act::Return(n)).throttle("t", HOUR);
    for n in 0..5 {
        client.enqueue(debounced(n)).await.unwrap();
        client.enqueue(throttled(n)).await.unwrap();
        t.advance(HOUR / 4).await;
    }
    // The first period of the throttle has passed before the fifth came; no quiet hour has.
    assert_eq!(ledger.lock().unwrap().ends, ["t0", "t4"]);
    t.advance(HOUR).await;
    assert_eq!(ledger.lock().unwrap().ends, ["t0", "t4", "d4"]);
    // One that runs is past being replaced, and begins anew.
    client.enqueue(debounced(9)).await.unwrap();
    t.advance(HOUR).await;
    assert_eq!(ledger.lock().unwrap().ends.last().map(String::as_str), Some("d9"));
}

#[tokio::test]
async fn a_misspelt_kind_is_no_zero() {
    let (t, _) = server();
    assert_eq!(t.succeeded("script").await, 0);
    let asked = tokio::spawn(async move { t.succeeded("scritp").await }).await;
    let panic = asked.unwrap_err().into_panic();
    let words = panic.downcast_ref::<String>().unwrap();
    assert!(words.contains("no job is of kind `scritp`; the kinds are: "), "{words}");
    assert!(words.contains("script"), "{words}");
}
