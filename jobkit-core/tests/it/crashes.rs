//! What a crash of a server counts against, and what a panic of the storage does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jobkit_core::state::{Reason, StateName};
use jobkit_core::storage::{Call, Monitoring};
use jobkit_core::testing::{Fault, FaultyStorage};
use jobkit_core::{ErrorKind, JobId, Server};
use tokio::time::Instant;

use crate::support::{Act, Bench, eventually, jobs, quick, script};

async fn record(bench: &Bench, job: JobId) -> jobkit_core::record::JobRecord {
    bench.client.job(job).await.unwrap().expect("it is kept").record
}

/// Two jobs that run for long and were there at two crashes: one of them is the cause, perhaps.
async fn after_two_crashes(bench: &Bench) -> [JobId; 2] {
    let mut long = Vec::new();
    for name in ["long", "poison"] {
        long.push(bench.client.enqueue(script(name, Act::Hang)).await.unwrap().id());
    }
    for round in 1..=2 {
        let server = bench.server(quick().workers(4)).await;
        eventually("both run", || async {
            ["long", "poison"].iter().all(|name| bench.starts_of(name) == round)
        })
        .await;
        server.abort();
    }
    [long[0], long[1]]
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_near_their_crash_limit_take_turns_and_a_crash_counts_against_one() {
    let bench = Bench::new();
    let [long, poison] = after_two_crashes(&bench).await;
    let server = bench.server(quick().workers(10)).await;
    eventually("the first one runs", || async { bench.starts_of("long") == 3 }).await;
    // Work that never crashed hardly waits.
    let begun = Instant::now();
    let healthy = bench.client.enqueue(script("healthy", Act::Return(1))).await.unwrap();
    healthy.wait(Duration::from_secs(10)).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    // The other one has its turn beside the first, and was not claimed again and again meanwhile.
    eventually("the second one runs", || async { bench.starts_of("poison") == 3 }).await;
    for job in [long, poison] {
        let head = record(&bench, job).await.head;
        assert_eq!((head.fence, head.crashes), (3, 2));
    }
    server.abort();
    let _last = bench.server(quick().workers(10)).await;
    eventually("the first one runs again", || async { bench.starts_of("long") == 4 }).await;
    let head = record(&bench, poison).await.head;
    assert_eq!((head.reason, head.crashes), (Reason::CrashLimit, 3), "it was its turn");
    assert_eq!(record(&bench, long).await.head.crashes, 2, "it was not");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_job_near_its_crash_limit_does_not_wait_for_a_long_one_to_end() {
    let bench = Bench::new();
    let short = bench.client.enqueue(script("short", Act::Sleep(600))).await.unwrap();
    after_two_crashes(&bench).await;
    let begun = Instant::now();
    let _server = bench.server(quick().workers(10)).await;
    short.wait(Duration::from_secs(20)).await.unwrap();
    assert_eq!(record(&bench, short.id()).await.head.crashes, 2);
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_that_end_before_they_can_be_used_are_claimed_with_pauses() {
    let bench = Bench::new();
    let job = bench.client.enqueue(script("a", Act::Return(1))).await.unwrap();
    let slow = FaultyStorage::new(Arc::new(bench.storage.clone()));
    let answers = |method| match method {
        "claim" | "settle_and_claim" => Fault::AnswerLate(Duration::from_millis(150)),
        _ => Fault::None,
    };
    slow.decide(answers);
    // A janitor that is quick takes such a lease for one of a crash.
    let options = quick().lease(Duration::from_millis(100)).crash_limit(100);
    let server = Server::builder(slow.clone()).jobs(jobs(&bench.ledger)).options(options);
    let server = server.build().unwrap().start().await.unwrap();
    eventually("health says so", || async {
        server.health().problems.iter().any(|problem| problem.part == "claims")
    })
    .await;
    eventually("pauses grow", || async {
        slow.calls("claim") + slow.calls("settle_and_claim") >= 5
    })
    .await;
    let begun = Instant::now();
    let fence = record(&bench, job.id()).await.head.fence;
    eventually("some time passes", || async { begun.elapsed() > Duration::from_secs(2) }).await;
    let claims = record(&bench, job.id()).await.head.fence - fence;
    assert!(claims <= 5, "{claims} claims in two seconds");
    slow.decide(|_| Fault::None);
    job.wait(Duration::from_secs(20)).await.unwrap();
    eventually("health is well", || async { server.health().is_ok() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_panics_has_failed_and_the_server_goes_on() {
    let bench = Bench::new();
    let (server, faulty) = bench.counted_server(quick()).await;
    let methods = ["claim", "settle_and_claim", "settle", "renew", "heartbeat", "promote_due"];
    for method in methods {
        faulty.fail_next(method, Fault::Panic);
    }
    for n in 0..20 {
        bench.client.enqueue(script(&format!("{n}"), Act::Sleep(20))).await.unwrap();
    }
    eventually("all ran", || async {
        bench.storage.snapshot(&Call::default()).await.unwrap().count(StateName::Succeeded) == 20
    })
    .await;
    eventually("health is well", || async { server.health().is_ok() }).await;
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_server_that_stops_because_of_a_bug_says_so() {
    /// Panics in the dispatcher, where the engine logs that it does not work.
    struct Panics(AtomicBool);

    impl tracing::Subscriber for Panics {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            metadata.target() == "jobkit_core::server::health"
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, _: &tracing::Event<'_>) {
            assert!(self.0.swap(true, Ordering::SeqCst), "a subscriber that panics");
        }
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }

    let bench = Bench::new();
    let _subscriber = tracing::subscriber::set_default(Panics(AtomicBool::new(false)));
    let (server, faulty) = bench.counted_server(quick()).await;
    faulty.fail_next("claim", Fault::Before);
    let error = tokio::time::timeout(Duration::from_secs(10), server.join());
    let error = error.await.expect("it stops").expect_err("not as it was asked to");
    assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
    assert!(!server.health().is_ok());
}
