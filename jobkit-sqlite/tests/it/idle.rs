//! What another process leaves to the sweeps of an idle server.

use std::time::Duration;

use jobkit_core::state::StateName;
use jobkit_core::{Batch, Client, Failure, Job, JobContext, JobId, Jobs, NewJob, Server};
use jobkit_sqlite::SqliteStorage;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::support::folder;

#[derive(Serialize, Deserialize)]
struct Nothing {}

impl Job for Nothing {
    const KIND: &'static str = "nothing";
    type Output = ();
}

const HOUR: Duration = Duration::from_secs(3600);

async fn deleted_within(what: &str, limit: Duration, client: &Client, ids: &[JobId]) {
    let began = Instant::now();
    loop {
        let records = client.storage().jobs(ids).await.unwrap();
        let is_deleted =
            |record: &jobkit_core::record::JobRecord| record.state() == StateName::Deleted;
        if records.iter().flatten().filter(|record| is_deleted(record)).count() == ids.len() {
            return;
        }
        assert!(began.elapsed() < limit, "{what} was not decided within {limit:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// G7, G9: no push of new work tells of these, and the next look of an idle server is a minute away.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_parent_and_a_cancelled_batch_are_decided_on_an_idle_system() {
    let dir = folder();
    let path = dir.path().join("jobs.db");
    let served = SqliteStorage::open(&path).await.unwrap();
    let jobs = Jobs::new().handle(|_: Nothing, _: JobContext| async { Ok::<_, Failure>(()) });
    let _server = Server::builder(served).jobs(jobs).build().unwrap().start().await.unwrap();
    // As another process has it.
    let client = Client::new(SqliteStorage::open(&path).await.unwrap());

    let parent = NewJob::new(Nothing {}).delay(HOUR);
    let children: Vec<_> = (0..150).map(|_| NewJob::new(Nothing {}).after(&parent)).collect();
    let children_ids: Vec<_> = children.iter().map(NewJob::id).collect();
    let parent = client.enqueue(parent).await.unwrap();
    client.enqueue_many(children).await.unwrap();
    let members: Vec<_> = (0..600).map(|_| NewJob::new(Nothing {}).delay(HOUR)).collect();
    let member_ids: Vec<_> = members.iter().map(NewJob::id).collect();
    let batch = client.enqueue(Batch::new("b").jobs(members)).await.unwrap();
    // Until the sweeps that followed are over.
    tokio::time::sleep(Duration::from_secs(2)).await;

    let limit = Duration::from_secs(2);
    client.delete(parent.id()).await.unwrap();
    deleted_within("the deleted parent", limit, &client, &children_ids).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    batch.cancel().await.unwrap();
    for ids in member_ids.chunks(500) {
        deleted_within("the cancelled batch", limit, &client, ids).await;
    }
}
