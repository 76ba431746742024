//! Replacing a waiting job by an edited copy.

use jobkit_core::record::NewRecord;
use jobkit_core::refusal::Refusal;
use jobkit_core::state::{Reason, StateName};
use jobkit_core::state_machine::Event;
use jobkit_core::storage::{Guard, JobSubmitted, Submission, Submitted};
use jobkit_core::{JobId, Timestamp, bounds};
use rusqlite::params;

use super::finish::finish_step;
use super::read;
use super::submit::prepared::PreparedSubmission;
use super::submit::{submit, submit_nested};
use super::transition::{TransitionContext, transition};
use crate::codec::job_row::{CHILDREN, Job};
use crate::error::SqlResult;
use crate::txn::Txn;
use crate::txn::marks::Budget;

/// Stores `copy` and deletes a waiting original: both or neither.
pub(crate) fn edit(
    txn: &mut Txn<'_, '_>,
    original: JobId,
    guard: Guard,
    copy: &NewRecord,
    actor: Option<&str>,
    now: Timestamp,
) -> SqlResult<Submitted> {
    let submission = PreparedSubmission::new(&Submission::one(copy.clone()));
    if read::find(txn.db, copy.id)?.is_some() {
        // A repeated call: the first one handled the original.
        return submit(txn, &submission, now);
    }
    let Some(mut job) = read::find(txn.db, original)? else {
        return Ok(Submitted::Refused(Refusal::JobGone { job: original }));
    };
    if let Err(refusal) = guard.check(&job.head) {
        return Ok(Submitted::Refused(refusal));
    }
    if job.state().is_finished() {
        return submit(txn, &submission, now);
    }
    if let Some(refusal) = refuse_replacement(txn, &job)? {
        return Ok(Submitted::Refused(refusal));
    }
    // Names stay known after a rollback of this part, so they are stored before it.
    txn.db.intern(&copy.queue)?;
    txn.db.intern(&copy.kind)?;
    let savepoint = txn.savepoint()?;
    let context = TransitionContext { actor, ..TransitionContext::at(now) };
    // A waiting job can be deleted.
    let _ = transition(txn, &mut job, &Event::Delete(Reason::Replaced), &context)?;
    if let Some(unique) = job.unique()? {
        // A key that is held for a period passes to the copy, too.
        txn.db.run(
            "DELETE FROM jk_ukey WHERE hash = ?1 AND job = ?2",
            params![&unique.hash().0[..], job.seq],
        )?;
    }
    finish_step(txn, now, &mut Budget(bounds::CHILDREN_IN_SETTLE))?;
    let submitted = submit_nested(txn, &submission, now)?;
    let stored = matches!(&submitted, Ok(jobs) if matches!(jobs[..], [JobSubmitted::Created(_)]));
    if stored {
        txn.release()?
    } else {
        txn.rollback_to(savepoint)?
    }
    Ok(match submitted {
        Ok(jobs) => Submitted::Created(jobs),
        Err(refusal) => Submitted::Refused(refusal),
    })
}

/// Why a waiting job may not be replaced by a copy, if it may not.
fn refuse_replacement(txn: &Txn<'_, '_>, job: &Job) -> SqlResult<Option<Refusal>> {
    let refused = |reason: &str| Refusal::Invalid { field: "job", reason: reason.to_owned() };
    if job.state() == StateName::Processing {
        return Ok(Some(Refusal::State { state: StateName::Processing }));
    }
    if job.state() == StateName::Awaiting {
        return Ok(Some(refused("waits for other jobs, which its copy would not")));
    }
    if job.batch.is_some() {
        return Ok(Some(refused("belongs to a batch, which counts it")));
    }
    if job.has(CHILDREN) {
        let waiting = txn.db.one(
            "SELECT 1 FROM jk_edge INDEXED BY jk_edge_open \
             WHERE decided = 0 AND parent = ?1 AND batch = 0 LIMIT 1",
            params![&job.id.as_bytes()[..]],
            |_| Ok(()),
        )?;
        return Ok(waiting.map(|()| refused("is waited for by other jobs")));
    }
    Ok(None)
}
