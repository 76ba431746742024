//! `BatchStore`.

pub(crate) mod batch_row;
pub(crate) mod steps;
pub(crate) mod touched;

use async_trait::async_trait;
use jobkit_core::batch::{BatchRecord, BatchState};
use jobkit_core::refusal::Refusal;
use jobkit_core::storage::{BatchOutcome, BatchStore, Call};
use jobkit_core::{BatchId, Result, Timestamp, bounds};
use rusqlite::params;

use self::batch_row::{load, read, select_batch};
use self::steps::{begin_batch, end_batch};
use crate::codec::size;
use crate::error::SqlResult;
use crate::jobs::finish::finish_step;
use crate::storage::SqliteStorage;
use crate::txn::Txn;
use crate::txn::marks::{Budget, Mark, STEP};

fn start(txn: &mut Txn<'_, '_>, id: BatchId, now: Timestamp) -> SqlResult<BatchOutcome> {
    if touched::is_cancelled(txn, id)? {
        return Ok(BatchOutcome::Refused(Refusal::BatchCancelled { batch: id }));
    }
    let Some(batch) = touched::batch(txn, id)? else {
        return Ok(BatchOutcome::Refused(Refusal::BatchGone { batch: id }));
    };
    if batch.record.started_at.is_some() || batch.with_parent {
        return Ok(BatchOutcome::AlreadyApplied);
    }
    let waits = match batch.record.parent {
        Some(parent) => touched::is_filling(txn, parent)?,
        None => false,
    };
    if waits {
        if let Some(batch) = touched::batch(txn, id)? {
            batch.with_parent = true;
            batch.changed = true;
        }
    } else {
        begin_batch(txn, id, now, &mut Budget(STEP))?;
    }
    finish_step(txn, now, &mut Budget(bounds::CHILDREN_IN_SETTLE))?;
    Ok(BatchOutcome::Changed)
}

fn cancel(txn: &mut Txn<'_, '_>, id: BatchId, now: Timestamp) -> SqlResult<BatchOutcome> {
    let Some(batch) = touched::batch(txn, id)? else {
        return Ok(BatchOutcome::Refused(Refusal::BatchGone { batch: id }));
    };
    if batch.record.cancelled_at.is_some() {
        return Ok(BatchOutcome::AlreadyApplied);
    }
    if batch.record.completed_at.is_some() {
        return Ok(BatchOutcome::Refused(Refusal::BatchFinished { batch: id }));
    }
    end_batch(txn, Mark::Cancel { batch: id }, now, &mut Budget(STEP))?;
    finish_step(txn, now, &mut Budget(bounds::CHILDREN_IN_SETTLE))?;
    Ok(BatchOutcome::Changed)
}

#[async_trait]
impl BatchStore for SqliteStorage {
    async fn start_batch(&self, call: &Call, id: BatchId) -> Result<BatchOutcome> {
        self.writer().call_at("start_batch", call, move |txn, now| start(txn, id, now)).await
    }

    async fn cancel_batch(&self, call: &Call, id: BatchId) -> Result<BatchOutcome> {
        self.writer().call_at("cancel_batch", call, move |txn, now| cancel(txn, id, now)).await
    }

    async fn batch(&self, id: BatchId) -> Result<Option<BatchRecord>> {
        self.read("batch", move |db| load(db, id)).await
    }

    async fn batches(
        &self,
        state: Option<BatchState>,
        before: Option<BatchId>,
        limit: usize,
    ) -> Result<Vec<BatchRecord>> {
        self.read("batches", move |db| {
            // Ids begin with the time of their creation.
            let mut below = before.map_or([u8::MAX; 16], |before| *before.as_bytes());
            let mut batches = Vec::new();
            while batches.len() < limit {
                let page = db.all(
                    select_batch!("WHERE id < ?1 ORDER BY id DESC LIMIT ?2"),
                    params![&below[..], size(limit.max(100))],
                    read,
                )?;
                let Some(last) = page.last() else { break };
                below = *last.id.as_bytes();
                let wanted = |batch: &BatchRecord| state.is_none_or(|s| batch.state() == s);
                let room = limit - batches.len();
                batches.extend(page.into_iter().filter(wanted).take(room));
            }
            Ok(batches)
        })
        .await
    }
}
