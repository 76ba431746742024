//! The engine on a storage far away, in virtual time: how long calls take is the storage's, how many there
//! are is the engine's.

use std::sync::Arc;
use std::time::Duration;

use jobkit_core::state::StateName;
use jobkit_core::storage::Monitoring;
use jobkit_core::testing::{FaultyStorage, Pace};
use jobkit_core::{Client, Job, Jobs, MemoryStorage, NewJob, Server, ServerHandle};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

#[derive(Serialize, Deserialize)]
struct Nothing {}

impl Job for Nothing {
    const KIND: &'static str = "nothing";
    type Output = ();
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}

fn us(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

fn far(storage: &MemoryStorage, call: Duration, item: Duration) -> FaultyStorage {
    let far = FaultyStorage::new(Arc::new(storage.clone()));
    far.pace(Pace { call, item });
    far
}

async fn serve(storage: &FaultyStorage) -> ServerHandle {
    let jobs = Jobs::new().handle(|_: Nothing, _| async { Ok::<_, jobkit_core::Failure>(()) });
    let server = Server::builder(storage.clone()).jobs(jobs).workers(20);
    server.build().unwrap().start().await.unwrap()
}

/// How a drain went, once it was under way.
struct Drained {
    per_second: f64,
    per_claim: f64,
}

async fn drain(jobs: usize, far: impl FnOnce(&MemoryStorage) -> FaultyStorage) -> Drained {
    let storage = MemoryStorage::new();
    let near = Client::new(storage.clone());
    near.enqueue_many((0..jobs).map(|_| NewJob::new(Nothing {}))).await.unwrap();
    let far = far(&storage);
    let server = serve(&far).await;
    // A server that has run nothing yet does not know how much to claim.
    let measured = jobs - jobs / 10;
    until_succeeded(&storage, jobs - measured).await;
    let claims = || far.calls("claim") + far.calls("settle_and_claim");
    let (began, before) = (Instant::now(), claims());
    until_succeeded(&storage, jobs).await;
    let (took, claims) = (began.elapsed().as_secs_f64(), claims() - before);
    server.shutdown().await.unwrap();
    let (jobs, claims) = (number(measured), number(claims));
    Drained { per_second: jobs / took, per_claim: jobs / claims }
}

async fn until_succeeded(storage: &MemoryStorage, jobs: usize) {
    loop {
        let counts = storage.snapshot(None).await.unwrap();
        if counts.count(StateName::Succeeded) >= jobs as u64 {
            return;
        }
        tokio::time::sleep(ms(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn flights_are_full_however_far_the_storage_is() {
    let none = Duration::ZERO;
    for (call, item) in [(us(100), us(15)), (ms(1), none), (ms(4), none), (ms(8), none)] {
        let drained = drain(20_000, |storage| far(storage, call, item)).await;
        let mean = drained.per_claim;
        assert!(mean >= 250.0, "{call:?} a call, {item:?} an item: {mean:.0} jobs a claim");
    }
}

#[tokio::test(start_paused = true)]
async fn a_storage_far_away_is_kept_busy() {
    let drained = drain(40_000, |storage| far(storage, ms(8), us(60))).await;
    // Full flights of 300 would be 11,538.
    assert!(drained.per_second >= 11_500.0, "{:.0} jobs/s", drained.per_second);
}
