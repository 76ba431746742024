//! An edited copy in the place of a waiting job.

use jobkit_core::record::NewRecord;
use jobkit_core::refusal::Refusal;
use jobkit_core::state::{Reason, StateName};
use jobkit_core::state_machine::Event;
use jobkit_core::storage::{Guard, JobSubmitted, Submission, Submitted};
use jobkit_core::{JobId, Timestamp, bounds};
use rusqlite::params;

use super::submit::NewSubmission;
use super::transition::{Budget, Why};
use crate::codec::{CHILDREN, Job};
use crate::error::Done;
use crate::writer::Flight;

impl Flight<'_, '_> {
    /// Stores `copy`, and deletes a waiting original; both or neither.
    pub(crate) fn edit(
        &mut self,
        original: JobId,
        guard: Guard,
        copy: &NewRecord,
        actor: Option<&str>,
        now: Timestamp,
    ) -> Done<Submitted> {
        let submission = NewSubmission::new(&Submission::one(copy.clone()));
        if self.find(copy.id)?.is_some() {
            // Repeated: what was done with the original was done then.
            return self.submit(&submission, now);
        }
        let Some(mut job) = self.find(original)? else {
            return Ok(Submitted::Refused(Refusal::JobGone { job: original }));
        };
        if let Err(refusal) = guard.check(&job.head) {
            return Ok(Submitted::Refused(refusal));
        }
        if job.state().is_finished() {
            return self.submit(&submission, now);
        }
        if let Some(refusal) = self.refuse_replacement(&job)? {
            return Ok(Submitted::Refused(refusal));
        }
        // Names are kept beyond a rollback of this part, so they are given before it.
        self.db.intern(&copy.queue)?;
        self.db.intern(&copy.kind)?;
        let saved = self.save()?;
        let why = Why { actor, ..Why::at(now) };
        // A waiting job can be deleted.
        let _ = self.step(&mut job, &Event::Delete(Reason::Replaced), &why)?;
        if let Some(unique) = job.unique()? {
            // Also one that is held for a period goes over to the copy.
            self.db.run(
                "DELETE FROM jk_ukey WHERE hash = ?1 AND job = ?2",
                params![&unique.hash().0[..], job.seq],
            )?;
        }
        self.cascade(now, &mut Budget(bounds::CHILDREN_IN_SETTLE))?;
        let submitted = self.submit_inside(&submission, now)?;
        let stored =
            matches!(&submitted, Ok(jobs) if matches!(jobs[..], [JobSubmitted::Created(_)]));
        if stored {
            self.release()?
        } else {
            self.restore(saved)?
        }
        Ok(match submitted {
            Ok(jobs) => Submitted::Created(jobs),
            Err(refusal) => Submitted::Refused(refusal),
        })
    }

    /// Why a waiting job may not give way to a copy, if it may not.
    fn refuse_replacement(&self, job: &Job) -> Done<Option<Refusal>> {
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
            let waiting = self.db.one(
                "SELECT 1 FROM jk_edge INDEXED BY jk_edge_open \
                 WHERE decided = 0 AND parent = ?1 AND batch = 0 LIMIT 1",
                params![&job.id.as_bytes()[..]],
                |_| Ok(()),
            )?;
            return Ok(waiting.map(|()| refused("is waited for by other jobs")));
        }
        Ok(None)
    }
}
