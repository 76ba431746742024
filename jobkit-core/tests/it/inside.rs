//! What handlers do beside their work: memos, checkpoints, outputs of parents, locks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use jobkit_core::{
    Client, Failure, FromContext, FromParent, FromParents, Job, Jobs, MemoryStorage, NewJob, On,
    Server,
};
use serde::{Deserialize, Serialize};

use crate::support::{eventually, quick};

const SOON: Duration = Duration::from_secs(10);

macro_rules! job {
    ($name:ident, $output:ty) => {
        #[derive(Serialize, Deserialize)]
        struct $name {}
        impl Job for $name {
            const KIND: &'static str = stringify!($name);
            type Output = $output;
        }
    };
}

job!(Charge, String);
job!(Import, u32);
job!(Number, u32);
job!(Fails, ());
job!(One, u32);
job!(Sum, u32);
job!(Why, String);

#[tokio::test(flavor = "multi_thread")]
async fn an_effect_is_done_once_and_work_goes_on_where_it_was() {
    let storage = MemoryStorage::new();
    let client = Client::new(storage.clone());
    let charged = Arc::new(AtomicU32::new(0));
    let imported = Arc::new(AtomicU32::new(0));
    let jobs = Jobs::new()
        .handle({
            let charged = Arc::clone(&charged);
            move |_: Charge, ctx| {
                let charged = Arc::clone(&charged);
                async move {
                    let charge = || async move {
                        Ok::<_, Failure>(format!(
                            "receipt-{}",
                            charged.fetch_add(1, Ordering::SeqCst)
                        ))
                    };
                    let receipt = ctx.once("charge", charge).await?;
                    if ctx.attempt() < 3 {
                        return Err(Failure::message("mail", "not sent"));
                    }
                    Ok(receipt)
                }
            }
        })
        .handle({
            let imported = Arc::clone(&imported);
            move |_: Import, ctx| {
                let imported = Arc::clone(&imported);
                async move {
                    let mut row: u32 = ctx.last_checkpoint().await?.unwrap_or(0);
                    while row < 10 {
                        if row == 5 && ctx.attempt() == 1 {
                            return Err(Failure::message("network", "gone"));
                        }
                        imported.fetch_add(1, Ordering::SeqCst);
                        row += 1;
                        ctx.checkpoint(&row).await?;
                    }
                    Ok::<_, Failure>(row)
                }
            }
        });
    let server = Server::builder(storage).jobs(jobs).options(quick()).build().unwrap();
    let _server = server.start().await.unwrap();
    let charge = client.enqueue(NewJob::new(Charge {})).await.unwrap();
    let import = client.enqueue(NewJob::new(Import {})).await.unwrap();
    assert_eq!(charge.wait(SOON).await.unwrap(), "receipt-0");
    assert_eq!(charged.load(Ordering::SeqCst), 1);
    assert_eq!(import.wait(SOON).await.unwrap(), 10);
    assert_eq!(imported.load(Ordering::SeqCst), 10, "no row twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn children_read_what_their_parents_left() {
    let storage = MemoryStorage::new();
    let client = Client::new(storage.clone());
    let next = Arc::new(AtomicU32::new(20));
    let jobs = Jobs::new()
        .handle(move |_: Number, _| {
            let next = Arc::clone(&next);
            async move { Ok::<_, Failure>(next.fetch_add(1, Ordering::SeqCst)) }
        })
        .handle(|_: Fails, _| async { Err::<(), _>(Failure::message("T", "broken")) })
        .handle(|_: One, ctx| async move {
            FromParent::<u32>::from_context(&ctx).await.map(|one| one.0)
        })
        .handle(|_: Sum, ctx| async move {
            let FromParents(numbers) = FromParents::<u32>::from_context(&ctx).await?;
            Ok::<_, Failure>(numbers.iter().sum())
        })
        .handle(|_: Why, ctx| async move {
            let parents = ctx.parents().await?;
            let error = parents[0].error.as_ref().map(|error| error.detail.message.clone());
            Ok::<_, Failure>(error.unwrap_or_default())
        });
    let server = Server::builder(storage).jobs(jobs).options(quick()).build().unwrap();
    let _server = server.start().await.unwrap();
    let (a, b) = (NewJob::new(Number {}), NewJob::new(Number {}));
    let one = NewJob::new(One {}).after(&a);
    let sum = NewJob::new(Sum {}).after_all([&a, &b]);
    let fails = NewJob::new(Fails {}).max_attempts(1);
    let why = NewJob::new(Why {}).after(&fails).when(On::Failed);
    let (_, _, one, sum) = client.enqueue((a, b, one, sum)).await.unwrap();
    let (_, why) = client.enqueue((fails, why)).await.unwrap();
    assert!((20..=21).contains(&one.wait(SOON).await.unwrap()));
    assert_eq!(sum.wait(SOON).await.unwrap(), 41);
    assert_eq!(why.wait(SOON).await.unwrap(), "broken");
    let given_up = NewJob::new(Number {}).delay(Duration::from_secs(3600));
    let given_up = client.enqueue(given_up).await.unwrap();
    let one = NewJob::new(One {}).after(&given_up).when(On::Any).max_attempts(1);
    let one = client.enqueue(one).await.unwrap();
    client.delete(given_up.id()).await.unwrap();
    let error = one.wait(SOON).await.unwrap_err().to_string();
    assert!(error.contains("is deleted: on request"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_excludes_renews_itself_and_is_freed() {
    use jobkit_core::testing::FaultyStorage;
    let storage = FaultyStorage::new(Arc::new(MemoryStorage::new()));
    let client = Client::new(storage.clone());
    let other = Client::new(storage.clone());
    let ttl = Duration::from_millis(150);
    let lock = client.try_lock("books", ttl).await.unwrap().unwrap();
    // It is renewed at each third of its time, so this is longer than three times.
    eventually("it is renewed", || async { storage.calls("renew_lock") > 9 }).await;
    assert!(!lock.lost().is_cancelled());
    assert!(other.try_lock("books", ttl).await.unwrap().is_none());
    let error = other.lock("books", ttl, Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(error.kind(), jobkit_core::ErrorKind::Timeout);
    let before = lock.generation();
    drop(lock);
    let lock = other.lock("books", ttl, SOON).await.unwrap();
    assert!(lock.generation() > before);
    assert!(lock.release().await.unwrap());
    assert!(client.try_lock("", ttl).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_cannot_be_renewed_is_told() {
    use jobkit_core::testing::{Fault, FaultyStorage};
    let storage = FaultyStorage::new(Arc::new(MemoryStorage::new()));
    let client = Client::new(storage.clone());
    let lock = client.try_lock("books", Duration::from_millis(100)).await.unwrap().unwrap();
    storage.decide(|method| if method == "renew_lock" { Fault::Before } else { Fault::None });
    eventually("it is told", || async { lock.lost().is_cancelled() }).await;
}
