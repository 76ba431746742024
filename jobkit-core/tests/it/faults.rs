//! Lost answers and outages, by a storage that fails on demand.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jobkit_core::server::{Prefetch, ServerOptions};
use jobkit_core::state::{State, StateName};
use jobkit_core::stats::Scope;
use jobkit_core::storage::{Call, JobStore, Monitoring};
use jobkit_core::testing::{Fault, FaultyStorage};
use jobkit_core::{Batch, Client, ClientOptions, MemoryStorage, Server, ServerHandle, Storage};

use crate::support::{Act, Shared, eventually, jobs, quick, script};

const SOON: Duration = Duration::from_secs(10);

async fn server(storage: &FaultyStorage, ledger: &Shared, options: ServerOptions) -> ServerHandle {
    let server = Server::builder(storage.clone()).jobs(jobs(ledger)).options(options);
    server.build().unwrap().start().await.unwrap()
}

fn storages() -> (MemoryStorage, FaultyStorage, Shared) {
    let memory = MemoryStorage::new();
    let faulty = FaultyStorage::new(Arc::new(memory.clone()));
    (memory, faulty, Shared::default())
}

fn starts(ledger: &Shared) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for (name, _) in &ledger.lock().unwrap().starts {
        *counts.entry(name.clone()).or_default() += 1;
    }
    counts
}

/// G2: the client repeats the submit, and there is one job.
#[tokio::test(flavor = "multi_thread")]
async fn a_submit_whose_answer_is_lost_makes_one_job() {
    let (memory, faulty, ledger) = storages();
    let client = Client::new(faulty.clone());
    for (n, fault) in [Fault::AnswerLost, Fault::Before].into_iter().enumerate() {
        faulty.fail_next("submit", fault);
        faulty.fail_next("submit", fault);
        client.enqueue(script(&format!("job-{n}"), Act::Return(1))).await.unwrap();
    }
    let batch = Batch::new("b").jobs((0..2500).map(|_| script("member", Act::Return(1))));
    for method in ["submit", "submit", "start_batch"] {
        faulty.fail_next(method, Fault::AnswerLost);
    }
    client.enqueue(batch).await.unwrap();
    let _server = server(&faulty, &ledger, quick()).await;
    eventually("all ran", || async {
        memory.snapshot(&Call::default()).await.unwrap().count(StateName::Succeeded) == 2502
    })
    .await;
    let expected = [("job-0".to_owned(), 1), ("job-1".to_owned(), 1), ("member".to_owned(), 2500)];
    assert_eq!(starts(&ledger), expected.into());
}

/// G20: after `submit_timeout` the caller is told, and that the job may be there.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_longer_than_the_timeout_is_told() {
    let (memory, faulty, _) = storages();
    let options = ClientOptions::default().submit_timeout(Duration::from_millis(100));
    let client = Client::with_options(faulty.clone(), options);
    faulty.decide(|_| Fault::AnswerLost);
    let job = script("a", Act::Return(1));
    let error = client.enqueue(job.clone()).await.unwrap_err();
    assert_eq!(error.applied(), jobkit_core::Applied::Unknown);
    assert!(error.is_retryable() && error.to_string().starts_with("enqueue failed"), "{error}");
    faulty.heal();
    let handle = client.enqueue(job).await.unwrap();
    assert!(matches!(handle.submitted(), jobkit_core::storage::JobSubmitted::Already(_)));
    assert_eq!(memory.snapshot(&Call::default()).await.unwrap().count(StateName::Enqueued), 1);
}

/// G6: claims and settles whose answers are lost are repeated, and every job runs once.
#[tokio::test(flavor = "multi_thread")]
async fn claims_and_settles_whose_answers_are_lost_run_every_job_once() {
    let (memory, faulty, ledger) = storages();
    let client = Client::new(memory.clone());
    client
        .enqueue_many((0..2_000).map(|n| script(&format!("job-{n}"), Act::Return(n))))
        .await
        .unwrap();
    // Every third call of these is applied without an answer, every fifth is not applied.
    let mut calls = 0_u32;
    faulty.decide(move |method| {
        if !matches!(method, "claim" | "settle" | "settle_and_claim" | "renew") {
            return Fault::None;
        }
        calls += 1;
        match (calls % 3, calls % 5) {
            (0, _) => Fault::AnswerLost,
            (_, 0) => Fault::Before,
            _ => Fault::None,
        }
    });
    let handle = server(&faulty, &ledger, quick()).await;
    eventually("all succeeded", || async {
        memory.snapshot(&Call::default()).await.unwrap().count(StateName::Succeeded) == 2_000
    })
    .await;
    assert!(starts(&ledger).values().all(|starts| *starts == 1), "{:?}", starts(&ledger));
    let counters = memory.counters(&Scope::Total).await.unwrap();
    assert_eq!(counters.transitions_to(StateName::Succeeded), 2_000);
    faulty.heal();
    eventually("health fixes", || async { handle.health().is_ok() }).await;
}

