//! Purge keeps up with what finishes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jobkit_core::state::StateName;
use jobkit_core::storage::{Call, Monitoring};
use jobkit_core::{Client, Job, Jobs, NewJob, Server};
use jobkit_sqlite::{SqliteOptions, SqliteStorage};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Noop;

impl Job for Noop {
    const KIND: &'static str = "noop";
    type Output = ();
}

/// How many jobs have succeeded and are kept, and how many have not run.
async fn look(storage: &SqliteStorage) -> (u64, u64) {
    let snapshot = storage.snapshot(&Call::default()).await.expect("reads");
    let waiting = snapshot.count(StateName::Enqueued) + snapshot.count(StateName::Processing);
    (snapshot.count(StateName::Succeeded), waiting)
}

/// Runs `jobs` jobs; the most that were kept whenever somebody looked.
#[allow(clippy::print_stderr, reason = "figures for whoever measures")]
async fn drain(number: u64, jobs: usize) -> u64 {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let options = SqliteOptions::new(dir.path().join("jobs.db")).max_finished(number);
    let storage = options.open().await.expect("opens");
    let client = Client::new(storage.clone());
    for _ in 0..jobs / 1_000 {
        client.enqueue_many((0..1_000).map(|_| NewJob::new(Noop))).await.expect("stores");
    }
    let began = Instant::now();
    let ran = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&ran);
    let handlers = Jobs::new().handle(move |_: Noop, _| {
        counter.fetch_add(1, Ordering::Relaxed);
        async { Ok::<_, std::io::Error>(()) }
    });
    let server = Server::builder(storage.clone()).jobs(handlers);
    let server = server.build().expect("is fine").start().await.expect("starts");
    let (mut most, mut looks) = (0, 0);
    loop {
        let (kept, waiting) = look(&storage).await;
        most = most.max(kept);
        looks += 1;
        if waiting == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    eprintln!("{jobs} jobs in {:?}, at most {most} kept at {looks} looks", began.elapsed());
    assert_eq!(ran.load(Ordering::Relaxed), jobs as u64);
    server.shutdown().await.expect("stops");
    most
}

#[tokio::test]
async fn a_bounded_file_holds_hardly_more_than_its_number_in_a_drain() {
    let most = drain(5_000, 20_000).await;
    assert!((4_000..=6_000).contains(&most), "{most}");
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn a_million_jobs_pass_a_bounded_file() {
    let most = drain(10_000, 1_000_000).await;
    assert!(most <= 12_000, "{most}");
}
