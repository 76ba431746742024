//! What operators do, with servers at work.

use std::time::Duration;

use jobkit_core::ErrorKind;
use jobkit_core::operator::{Edit, Edited};
use jobkit_core::search::JobFilter;
use jobkit_core::state::{Reason, StateName};
use jobkit_core::storage::{Action, AuditStore, BulkStore, Call, Monitoring, ServerRegistry};

use crate::support::{Act, Bench, eventually, quick, script};

const SOON: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_server_takes_jobs_again_when_the_order_is_taken_back() {
    let bench = Bench::new();
    let server = bench.server(quick()).await;
    let ann = bench.client.operator("ann").because("deploy");
    ann.quiet_server(server.name(), None).await.unwrap();
    // Until it knows, it takes jobs: the first that stays shows that it does.
    let waits = loop {
        let job = bench.client.enqueue(script("probe", Act::Return(1))).await.unwrap();
        if job.wait(Duration::from_millis(300)).await.is_err() {
            break job;
        }
    };
    assert_eq!(bench.client.state(waits.id()).await.unwrap(), Some(StateName::Enqueued));
    ann.resume_server(server.name()).await.unwrap();
    assert_eq!(waits.wait(SOON).await.unwrap(), 1);
    let unknown = ann.quiet_server("nobody", None).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
    let audit = bench.storage.audit(None, 10).await.unwrap();
    let told: Vec<_> = audit.iter().map(|entry| (&*entry.action, &*entry.target)).collect();
    let name = server.name();
    assert_eq!(told, [("quiet server", "nobody"), ("resume server", name), ("quiet server", name)]);
    assert!(audit[0].outcome.starts_with("failed: there is no such server"));
    assert!(audit.iter().all(|entry| entry.actor == "ann" && entry.reason == "deploy"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_stops_when_it_is_told_to() {
    let bench = Bench::new();
    let server = bench.server(quick()).await;
    bench.client.operator("ann").stop_server(server.name()).await.unwrap();
    // It deregisters by itself.
    eventually("the server is gone", async || bench.storage.servers().await.unwrap().is_empty())
        .await;
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_carry_out_a_bulk_operation() {
    let bench = Bench::new();
    let server = bench.server(quick()).await;
    let mut failed = Vec::new();
    for _ in 0..30 {
        failed.push(bench.client.enqueue(script("once", Act::Permanent)).await.unwrap());
    }
    for job in &failed {
        assert!(job.wait(SOON).await.is_err());
    }
    let ann = bench.client.operator("ann");
    let filter: JobFilter = "state:failed".parse().unwrap();
    let action = Action::Delete { keep: None };
    let bulk = ann.begin_bulk(filter, action, 30, Duration::ZERO).await.unwrap();
    eventually("the operation has ended", async || {
        bench.storage.bulk(bulk.id).await.unwrap().is_some_and(|it| it.ended_at.is_some())
    })
    .await;
    assert_eq!(bench.storage.bulk(bulk.id).await.unwrap().unwrap().done, 30);
    for job in &failed {
        assert_eq!(bench.client.state(job.id()).await.unwrap(), Some(StateName::Deleted));
    }
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_job_is_edited_and_a_failed_one_run_again_with_other_arguments() {
    let bench = Bench::new();
    let ann = bench.client.operator("ann");
    let waiting =
        bench.client.enqueue(script("a", Act::Return(1)).delay(SOON * 100)).await.unwrap();
    let mut edit = Edit::default();
    edit.priority = Some(9);
    edit.tags = Some(vec!["vip".into()]);
    assert_eq!(ann.edit(waiting.id(), edit).await.unwrap(), Edited::Same(waiting.id()));
    let record = bench.client.job(waiting.id()).await.unwrap().unwrap().record;
    assert_eq!((record.priority, record.tags), (9, vec!["vip".to_owned()]));

    let args = bench.client.job(waiting.id()).await.unwrap().unwrap().args;
    let args: serde_json::Map<_, _> = serde_json::from_slice(&args).unwrap();
    let mut edit = Edit::default();
    edit.args = Some(args);
    let Edited::Copy(copy) = ann.edit(waiting.id(), edit).await.unwrap() else { panic!("a copy") };
    let record = bench.client.job(copy).await.unwrap().unwrap().record;
    assert_eq!(record.extras.unwrap().made_from, Some(waiting.id()));
    assert_eq!(record.priority, 9, "what was not edited stays");
    let original = bench.client.job(waiting.id()).await.unwrap().unwrap().record;
    assert_eq!(original.head.reason, Reason::Replaced);
    let outcomes = ann.run_now(&[copy, waiting.id()]).await.unwrap();
    assert_eq!(outcomes.iter().map(|it| it.is_done()).collect::<Vec<_>>(), [true, false]);
    assert_eq!(
        bench.storage.snapshot(&Call::default()).await.unwrap().count(StateName::Enqueued),
        1
    );
}
