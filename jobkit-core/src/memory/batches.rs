//! `impl BatchStore`.

use async_trait::async_trait;

use crate::memory::MemoryStorage;
use crate::model::batch::{BatchRecord, BatchState};
use crate::model::bounds;
use crate::model::error::Result;
use crate::model::ids::BatchId;
use crate::model::refusal::Refusal;
use crate::model::state::Reason;
use crate::storage::{BatchOutcome, BatchStore, Call};

#[async_trait]
impl BatchStore for MemoryStorage {
    async fn start_batch(&self, call: &Call, id: BatchId) -> Result<BatchOutcome> {
        Ok(self.write(call, |tables, work| {
            if tables.is_batch_change_blocked(id) {
                return BatchOutcome::Busy;
            }
            let Some(batch) = tables.batches.get(&id) else {
                return BatchOutcome::Refused(Refusal::BatchGone { batch: id });
            };
            if tables.is_cancelled(id) {
                return BatchOutcome::Refused(Refusal::BatchCancelled { batch: id });
            }
            if batch.record.started_at.is_some() || batch.starts_with_parent {
                return BatchOutcome::AlreadyApplied;
            }
            let parent = batch.record.parent;
            if parent.is_some_and(|parent| tables.is_filling(parent)) {
                tables.starts_with_parent(id);
            } else {
                tables.begin_batch(work, id, bounds::MAX_STEP_ITEMS);
            }
            BatchOutcome::Changed
        }))
    }

    async fn cancel_batch(&self, call: &Call, id: BatchId) -> Result<BatchOutcome> {
        Ok(self.write(call, |tables, work| {
            if tables.is_batch_change_blocked(id) {
                return BatchOutcome::Busy;
            }
            let Some(batch) = tables.batches.get(&id) else {
                return BatchOutcome::Refused(Refusal::BatchGone { batch: id });
            };
            if batch.record.cancelled_at.is_some() {
                return BatchOutcome::AlreadyApplied;
            }
            if batch.record.completed_at.is_some() {
                return BatchOutcome::Refused(Refusal::BatchFinished { batch: id });
            }
            let max = bounds::MAX_STEP_ITEMS;
            tables.cancel_batch(work, id, Reason::BatchCancelled, max);
            BatchOutcome::Changed
        }))
    }

    async fn batch(&self, id: BatchId) -> Result<Option<BatchRecord>> {
        Ok(self.read(|tables| tables.batches.get(&id).map(|it| it.record.clone())))
    }

    async fn batches(
        &self,
        state: Option<BatchState>,
        before: Option<BatchId>,
        limit: usize,
    ) -> Result<Vec<BatchRecord>> {
        Ok(self.read(|tables| {
            let records = match before {
                Some(before) => tables.batches.range(..before),
                None => tables.batches.range(..),
            };
            let records = records.rev().map(|(_, batch)| &batch.record);
            let wanted = records.filter(|it| state.is_none_or(|state| it.state() == state));
            wanted.take(limit).cloned().collect()
        }))
    }
}
