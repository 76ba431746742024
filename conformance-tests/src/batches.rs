//! Batches: many jobs with one end.

mod cancel;
mod ends;
mod lists;
mod stand_ins;
mod starts;

use jobkit_core::batch::Starts;
use jobkit_core::edge::BatchCounts;
use jobkit_core::record::NewRecord;
use jobkit_core::state::{Reason, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::BatchOutcome;
use jobkit_core::{BatchId, JobId};

use crate::fixtures::*;

pub use self::cancel::*;
pub use self::ends::*;
pub use self::lists::*;
pub use self::stand_ins::*;
pub use self::starts::*;

const FAIL: Ending = Ending::Failed(Reason::OutOfAttempts);

fn members(batch: BatchId, count: usize) -> Vec<NewRecord> {
    (0..count).map(|_| member(batch)).collect()
}

fn ids(jobs: &[NewRecord]) -> Vec<JobId> {
    jobs.iter().map(|job| job.id).collect()
}

/// A batch with this many members.
async fn open(env: &Env, starts: Starts, count: usize) -> (BatchId, Vec<JobId>) {
    let batch = BatchId::new();
    let jobs = members(batch, count);
    let ids = ids(&jobs);
    env.submit(batch_of(batch, starts, jobs)).await;
    (batch, ids)
}

async fn start(env: &Env, batch: BatchId) -> BatchOutcome {
    env.storage.start_batch(&env.call(), batch).await.expect("starts")
}

async fn cancel(env: &Env, batch: BatchId) -> BatchOutcome {
    env.storage.cancel_batch(&env.call(), batch).await.expect("cancels")
}

/// The counts, after comparing them with the members' states.
async fn counts(env: &Env, batch: BatchId, members: &[JobId]) -> BatchCounts {
    let counts = env.batch(batch).await.counts;
    let states = env.states(members).await;
    let of = |state| states.iter().filter(|it| **it == state).count() as u64;
    let expected = BatchCounts {
        total: members.len() as u64,
        succeeded: of(StateName::Succeeded),
        failed: of(StateName::Failed),
        deleted: of(StateName::Deleted),
        lost: false,
    };
    assert_eq!(counts, expected, "the counts equal the members' states");
    counts
}
