//! Servers that share a name, or declare a great many schedules.

use std::time::Duration;

use jobkit_core::Recurring;
use jobkit_core::server::ServerOptions;
use jobkit_core::storage::{RecurringStore, ServerRegistry};
use jobkit_core::{Server, ServerHandle};

use crate::support::{Act, Bench, eventually, jobs, quick, script};

async fn named(bench: &Bench, name: &str) -> ServerHandle {
    let server = Server::builder(bench.storage.clone()).jobs(jobs(&bench.ledger)).name(name);
    server.options(quick()).build().unwrap().start().await.unwrap()
}

fn stands_by(server: &ServerHandle) -> bool {
    server.health().problems.iter().any(|problem| problem.part == "name")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_server_of_a_name_stands_by_until_the_first_one_stops() {
    let bench = Bench::new();
    let first = named(&bench, "web").await;
    let life = bench.storage.servers().await.unwrap()[0].info.incarnation;
    let second = named(&bench, "web").await;
    assert!(stands_by(&second) && !stands_by(&first));
    for n in 0..50 {
        bench.client.enqueue(script(&format!("{n}"), Act::Sleep(5))).await.unwrap();
    }
    eventually("all ran", || async { bench.ledger.lock().unwrap().ends.len() == 50 }).await;
    let listed = bench.storage.servers().await.unwrap();
    assert_eq!(listed.iter().map(|it| it.info.incarnation).collect::<Vec<_>>(), [life]);
    assert!(first.health().is_ok());
    // The first one drains a job that runs, and the second has its name and takes jobs meanwhile.
    bench.client.enqueue(script("long", Act::Sleep(4000))).await.unwrap();
    eventually("it runs", || async { bench.starts_of("long") == 1 }).await;
    first.quiet();
    let job = bench.client.enqueue(script("next", Act::Return(1))).await.unwrap();
    job.wait(Duration::from_secs(10)).await.unwrap();
    assert!(!stands_by(&second));
    assert!(!bench.ledger.lock().unwrap().ends.contains(&"long".to_owned()));
    first.shutdown().await.unwrap();
    second.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_server_may_declare_any_number_of_schedules() {
    let bench = Bench::new();
    let mut server = Server::builder(bench.storage.clone()).jobs(jobs(&bench.ledger));
    for n in 0..1_201 {
        let every = Recurring::every(format!("schedule-{n:04}"), Duration::from_secs(86_400));
        server = server.recurring(every.job(script("a", Act::Return(1))));
    }
    let server = server.options(quick()).build().unwrap().start().await.unwrap();
    assert!(bench.storage.recurring("schedule-1200").await.unwrap().is_some());
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_changes_any_number_of_jobs_in_one_call() {
    let bench = Bench::new();
    let later = || script("a", Act::Return(1)).delay(Duration::from_secs(3600));
    let mut ids = Vec::new();
    for _ in 0..701 {
        ids.push(bench.client.enqueue(later()).await.unwrap().id());
    }
    let outcomes = bench.client.operator("ann").delete(&ids).await.unwrap();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_done()).count(), 701);
    assert_eq!(outcomes.iter().map(|outcome| outcome.job).collect::<Vec<_>>(), ids);
}

#[test]
fn an_option_that_no_storage_can_keep_is_refused() {
    let bench = Bench::new();
    let options = ServerOptions::default().max_result_bytes(65_537);
    let server = Server::builder(bench.storage.clone()).jobs(jobs(&bench.ledger)).options(options);
    let error = server.build().expect_err("no storage keeps it").to_string();
    assert!(error.contains("max_result_bytes: must be at most 65536"), "{error}");
}
