//! `#[job]` in the places where functions stand.
#![forbid(unsafe_code, missing_docs)]
#![deny(nonstandard_style)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use jobkit::{Client, Data, JobContext, Jobs, MemoryStorage, On, Server, jobs};

/// Something a server gives.
pub trait Gateway: Send + Sync {
    /// Charges.
    fn charge(&self, order: u64) -> u64;
}

struct Fake;

impl Gateway for Fake {
    fn charge(&self, order: u64) -> u64 {
        order * 100
    }
}

/// A prefix.
#[derive(Debug)]
pub struct Greeting(String);

/// Greets a user.
#[jobkit::job(
    queue = "mail",
    max_attempts = 5,
    timeout = "2m",
    unique = "welcome:{user_id}",
    limit("smtp:{user_id}", 2)
)]
pub async fn send_welcome(
    user_id: u64,
    #[serde(default)] locale: Option<String>,
    greeting: Data<Greeting>,
    ctx: JobContext,
) -> anyhow::Result<String> {
    ctx.info("welcome");
    Ok(format!("{} {user_id} {}", greeting.0, locale.unwrap_or_default()))
}

#[allow(unreachable_pub, reason = "as users write it")]
mod billing {
    #[derive(Debug, serde::Serialize, serde::Deserialize, PartialEq)]
    pub struct Receipt {
        pub cents: u64,
    }

    #[derive(Debug)]
    pub struct PayError;

    impl std::fmt::Display for PayError {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("no money")
        }
    }

    impl std::error::Error for PayError {}

    #[jobkit::job]
    pub async fn charge_card(
        order: u64,
        pay: jobkit::Data<dyn super::Gateway>,
    ) -> Result<Receipt, PayError> {
        if order == 0 {
            return Err(PayError);
        }
        Ok(Receipt { cents: pay.charge(order) })
    }

    pub fn jobs() -> jobkit::Jobs {
        jobkit::jobs![charge_card]
    }
}

use billing::charge_card;

/// Adds on the blocking pool.
#[jobkit::job(blocking, name = "blocking.add")]
pub fn add(mut a: u32, b: u32) -> std::io::Result<u32> {
    a += b;
    Ok(a)
}

/// Panics on the blocking pool.
#[jobkit::job(blocking)]
pub fn blocking_panic() {
    panic!("blocked and panicked");
}

/// Counts down by enqueueing itself.
#[jobkit::job(queue = "walk")]
pub async fn walk(n: u32, ctx: JobContext) -> anyhow::Result<()> {
    if n > 0 {
        ctx.client().enqueue(walk(n - 1)).await?;
    }
    Ok(())
}

/// A place for an associated function.
#[derive(Debug)]
pub struct Reports;

impl Reports {
    /// Nothing to return.
    #[jobkit::job]
    pub async fn nightly() {}
}

static SLOW_RUNS: AtomicU32 = AtomicU32::new(0);

/// Blocks for longer than it may.
#[jobkit::job(blocking)]
pub fn slow() -> std::io::Result<u32> {
    SLOW_RUNS.fetch_add(1, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(1_500));
    Ok(7)
}

/// Code on the blocking pool cannot be ended, so it is not begun a second time beside itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_blocking_job_that_is_too_slow_runs_once() {
    let storage = MemoryStorage::new();
    let client = Client::new(storage.clone());
    let options = jobkit::ServerOptions::default()
        .lease(Duration::from_millis(300))
        .cancel_grace(Duration::from_millis(50));
    let server = Server::builder(storage).jobs(jobs![slow]).options(options);
    let _server = server.build().expect("builds").start().await.expect("starts");
    let job = slow().timeout(Duration::from_millis(50));
    let job = client.enqueue(job).await.expect("enqueued");
    assert_eq!(job.wait(SOON).await.expect("its success counts"), 7);
    assert_eq!(SLOW_RUNS.load(Ordering::SeqCst), 1);
}

fn all() -> Jobs {
    jobs![send_welcome, add, blocking_panic, walk, Reports::nightly].merge(billing::jobs())
}

const SOON: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn functions_become_jobs() {
    let storage = MemoryStorage::new();
    let client = Client::new(storage.clone());
    let server = Server::builder(storage)
        .jobs(all())
        .data(Greeting("hello".into()))
        .data_arc::<dyn Gateway>(Arc::new(Fake))
        .build()
        .expect("builds")
        .start()
        .await
        .expect("starts");
    let hello = client.enqueue(send_welcome(42, Some("de".into()))).await.expect("enqueued");
    assert_eq!(hello.wait(SOON).await.expect("done"), "hello 42 de");
    let pay = charge_card(17);
    let after = add(1, 2).after(&pay).when(On::Any);
    let (pay, after) = client.enqueue((pay, after)).await.expect("enqueued");
    assert_eq!(pay.wait(SOON).await.expect("done"), billing::Receipt { cents: 1700 });
    assert_eq!(after.wait(SOON).await.expect("done"), 3);
    let panics = client.enqueue(blocking_panic().max_attempts(1)).await.expect("enqueued");
    let error = panics.wait(SOON).await.expect_err("panics");
    let jobkit::WaitError::Failed(Some(error)) = error else { panic!("{error:?}") };
    assert_eq!(error.detail.message, "blocked and panicked");
    assert!(error.detail.backtrace.expect("a place").contains("jobs.rs"));
    client.enqueue(walk(3)).await.expect("enqueued").wait(SOON).await.expect("done");
    let nightly = client.enqueue(Reports::nightly()).await.expect("enqueued");
    nightly.wait(SOON).await.expect("done");
    server.shutdown().await.expect("stops");
}

#[tokio::test]
async fn options_are_stored_and_missing_data_is_named() {
    let storage = MemoryStorage::new();
    let client = Client::new(storage.clone());
    let one = client.enqueue(send_welcome(7, None)).await.expect("enqueued");
    let two = client.enqueue(send_welcome(7, None)).await.expect("enqueued");
    assert_eq!(one.id(), two.id(), "unique by user");
    let record = client.job(one.id()).await.expect("read").expect("there").record;
    assert_eq!((record.queue.as_str(), record.kind.as_str()), ("mail", "send_welcome"));
    assert_eq!(record.limits[0].name, "smtp:7");
    let error =
        Server::builder(storage).jobs(all()).build().expect_err("data is missing").to_string();
    assert!(error.contains("job `send_welcome` needs Data<jobs::Greeting>"), "{error}");
    assert!(error.contains("job `charge_card` needs Data<dyn jobs::Gateway>"), "{error}");
}
