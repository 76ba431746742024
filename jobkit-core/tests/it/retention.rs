//! Purge keeps up with what finishes, and costs nothing where there is nothing to do: in virtual time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jobkit_core::state::{Keep, Retention, StateName};
use jobkit_core::storage::{Call, Monitoring};
use jobkit_core::testing::FaultyStorage;
use jobkit_core::{Client, Jobs, MemoryStorage, Server, ServerHandle};

use crate::clocks::Wrong;
use crate::support::{Act, Script, Shared, eventually, jobs, script};

const NUMBER: u64 = 10_000;
/// A fifth more, as the documentation says.
const AT_MOST: u64 = 12_000;

async fn finished(storage: &MemoryStorage) -> u64 {
    let snapshot = storage.snapshot(&Call::default()).await.unwrap();
    snapshot.by_state[StateName::Succeeded.index()]
}

/// A job that does nothing, but that every 200th looks at how many are kept.
fn looks(storage: &MemoryStorage, most: &Arc<AtomicU64>) -> Jobs {
    let (storage, most) = (storage.clone(), Arc::clone(most));
    let ran = Arc::new(AtomicU64::new(0));
    Jobs::new().handle(move |_: Script, _| {
        let (storage, most, ran) = (storage.clone(), Arc::clone(&most), Arc::clone(&ran));
        async move {
            if ran.fetch_add(1, Ordering::Relaxed) % 200 == 0 {
                most.fetch_max(finished(&storage).await, Ordering::Relaxed);
            }
            Ok::<_, std::io::Error>(serde_json::Value::Null)
        }
    })
}

/// Runs jobs on servers; the most that were kept at any time.
async fn drain(count: usize, servers: usize) -> u64 {
    let storage = MemoryStorage::new().with_max_finished(NUMBER);
    let client = Client::new(storage.clone());
    let most = Arc::new(AtomicU64::new(0));
    let mut running = Vec::new();
    for n in 0..servers {
        let server = Server::builder(storage.clone())
            .name(format!("server-{n}"))
            .jobs(looks(&storage, &most));
        running.push(server.build().unwrap().start().await.unwrap());
    }
    for _ in 0..count / 1_000 {
        let some = (0..1_000).map(|_| script("noop", Act::Return(1)));
        client.enqueue_many(some).await.unwrap();
    }
    eventually("all have run", || async {
        let snapshot = storage.snapshot(&Call::default()).await.unwrap();
        let waiting = [StateName::Enqueued, StateName::Processing];
        waiting.iter().all(|state| snapshot.by_state[state.index()] == 0)
    })
    .await;
    most.fetch_max(finished(&storage).await, Ordering::Relaxed);
    // What is left goes with the next look.
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert_eq!(finished(&storage).await, NUMBER);
    most.load(Ordering::Relaxed)
}

#[tokio::test(start_paused = true)]
async fn a_bounded_storage_holds_hardly_more_than_its_number_in_a_drain() {
    let most = drain(100_000, 1).await;
    assert!((NUMBER..=AT_MOST).contains(&most), "{most}");
}

#[tokio::test(start_paused = true)]
async fn servers_that_share_a_bounded_storage_hold_hardly_more_together() {
    let most = drain(50_000, 4).await;
    assert!((NUMBER..=AT_MOST).contains(&most), "{most}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute"]
#[allow(clippy::print_stderr, reason = "figures for whoever measures")]
async fn a_million_jobs_pass_a_bounded_storage() {
    let began = std::time::Instant::now();
    let storage = MemoryStorage::new().with_max_finished(NUMBER);
    let most = Arc::new(AtomicU64::new(0));
    let server = Server::builder(storage.clone()).jobs(looks(&storage, &most));
    let _server = server.build().unwrap().start().await.unwrap();
    let client = Client::new(storage.clone());
    for _ in 0..1_000 {
        client.enqueue_many((0..1_000).map(|_| script("noop", Act::Return(1)))).await.unwrap();
    }
    loop {
        let snapshot = storage.snapshot(&Call::default()).await.unwrap();
        let waiting = [StateName::Enqueued, StateName::Processing];
        if waiting.iter().all(|state| snapshot.by_state[state.index()] == 0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let most = most.load(Ordering::Relaxed);
    eprintln!("at most {most} in {:?}", began.elapsed());
    assert!(most <= AT_MOST, "{most}");
}

async fn counted(storage: &MemoryStorage) -> (ServerHandle, FaultyStorage) {
    let counted = FaultyStorage::new(Arc::new(storage.clone()));
    let server = Server::builder(counted.clone()).jobs(jobs(&Shared::default()));
    (server.build().unwrap().start().await.unwrap(), counted)
}

#[tokio::test(start_paused = true)]
async fn what_expires_goes_soon_after_and_an_idle_server_looks_once_a_minute() {
    let clock = Wrong::new();
    let (storage, _ids) = clock.storage(&clock);
    let client = Client::new(storage.clone());
    let (_server, counted) = counted(&storage).await;
    let hour = Duration::from_secs(3600);
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(10 * 60)).await;
        let job = script("kept", Act::Return(1)).retention(Retention::all(Keep::For(hour)));
        client.enqueue(job).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(30 * 60)).await;
    assert_eq!(finished(&storage).await, 3);
    let calls = counted.calls("purge_expired");
    assert!((55..80).contains(&calls), "{calls} in an hour");
    for left in [2, 1, 0] {
        // The first is an hour old 70 min after the start.
        tokio::time::sleep(Duration::from_secs(10 * 60 + 20)).await;
        assert_eq!(finished(&storage).await, left);
    }
    let calls = counted.calls("purge_expired");
    tokio::time::sleep(hour).await;
    let calls = counted.calls("purge_expired") - calls;
    assert!((55..80).contains(&calls), "{calls} in an hour");
}

#[tokio::test(start_paused = true)]
async fn a_server_of_a_bounded_storage_looks_no_more_often_while_it_is_idle() {
    let storage = MemoryStorage::new().with_max_finished(NUMBER);
    let (_server, counted) = counted(&storage).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let calls = counted.calls("purge_expired");
    assert!((55..80).contains(&calls), "{calls} in an hour");
}
