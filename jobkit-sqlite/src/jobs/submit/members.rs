//! Which jobs and batches become members of a batch.

use jobkit_core::batch::{BatchRecord, too_deep};
use jobkit_core::record::NewRecord;
use jobkit_core::refusal::Refusal;
use jobkit_core::state::StateName;
use jobkit_core::{BatchId, JobId, bounds};

use crate::batches::touched;
use crate::error::SqlResult;
use crate::jobs::read;
use crate::txn::Txn;

/// Why a batch is not opened inside this one.
pub(crate) fn refuse_nested(txn: &mut Txn<'_, '_>, parent: BatchId) -> SqlResult<Option<Refusal>> {
    if let Some(refusal) = refuse_batch(txn, parent)? {
        return Ok(Some(refusal));
    }
    let depth = touched::with_enclosing(txn, parent)?.len();
    Ok((depth >= bounds::BATCH_NESTING).then(too_deep))
}

/// Why nothing is attached to a batch.
pub(crate) fn refuse_batch(txn: &mut Txn<'_, '_>, id: BatchId) -> SqlResult<Option<Refusal>> {
    if touched::is_cancelled(txn, id)? {
        return Ok(Some(Refusal::BatchCancelled { batch: id }));
    }
    Ok(match touched::batch(txn, id)?.map(|batch| &batch.record) {
        None => Some(Refusal::BatchGone { batch: id }),
        Some(batch) if batch.completed_at.is_some() => Some(Refusal::BatchFinished { batch: id }),
        Some(_) => None,
    })
}

/// Why the holder of a new member's key does not stand in for it: the batch would not wait for the holder
/// (SUB-17).
pub(crate) fn refuse_stand_in(
    txn: &mut Txn<'_, '_>,
    job: &NewRecord,
    holder: JobId,
) -> SqlResult<Option<Refusal>> {
    let Some(batch) = job.batch else { return Ok(None) };
    // A holder that was removed held the key for a period: there is nothing to wait for.
    let Some(stored) = read::find(txn.db, holder)? else { return Ok(None) };
    if stored.state() == StateName::Succeeded {
        return Ok(None);
    }
    let waits = match stored.batch {
        Some(inner) => BatchRecord::waits_for(batch, &touched::with_enclosing(txn, inner)?),
        None => false,
    };
    Ok((!waits).then_some(Refusal::KeyHeldOutside { job: job.id, batch, holder }))
}
