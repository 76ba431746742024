//! What clients enqueue, and what they know of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jobkit::client::Enqueue;
use jobkit::error::Applied;
use jobkit::testing::{Clock, SystemClock};
use jobkit::{Batch, BatchId, Client, JobId, On, Timestamp};

use crate::worker::{doomed, parent_of, retried, snoozer, work};

/// What was enqueued, as far as the client knows.
#[derive(Default)]
pub(super) struct Books {
    /// With when it was told so.
    pub(super) accepted: BTreeMap<JobId, Timestamp>,
    /// The answer was lost, or none came in time.
    pub(super) unknown: BTreeSet<JobId>,
    /// What was submitted in one step, whatever the answer.
    pub(super) together: Vec<Vec<JobId>>,
    /// A child, and what must have ended before it.
    pub(super) after: Vec<(JobId, JobId)>,
    pub(super) batches: Vec<(BatchId, Vec<JobId>, JobId)>,
    pub(super) doomed: BTreeSet<JobId>,
    /// Parents that enqueue a child by a key.
    pub(super) parents: Vec<String>,
}

pub(super) type Shared = Arc<Mutex<Books>>;

/// Enqueues, and writes down what is known of it then; whether it was accepted.
async fn put<E: Enqueue>(client: &Client, books: &Shared, ids: &[JobId], jobs: E) -> bool {
    let answer = client.enqueue(jobs).await;
    let mut books = books.lock().unwrap();
    books.together.push(ids.to_vec());
    match answer {
        Ok(_) => {
            let now = SystemClock.now();
            books.accepted.extend(ids.iter().map(|id| (*id, now)));
            true
        }
        Err(error) => {
            assert!(error.is_retryable(), "only what may pass is expected: {error}");
            if error.applied() == Applied::Unknown {
                books.unknown.extend(ids);
            }
            false
        }
    }
}

/// One round of every kind of job.
pub(super) async fn submit(client: &Client, books: &Shared, round: u64) {
    let name = |what: &str, n: u64| format!("{what}-{round}-{n}");
    for n in 0..4 {
        let job = work(name("plain", n), n % 5).priority(u8::try_from(n % 10).unwrap());
        put(client, books, &[job.id()], job).await;
    }
    for job in [retried(name("retried", 0)), retried(name("retried", 1)).tag("twice")] {
        put(client, books, &[job.id()], job).await;
    }
    let job = snoozer(name("snoozer", 0));
    put(client, books, &[job.id()], job).await;
    let job = doomed(name("doomed", 0));
    books.lock().unwrap().doomed.insert(job.id());
    put(client, books, &[job.id()], job).await;
    let job = work(name("delayed", 0), 1).delay(Duration::from_millis(700));
    put(client, books, &[job.id()], job).await;
    let job = work(name("limited", 0), 10).limit("three", 3);
    put(client, books, &[job.id()], job).await;
    let job = parent_of(name("parent", 0));
    books.lock().unwrap().parents.push(name("parent", 0));
    put(client, books, &[job.id()], job).await;
    // Of two with one key one is stored, or both one after the other.
    for _ in 0..2 {
        let job = work(name("unique", 0), 1).unique(name("unique", 0)).priority(0);
        if let Ok(handle) = client.enqueue(job).await {
            books.lock().unwrap().accepted.insert(handle.id(), SystemClock.now());
        }
    }
    let parent = work(name("first", 0), 2);
    let child = retried(name("second", 0)).after(&parent);
    let never = work(name("never", 0), 0).after(&parent).when(On::Failed);
    let ids = [parent.id(), child.id(), never.id()];
    if put(client, books, &ids, (parent, child, never)).await {
        books.lock().unwrap().after.push((ids[0], ids[1]));
    }
    if round.is_multiple_of(5) {
        let members: Vec<_> = (0..20).map(|n| work(name("member", n), n % 3)).collect();
        let then = work(name("then", 0), 0);
        let (then_id, ids): (_, Vec<_>) = (then.id(), members.iter().map(|it| it.id()).collect());
        let batch = Batch::new(name("batch", 0)).jobs(members).then(then);
        let (batch_id, mut all) = (batch.id(), ids.clone());
        all.push(then_id);
        if put(client, books, &all, batch).await {
            books.lock().unwrap().batches.push((batch_id, ids, then_id));
        }
    }
}