/// An outage longer than a lease reruns nothing: rescue takes two looks.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_longer_than_a_lease_reruns_nothing() {
    let (memory, faulty, ledger) = storages();
    let client = Client::new(memory.clone());
    let one = server(&faulty, &ledger, quick()).await;
    let two = server(&faulty, &ledger, quick()).await;
    let jobs: Vec<_> = (0..10).map(|n| script(&format!("long-{n}"), Act::Sleep(1500))).collect();
    let jobs = client.enqueue(jobs).await.unwrap();
    eventually("all run", || async { ledger.lock().unwrap().running == 10 }).await;
    faulty.decide(|_| Fault::Before);
    let ids: Vec<_> = jobs.iter().map(|job| job.id()).collect();
    eventually("every lease has been over for as long again", || async {
        let now = memory.now().await.unwrap();
        memory.jobs(&ids).await.unwrap().into_iter().flatten().all(|job| match job.head.state {
            State::Processing(hold) => hold.expires_at.plus(quick_lease()) <= now,
            other => panic!("{other:?}"),
        })
    })
    .await;
    assert!(!one.health().is_ok() && !two.health().is_ok());
    faulty.heal();
    for job in jobs {
        job.wait(SOON).await.unwrap();
        let head = memory.jobs(&[job.id()]).await.unwrap().remove(0).unwrap().head;
        assert_eq!((head.fence, head.crashes), (1, 0));
    }
    assert_eq!(ledger.lock().unwrap().starts.len(), 10);
}

fn quick_lease() -> Duration {
    Duration::from_millis(600)
}

/// Settles are kept through an outage, and nothing new is started meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn outcomes_wait_for_the_storage() {
    let (memory, faulty, ledger) = storages();
    let client = Client::new(memory.clone());
    let options = quick().workers(4).prefetch(Prefetch::Fixed(0));
    let _server = server(&faulty, &ledger, options).await;
    client.enqueue_many((0..200).map(|_| script("short", Act::Sleep(2)))).await.unwrap();
    eventually("some ran", || async { !ledger.lock().unwrap().ends.is_empty() }).await;
    let fails = ["settle", "settle_and_claim", "claim"];
    faulty.decide(move |method| if fails.contains(&method) { Fault::Before } else { Fault::None });
    let tried = || fails.iter().map(|method| faulty.calls(method)).sum::<usize>();
    let before = tried();
    // A call that came before the outage has been answered then, and all that it claimed has ended.
    eventually("what was claimed ended", || async {
        let waiting = memory.snapshot(&Call::default()).await.unwrap().count(StateName::Enqueued);
        let ledger = ledger.lock().unwrap();
        tried() > before && ledger.running == 0 && ledger.starts.len() as u64 + waiting == 200
    })
    .await;
    let (begun, tried_then) = (ledger.lock().unwrap().starts.len(), tried());
    assert!(begun < 200, "the outage came too late to keep anything waiting");
    eventually("the outcomes are offered again", || async { tried() > tried_then + 2 }).await;
    assert_eq!(ledger.lock().unwrap().starts.len(), begun, "back-pressure");
    faulty.heal();
    eventually("all succeeded", || async {
        memory.snapshot(&Call::default()).await.unwrap().count(StateName::Succeeded) == 200
    })
    .await;
    assert_eq!(ledger.lock().unwrap().starts.len(), 200);
}

/// A job near its crash limit does not start before the storage knows that a crash counts against it
/// alone: if it killed its server, those claimed with it would count as crashed, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_near_its_crash_limit_starts_when_the_storage_knows_whose_turn_it_is() {
    let (memory, faulty, ledger) = storages();
    let client = Client::new(memory.clone());
    let options = quick().workers(4).crash_limit(2);
    let first = server(&faulty, &ledger, options.clone()).await;
    let hang = || script("hangs", Act::Hang);
    let ids = client.enqueue((hang(), hang(), hang(), hang())).await.unwrap();
    let ids = [ids.0.id(), ids.1.id(), ids.2.id(), ids.3.id()];
    eventually("all run", || async { ledger.lock().unwrap().running == 4 }).await;
    first.abort();
    faulty.decide(|method| if method == "renew" { Fault::Before } else { Fault::None });
    let tried = || faulty.calls("renew");
    let before = tried();
    let _second = server(&faulty, &ledger, options.lease(Duration::from_secs(4))).await;
    eventually("the storage is asked", || async { tried() > before + 2 }).await;
    assert_eq!(ledger.lock().unwrap().starts.len(), 4, "none is started");
    faulty.heal();
    eventually("one is started", || async { ledger.lock().unwrap().starts.len() == 5 }).await;
    let records = memory.jobs(&ids).await.unwrap();
    let counts = records.into_iter().flatten().filter(|record| match &record.head.state {
        State::Processing(hold) => hold.started,
        _ => false,
    });
    assert_eq!(counts.count(), 1, "a crash counts against it alone");
}

