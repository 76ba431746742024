//! How fast the storage is on this machine: bulk submit, drain, single enqueue.
//!
//! `cargo run --release -p jobkit-sqlite --example speed [jobs]`

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::cast_precision_loss, missing_docs)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use jobkit_core::record::NewRecord;
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::*;
use jobkit_core::{Incarnation, JobId, Name, Timestamp};
use jobkit_sqlite::SqliteOptions;

fn job(kind: &Name) -> NewRecord {
    let args = format!("{{\"user\":12345,\"text\":\"{}\"}}", "x".repeat(70));
    NewRecord::new(JobId::new(), kind.clone(), args.into_bytes())
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let jobs: usize = std::env::args().nth(1).map_or(150_000, |n| n.parse().unwrap());
    let kinds: usize = std::env::args().nth(2).map_or(1, |n| n.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let storage = SqliteOptions::new(dir.path().join("jobs.db")).open().await.unwrap();
    let kinds: Vec<Name> = (0..kinds).map(|k| Name::from_stored(format!("kind{k}"))).collect();
    let rate = |what: &str, n: usize, since: Instant| {
        println!("{what:40} {:>9.0}/s", n as f64 / since.elapsed().as_secs_f64());
    };

    let mut all: Vec<Vec<Submission>> = (0..jobs / 500)
        .map(|_| (0..500).map(|i| Submission::one(job(&kinds[i % kinds.len()]))).collect())
        .collect();
    let half = all.split_off(all.len() / 2);
    let since = Instant::now();
    for chunk in &all {
        storage.submit(SubmitRequest { submissions: chunk, now: None }).await.unwrap();
    }
    rate("submit, 500 singles a call", jobs / 2, since);
    let flows: Vec<Submission> = half
        .chunks(2)
        .map(|two| Submission::flow(two.concat().into_iter().flat_map(|s| s.jobs).collect()))
        .collect();
    let since = Instant::now();
    for flow in &flows {
        storage
            .submit(SubmitRequest { submissions: std::slice::from_ref(flow), now: None })
            .await
            .unwrap();
    }
    rate("submit, 1000 in a flow", jobs / 2, since);

    let incarnation = Incarnation::new();
    let server = Name::from_stored("server");
    let info = ServerInfo {
        name: server.clone(),
        incarnation,
        pid: 1,
        host: "h".into(),
        version: "0".into(),
        workers: 20,
        queues: vec![Name::default_queue()],
        kinds: kinds.clone(),
        started_at: Timestamp::MIN,
    };
    storage.announce(&info, None).await.unwrap();
    let shared: Arc<[Name]> = kinds.into();
    let mut sequence = 0;
    for size in [100, 300, 100] {
        let mut claim = |max| {
            sequence += 1;
            ClaimRequest {
                server: server.clone(),
                incarnation,
                sequence,
                queues: vec![QueueQuota { queue: Name::default_queue(), max }],
                kinds: Arc::clone(&shared),
                max,
                started: 0,
                lease: Duration::from_secs(30),
                sleeps_if_empty: false,
                hint: None,
                now: None,
            }
        };
        let since = Instant::now();
        let mut claimed = storage.claim(&claim(size)).await.unwrap();
        let mut done = 0;
        while !claimed.jobs.is_empty() && done < jobs / 3 {
            let settles = claimed
                .jobs
                .iter()
                .map(|job| Settle {
                    duration: Some(Duration::from_millis(1)),
                    ..Settle::new(job.lease, Ending::Succeeded)
                })
                .collect::<Vec<_>>();
            done += settles.len();
            let request = SettleRequest { server: server.clone(), settles, now: None };
            (_, claimed) = storage.settle_and_claim(&request, &claim(size)).await.unwrap();
        }
        rate(&format!("settle and claim by {size}"), done, since);
    }

    let kind = shared[0].clone();
    for tasks in [1, 8, 64] {
        let n = 20_000 / tasks;
        let since = Instant::now();
        let mut set = tokio::task::JoinSet::new();
        for _ in 0..tasks {
            let (storage, kind) = (storage.clone(), kind.clone());
            set.spawn(async move {
                for _ in 0..n {
                    let one = [Submission::one(job(&kind))];
                    storage.submit(SubmitRequest { submissions: &one, now: None }).await.unwrap();
                }
            });
        }
        set.join_all().await;
        rate(&format!("enqueue one by one, {tasks} tasks"), n * tasks, since);
    }
}
