//! Server processes on one storage are killed, frozen and restarted, and the storage's server is
//! disturbed (SQLite's disk fills up), while jobs of every kind are enqueued. Then everything is healed,
//! and the books are checked.
//!
//! `JOBKIT_CHAOS_SECONDS` says for how long (45 by default), `JOBKIT_CHAOS_STORAGE` on which storage, and
//! `JOBKIT_CHAOS_SEED` repeats what happens, though not when to the microsecond. `cargo xtask chaos` sets
//! all three.

mod books;
mod check;
mod disturb;
mod storages;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jobkit::recurring::Pause;
use jobkit::state::StateName;
use jobkit::storage::{Call, PauseChange};
use jobkit::{Client, ClientOptions};

use self::books::{Shared, submit};
use self::disturb::{Random, disturb};
use self::storages::Place;
use crate::ledger::{Ledger, What};
use crate::worker::eventually;

/// Always the same, so that the test judges the change at hand; `cargo xtask soak` brings others.
const SEED: u64 = 20_787;

/// Pause between two rounds of submits; about 20 jobs each.
const PACE: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread")]
async fn chaos_loses_nothing_and_finishes_everything_once() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seconds = number("JOBKIT_CHAOS_SECONDS").unwrap_or(45);
    let seed = number("JOBKIT_CHAOS_SEED").unwrap_or(SEED);
    let name = std::env::var("JOBKIT_CHAOS_STORAGE").unwrap_or_else(|_| "sqlite".into());
    println!("JOBKIT_CHAOS_STORAGE={name} JOBKIT_CHAOS_SEED={seed} JOBKIT_CHAOS_SECONDS={seconds}");
    let folder = tempfile::tempdir().unwrap();
    let place: Arc<dyn Place> = storages::start(&name, folder.path(), seconds).into();
    let ledger = Ledger::at(folder.path().join("ledger"));
    let storage = jobkit::connect(&place.url()).await.unwrap();
    let options = ClientOptions::default().submit_timeout(Duration::from_secs(5));
    let client = Client::with_options(Arc::clone(&storage), options);
    let books = Shared::default();
    let until = Instant::now() + Duration::from_secs(seconds);
    let adversary = disturb(Random(seed), ledger.clone(), Arc::clone(&place), until);
    let adversary = tokio::spawn(adversary);
    let mut round = 0;
    let mut pace = tokio::time::interval(PACE);
    let mut submits = tokio::task::JoinSet::new();
    while Instant::now() < until {
        pace.tick().await;
        let (client, books) = (client.clone(), Arc::clone(&books));
        // In its own task: while the disk is full the others go on asking.
        submits.spawn(async move { submit(&client, &books, round).await });
        round += 1;
    }
    let (servers, disturbed) = adversary.await.unwrap();
    // Those that are still being repeated end within their time, and a mistake in one is told.
    while let Some(submitted) = submits.join_next().await {
        submitted.unwrap();
    }
    for (schedule, _) in check::SCHEDULES {
        let pause = PauseChange::Pause(Pause::new("chaos", "it is over"));
        assert!(storage.pause_recurring(&Call::default(), schedule, pause).await.unwrap());
    }
    eventually("everything finished", 120, || async {
        let snapshot = storage.snapshot(&Call::default()).await.unwrap();
        let open = StateName::ALL.into_iter().filter(|state| !state.is_finished());
        open.map(|state| snapshot.count(state)).sum::<u64>() == 0
    })
    .await;
    for server in servers {
        server.stop(Duration::from_secs(20)).await;
    }
    let books = std::mem::take(&mut *books.lock().unwrap());
    let lines = ledger.read();
    println!(
        "{} jobs accepted, {} unknown, {} runs; {:?}",
        books.accepted.len(),
        books.unknown.len(),
        lines.iter().filter(|line| line.what == What::Start).count(),
        disturbed.counts
    );
    assert!(books.accepted.len() as u64 >= seconds * 84, "at least 5,000 a minute");
    check::check(&*storage, &books, &lines).await;
    check::limit(&lines, &disturbed);
}