/// A server that was forgotten as dead announces itself again and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_server_announces_itself_again() {
    use jobkit_core::storage::ServerRegistry;
    let (memory, faulty, ledger) = storages();
    let client = Client::new(memory.clone());
    let _server = server(&faulty, &ledger, quick()).await;
    let life = memory.servers().await.unwrap()[0].info.incarnation;
    memory.remove_server(&Call::default(), life, &[]).await.unwrap();
    let job = client.enqueue(script("a", Act::Return(1))).await.unwrap();
    job.wait(SOON).await.unwrap();
    assert_eq!(memory.servers().await.unwrap()[0].info.incarnation, life);
}

/// One outcome that the storage chokes on holds up nobody else, and its job is not lost.
#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_the_storage_cannot_take_stops_nothing() {
    let (memory, faulty, ledger) = storages();
    let client = Client::new(memory.clone());
    // The flight, then one of its outcomes alone three times, then the bare failure in its place.
    let mut left = 5;
    faulty.decide(move |method| {
        if left > 0 && matches!(method, "settle" | "settle_and_claim") {
            left -= 1;
            return Fault::Broken;
        }
        Fault::None
    });
    client.enqueue_many((0..50).map(|_| script("short", Act::Return(1)))).await.unwrap();
    let _server = server(&faulty, &ledger, quick()).await;
    eventually("all finished", || async {
        let snapshot = memory.snapshot(&Call::default()).await.unwrap();
        snapshot.count(StateName::Succeeded) + snapshot.count(StateName::Failed) == 50
    })
    .await;
    let job = client.enqueue(script("after", Act::Return(1))).await.unwrap();
    job.wait(SOON).await.unwrap();
}

/// What stands behind a thousand jobs that cannot be started any more is claimed at once, not after a
/// poll for each hundred of them; also if an answer is lost on the way.
#[tokio::test(flavor = "multi_thread")]
async fn what_stands_behind_others_that_came_too_late_is_started_at_once() {
    let (memory, faulty, ledger) = storages();
    let client = Client::new(memory.clone());
    let soon = memory.now().await.unwrap().plus(Duration::from_millis(1));
    let late = (0..1_000).map(|_| script("late", Act::Return(1)).start_by(soon));
    client.enqueue_many(late).await.unwrap();
    let last = client.enqueue(script("last", Act::Return(1))).await.unwrap();
    eventually("it is too late", || async { memory.now().await.unwrap() > soon }).await;
    faulty.lose_pushes(|| true);
    for _ in 0..2 {
        faulty.fail_next("claim", Fault::AnswerLost);
    }
    let never = Duration::from_secs(600);
    let _server = server(&faulty, &ledger, quick().workers(2).poll_interval(never, never)).await;
    last.wait(SOON).await.unwrap();
    assert_eq!(starts(&ledger), [("last".to_owned(), 1)].into());
    assert_eq!(memory.snapshot(&Call::default()).await.unwrap().count(StateName::Deleted), 1_000);
}

/// On one thread, with a storage that always answers at once, a stop still stops.
#[tokio::test]
async fn a_stop_under_load_ends_on_one_thread() {
    let (memory, faulty, ledger) = storages();
    let client = Client::new(memory.clone());
    client.enqueue_many((0..20_000).map(|_| script("short", Act::Return(1)))).await.unwrap();
    let handle = server(&faulty, &ledger, quick()).await;
    eventually("some ran", || async { !ledger.lock().unwrap().ends.is_empty() }).await;
    tokio::time::timeout(SOON, handle.shutdown()).await.expect("stops in time").unwrap();
    let snapshot = memory.snapshot(&Call::default()).await.unwrap();
    assert_eq!(snapshot.count(StateName::Processing), 0);
    let ends = ledger.lock().unwrap().ends.len() as u64;
    assert_eq!(snapshot.count(StateName::Succeeded), ends);
}

/// Jobs that were claimed ahead and not started are given back once, not again and again.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_claimed_too_far_ahead_is_left_alone() {
    use jobkit_core::server::Prefetch;
    let (memory, faulty, ledger) = storages();
    let client = Client::new(memory.clone());
    let options = quick().workers(1).prefetch(Prefetch::Fixed(20));
    let _server = server(&faulty, &ledger, options).await;
    let first = client.enqueue(script("long", Act::Sleep(1_500))).await.unwrap();
    eventually("it runs", || async { ledger.lock().unwrap().running == 1 }).await;
    let others: Vec<_> = (0..10).map(|_| script("short", Act::Return(1))).collect();
    let others = client.enqueue(others).await.unwrap();
    first.wait(SOON).await.unwrap();
    for other in others {
        other.wait(SOON).await.unwrap();
        let head = memory.jobs(&[other.id()]).await.unwrap().remove(0).unwrap().head;
        assert!(head.fence <= 3, "claimed {} times", head.fence);
    }
}
