//! How many jobs of one queue run at once on a server.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use jobkit_core::server::Prefetch;
use jobkit_core::state::StateName;
use jobkit_core::storage::{Call, Monitoring, ServerRegistry};
use jobkit_core::testing::FaultyStorage;
use jobkit_core::{
    Client, Failure, Job, JobContext, Jobs, MemoryStorage, NewJob, Server, ServerBuilder,
    ServerOptions,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::support::{eventually, quick};

#[derive(Serialize, Deserialize)]
struct Work {}

impl Job for Work {
    const KIND: &'static str = "work";
    type Output = ();
}

/// By queue: how many run now, and how many did at most.
type Seen = Arc<Mutex<BTreeMap<String, (usize, usize)>>>;

/// Mails wait for the gate; the others end by themselves.
fn work(seen: &Seen, gate: &Arc<Semaphore>) -> Jobs {
    let (seen, gate) = (Arc::clone(seen), Arc::clone(gate));
    Jobs::new().handle(move |_: Work, ctx: JobContext| {
        let (seen, gate) = (Arc::clone(&seen), Arc::clone(&gate));
        async move {
            let queue = ctx.queue().to_string();
            {
                let mut seen = seen.lock().unwrap();
                let (now, most) = seen.entry(queue.clone()).or_default();
                *now += 1;
                *most = (*most).max(*now);
            }
            if queue == "mail" {
                gate.acquire().await.unwrap().forget();
            } else {
                tokio::task::yield_now().await;
            }
            seen.lock().unwrap().get_mut(&queue).unwrap().0 -= 1;
            Ok::<_, Failure>(())
        }
    })
}

async fn enqueue(client: &Client, queue: &str, count: usize) {
    for _ in 0..count {
        client.enqueue(NewJob::new(Work {}).queue(queue)).await.unwrap();
    }
}

async fn succeeded(storage: &MemoryStorage) -> u64 {
    storage.snapshot(&Call::default()).await.unwrap().count(StateName::Succeeded)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_runs_no_more_than_its_number_and_holds_up_no_other() {
    let storage = MemoryStorage::new();
    let client = Client::new(storage.clone());
    let (seen, gate) = (Seen::default(), Arc::new(Semaphore::new(0)));
    enqueue(&client, "mail", 40).await;
    let options = quick().workers(10).prefetch(Prefetch::Fixed(50));
    let server = Server::builder(storage.clone())
        .jobs(work(&seen, &gate))
        .options(options)
        .queues(["mail", "default"])
        .queue_workers("mail", 3);
    let server = server.build().unwrap().start().await.unwrap();
    let running = |queue: &str| seen.lock().unwrap().get(queue).copied().unwrap_or_default();
    eventually("three mails run", || async { running("mail").0 == 3 }).await;
    let held = storage.snapshot(&Call::default()).await.unwrap().count(StateName::Processing);
    assert_eq!(held, 3, "none is claimed ahead");
    enqueue(&client, "default", 30).await;
    eventually("the others go on", || async { succeeded(&storage).await == 30 }).await;
    assert_eq!(running("mail"), (3, 3));
    gate.add_permits(40);
    eventually("all ran", || async { succeeded(&storage).await == 70 }).await;
    assert_eq!(running("mail"), (0, 3), "and never more at once");
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_queues_are_all_full_asks_for_nothing() {
    let storage = MemoryStorage::new();
    let client = Client::new(storage.clone());
    let (seen, gate) = (Seen::default(), Arc::new(Semaphore::new(0)));
    let counted = FaultyStorage::new(Arc::new(storage.clone()));
    let server = Server::builder(counted.clone())
        .jobs(work(&seen, &gate))
        .options(quick())
        .queues(["mail"])
        .only_queues()
        .queue_workers("mail", 1);
    let server = server.build().unwrap().start().await.unwrap();
    enqueue(&client, "mail", 5).await;
    eventually("one runs", || async { seen.lock().unwrap().get("mail").is_some() }).await;
    let claims = || counted.calls("claim") + counted.calls("settle_and_claim");
    let before = claims();
    // Each is pushed to the server, which has no room.
    enqueue(&client, "mail", 20).await;
    let renewed = counted.calls("renew");
    eventually("it went on meanwhile", || async { counted.calls("renew") > renewed + 1 }).await;
    assert!(claims() <= before + 1, "{} claims", claims() - before);
    gate.add_permits(25);
    eventually("all ran", || async { succeeded(&storage).await == 25 }).await;
    assert_eq!(seen.lock().unwrap()["mail"].1, 1);
    server.shutdown().await.unwrap();
}

fn builder(options: ServerOptions) -> ServerBuilder {
    let jobs = Jobs::new().handle(|_: Work, _| async { Ok::<_, Failure>(()) });
    Server::builder(MemoryStorage::new()).jobs(jobs).options(options).only_queues()
}

#[tokio::test]
async fn workers_are_the_sum_where_every_queue_has_a_number() {
    let workers = async |server: ServerBuilder| {
        let storage = MemoryStorage::new();
        let server = server.client(&Client::new(storage.clone())).build().unwrap();
        let handle = server.start().await.unwrap();
        let announced = storage.servers().await.unwrap()[0].info.workers;
        handle.abort();
        announced
    };
    let both = || {
        let options = ServerOptions::default().queue_workers("mail", 5);
        builder(options).queues(["mail", "default"]).queue_workers("default", 30)
    };
    assert_eq!(workers(both()).await, 35);
    assert_eq!(workers(both().workers(7)).await, 7, "what was said stays");
    let one = builder(ServerOptions::default()).queues(["mail", "default"]);
    assert_eq!(workers(one.queue_workers("mail", 5)).await, 20, "the other one has no number");
}

#[tokio::test]
async fn numbers_of_queues_are_checked_with_everything_else() {
    let server = builder(ServerOptions::default().workers(0))
        .queues(["mail", "default"])
        .queue_workers("mial", 5)
        .queue_workers("mail", 0);
    let error = server.build().expect_err("three mistakes").to_string();
    for part in [
        "workers",
        "`mail` are 0, where 1 to 10,000 are allowed",
        "`mial`, which this server does not serve; it serves: mail, default",
    ] {
        assert!(error.contains(part), "{part} in {error}");
    }
}
