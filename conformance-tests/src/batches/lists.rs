//! Batches in lists.

use jobkit_core::BatchId;
use jobkit_core::batch::{BatchState, Starts};

use crate::fixtures::*;

use super::*;

/// BAT-3: batches are listed newest first, by state, in pages.
pub async fn batches_are_listed_newest_first(env: Env) {
    // The order of their ids, which those made in one millisecond have by chance.
    let mut all: Vec<BatchId> = (0..5).map(|_| BatchId::new()).collect();
    all.sort_unstable();
    for (i, id) in all.iter().enumerate() {
        let starts = if i % 2 == 0 { Starts::AtOnce } else { Starts::WhenStarted };
        env.submit(batch_of(*id, starts, members(*id, 1))).await;
    }
    all.reverse();
    let list = async |state, before, limit| {
        let batches = env.storage.batches(state, before, limit).await.expect("lists");
        batches.into_iter().map(|batch| batch.id).collect::<Vec<_>>()
    };
    assert_eq!(list(None, None, 2).await, all[..2]);
    assert_eq!(list(None, Some(all[1]), 10).await, all[2..]);
    assert_eq!(list(Some(BatchState::Open), None, 10).await, [all[1], all[3]]);
    assert_eq!(list(Some(BatchState::Started), Some(all[0]), 10).await, [all[2], all[4]]);
    assert!(list(Some(BatchState::Cancelled), None, 10).await.is_empty());
    assert!(env.find_batch(BatchId::new()).await.is_none());
}

/// BAT-3: a page of batches in one state is full however far apart they stand, and holds no more than was
/// asked for.
pub async fn batches_that_stand_far_apart_fill_a_page(env: Env) {
    let mut all: Vec<BatchId> = (0..220).map(|_| BatchId::new()).collect();
    all.sort_unstable();
    let mut started = Vec::new();
    for (i, id) in all.iter().enumerate() {
        let starts = if i % 10 == 0 { Starts::AtOnce } else { Starts::WhenStarted };
        if starts == Starts::AtOnce {
            started.push(*id);
        }
        env.submit(batch_of(*id, starts, members(*id, 1))).await;
    }
    started.reverse();
    let page = async |before| {
        let state = Some(BatchState::Started);
        let batches = env.storage.batches(state, before, 15).await.expect("lists");
        batches.into_iter().map(|batch| batch.id).collect::<Vec<_>>()
    };
    assert_eq!(page(None).await, started[..15]);
    assert_eq!(page(Some(started[14])).await, started[15..]);
}
