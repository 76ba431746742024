//! Every public future can be spawned, also by code that is generic over the storage. Compiling this file
//! is the test; one future is spawned to have something to run.

use std::time::Duration;

use jobkit_core::operator::{Edit, Operator};
use jobkit_core::search::JobFilter;
use jobkit_core::storage::{Action, Call, Guard, Storage};
use jobkit_core::{
    Batch, BatchId, Client, JobContext, JobId, MemoryStorage, OperationId, Server, ServerHandle,
};

use crate::support::{Act, script};

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
