//! One client on several runtimes.

use std::time::Duration;

use jobkit_core::client::WaitError;
use jobkit_core::{Client, MemoryStorage};
use tokio::runtime::{Builder, Runtime};

use crate::support::{Act, script};

fn one_thread(paused: bool) -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(paused).build().expect("a runtime")
}

#[test]
fn a_waiter_does_not_depend_on_the_runtime_of_another_one() {
    let client = Client::new(MemoryStorage::new());
    let still = one_thread(false);
    // The first waiter's runtime looks for all, and then stands still.
    let second = still.block_on(async {
        let first = client.enqueue(script("first", Act::Return(1))).await.expect("stored");
        let second = client.enqueue(script("second", Act::Return(2))).await.expect("stored");
        drop(tokio::spawn(async move { drop(first.wait(Duration::from_secs(600)).await) }));
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        second
    });
    let answer = one_thread(true).block_on(async {
        client.delete(second.id()).await.expect("deleted");
        second.wait(Duration::from_secs(60)).await
    });
    assert!(matches!(answer, Err(WaitError::Deleted(_))), "{answer:?}");
    drop(still);
}
