//! Every public future can be spawned, also by code that is generic over the storage. Compiling this file
//! is the test; one future is spawned to have something to run.

use std::time::Duration;

use jobkit_core::client::{Enqueue, IntoSubmission, check_stands_alone, ids_of};
use jobkit_core::operator::{Edit, Operator};
use jobkit_core::search::JobFilter;
use jobkit_core::storage::{Action, Call, Guard, Storage, SubmitRequest, Submitted};
use jobkit_core::{
    Batch, BatchId, Client, JobContext, JobId, MemoryStorage, NewJob, OperationId, Server,
    ServerHandle,
};

use crate::support::{Act, Script, script};

fn spawnable<T: Send>(_: T) {}

#[allow(dead_code, reason = "it compiles")]
fn clients(client: &Client, id: JobId) {
    spawnable(client.enqueue(script("a", Act::Return(1))));
    spawnable(client.enqueue((script("a", Act::Return(1)), script("b", Act::Return(1)))));
    spawnable(client.enqueue(vec![script("a", Act::Return(1))]));
    spawnable(client.enqueue(Batch::new("b").job(script("a", Act::Return(1)))));
    spawnable(client.enqueue_many(vec![script("a", Act::Return(1))]));
    spawnable(client.job(id));
    spawnable(client.requeue(id));
    spawnable(client.delete(id));
    spawnable(client.reschedule(id, std::time::SystemTime::UNIX_EPOCH));
    spawnable(client.run_now(id));
    spawnable(client.move_to(id, "q"));
    spawnable(client.state(id));
    spawnable(client.try_lock("l", Duration::from_secs(1)));
    spawnable(client.lock("l", Duration::from_secs(1), Duration::ZERO));
    spawnable(client.recurring("r"));
    spawnable(client.remove_recurring("r"));
    spawnable(client.resume_recurring("r"));
    spawnable(client.trigger_recurring("r"));
    spawnable(client.resume_queue("q"));
    spawnable(client.resume_kind("k"));
    spawnable(client.limit("l"));
    spawnable(async move {
        let mut ends = client.subscribe().await?;
        ends.next().await
    });
    spawnable(async move {
        let lock = client.lock("l", Duration::from_secs(1), Duration::ZERO).await?;
        lock.release().await
    });
    spawnable(async move {
        let handle = client.enqueue(script("a", Act::Return(1))).await?;
        drop(handle.wait(Duration::from_secs(1)).await);
        let batch = client.batch(BatchId::new());
        batch.status().await?;
        batch.attach(vec![script("a", Act::Return(1))]).await?;
        batch.start().await?;
        batch.cancel().await
    });
}

#[allow(dead_code, reason = "it compiles")]
fn operators(operator: &Operator, id: JobId) {
    spawnable(operator.retry(&[id]));
    spawnable(operator.change_guarded(&[id], Action::RunNow, Guard::None));
    spawnable(operator.edit(id, Edit::default()));
    spawnable(operator.pause_queue("q", None));
    spawnable(operator.resume_queue("q"));
    spawnable(operator.pause_recurring("r", None));
    spawnable(operator.run_recurring("r"));
    spawnable(operator.stop_server("s"));
    spawnable(operator.cancel_bulk(OperationId::new()));
    spawnable(operator.empty_queue("q"));
    spawnable(operator.cancel_batch(BatchId::new()));
    spawnable(operator.release_stuck("l"));
}

#[allow(dead_code, reason = "it compiles")]
fn storages<S: Storage + ?Sized>(storage: &S, filter: &JobFilter, id: JobId) {
    spawnable(jobkit_core::why::why(storage, &Call::default(), id));
    spawnable(jobkit_core::search::count(storage, filter, 1));
    spawnable(jobkit_core::prometheus::Figures::read(storage));
    spawnable(jobkit_core::bulk::step(storage, OperationId::new()));
    spawnable(jobkit_core::bulk::cancel(storage, OperationId::new()));
}

/// As an asynchronous storage enqueues inside a caller's transaction.
async fn store<J: IntoSubmission>(client: &Client, jobs: J) -> jobkit_core::Result<J::Ids> {
    let (mut submission, ids) = jobs.into_submission()?;
    client.prepare(&mut submission)?;
    check_stands_alone(&submission)?;
    let submissions = [submission];
    let request = SubmitRequest { submissions: &submissions };
    let mut outcomes = client.storage().submit(&Call::default(), request).await?;
    match outcomes.pop() {
        Some(Submitted::Created(jobs)) => Ok(ids(ids_of(&submissions[0], &jobs))),
        other => panic!("{other:?}"),
    }
}

#[allow(dead_code, reason = "it compiles")]
fn callers<J, M, E, I, S>(client: Client, jobs: J, many: M, flow: E, storage: I, other: S)
where
    J: IntoSubmission + Send + 'static,
    M: IntoIterator<Item = NewJob<Script>, IntoIter: Send> + Send + 'static,
    E: Enqueue<Handle: Send> + 'static,
    I: Storage + 'static,
    S: Storage + Clone + 'static,
{
    spawnable(async move {
        let scoped = store(&client, jobs).await;
        drop(scoped);
        client.enqueue_many(many).await?;
        client.enqueue(flow).await
    });
    spawnable(async move {
        let client = Client::new(storage);
        let handle = client.enqueue(script("a", Act::Return(1))).await?;
        client.requeue(handle.id()).await?;
        drop(handle.wait(Duration::from_secs(1)).await);
        client.state(handle.id()).await
    });
    spawnable(async move {
        let server = Server::builder(other.clone()).build()?;
        other.snapshot(&Call::default()).await?;
        server.start().await
    });
}

#[tokio::test]
async fn what_stores_any_submission_can_be_spawned() {
    let client = Client::new(MemoryStorage::new());
    let flow = (script("a", Act::Return(1)), script("b", Act::Return(1)));
    let ids = (flow.0.id(), flow.1.id());
    let stored = tokio::spawn(async move { store(&client, flow).await });
    assert_eq!(stored.await.unwrap().unwrap(), ids);
}

#[allow(dead_code, reason = "it compiles")]
fn contexts(context: &JobContext) {
    spawnable(context.once("key", || async { Ok::<u32, jobkit_core::Error>(1) }));
    spawnable(context.checkpoint(&1));
    spawnable(context.last_checkpoint::<u32>());
    spawnable(context.parents());
    spawnable(context.cancelled());
}

#[allow(dead_code, reason = "it compiles")]
fn servers(first: Server, second: Server, handle: &ServerHandle) {
    spawnable(first.start());
    spawnable(second.run_until_signal());
    spawnable(handle.shutdown());
    spawnable(handle.join());
}

#[tokio::test]
async fn a_subscriber_can_be_spawned() {
    let client = Client::new(MemoryStorage::new());
    let mut ends = client.subscribe().await.unwrap();
    let job = client.enqueue(script("a", Act::Return(1))).await.unwrap();
    let ended = tokio::spawn(async move { ends.next().await });
    client.delete(job.id()).await.unwrap();
    assert_eq!(ended.await.unwrap().unwrap().id, job.id());
}
