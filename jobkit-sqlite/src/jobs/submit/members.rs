//! Which jobs and batches become members of a batch.

use jobkit_core::batch::{BatchRecord, too_deep};
use jobkit_core::record::NewRecord;
use jobkit_core::refusal::Refusal;
use jobkit_core::state::StateName;
use jobkit_core::{BatchId, JobId, bounds};

use crate::error::Done;
use crate::writer::Flight;

impl Flight<'_, '_> {
    /// Why a batch is not opened inside this one.
    pub(super) fn refuse_nested(&mut self, parent: BatchId) -> Done<Option<Refusal>> {
        if let Some(refusal) = self.refuse_batch(parent)? {
            return Ok(Some(refusal));
        }
        let depth = self.batches_around(parent)?.len();
        Ok((depth >= bounds::BATCH_NESTING).then(too_deep))
    }

    /// Why nothing is attached to a batch.
    pub(super) fn refuse_batch(&mut self, id: BatchId) -> Done<Option<Refusal>> {
        if self.batch_is_cancelled(id)? {
            return Ok(Some(Refusal::BatchCancelled { batch: id }));
        }
        Ok(match self.batch(id)?.map(|batch| &batch.record) {
            None => Some(Refusal::BatchGone { batch: id }),
            Some(batch) if batch.completed_at.is_some() => {
                Some(Refusal::BatchFinished { batch: id })
            }
            Some(_) => None,
        })
    }

    /// Why the holder of a new member's key does not stand in its place: the batch would not wait for it
    /// (SUB-17).
    pub(super) fn refuse_stand_in(
        &mut self,
        job: &NewRecord,
        holder: JobId,
    ) -> Done<Option<Refusal>> {
        let Some(batch) = job.batch else { return Ok(None) };
        // One that is gone held the key for a period: nothing is left to wait for.
        let Some(stored) = self.find(holder)? else { return Ok(None) };
        if stored.state() == StateName::Succeeded {
            return Ok(None);
        }
        let waits = match stored.batch {
            Some(inner) => BatchRecord::waits_for(batch, &self.batches_around(inner)?),
            None => false,
        };
        Ok((!waits).then_some(Refusal::KeyHeldOutside { job: job.id, batch, holder }))
    }
}
