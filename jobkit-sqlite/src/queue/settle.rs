//! `settle`, and the job that a lease is for.

use jobkit_core::error_group::ErrorGroup;
use jobkit_core::record::Lease;
use jobkit_core::state_machine::Event;
use jobkit_core::storage::{Settle, SettleAnswer, SettleRequest};
use jobkit_core::{Timestamp, bounds};
use rusqlite::params;

use crate::codec::{ASIDE, INLINE_BYTES, Job, RESULT_ASIDE, int, result_aside};
use crate::error::{Done, tell_of_damage};
use crate::jobs::transition::{Budget, Why};
use crate::writer::Flight;

impl Flight<'_, '_> {
    pub(crate) fn settle_all(&mut self, request: &SettleRequest) -> Done<Vec<SettleAnswer>> {
        let now = self.now(request.now);
        let answers = request.settles.iter().map(|settle| self.settle(settle, now)).collect();
        self.write_gathered()?;
        // Once for all of them: many may have freed slots of one limit.
        self.refill(now)?;
        answers
    }

    fn settle(&mut self, settle: &Settle, now: Timestamp) -> Done<SettleAnswer> {
        let lease = &settle.lease;
        let Some(mut job) = self.leased_to_settle(lease)? else {
            return Ok(SettleAnswer::LeaseLost);
        };
        self.gather(&job)?;
        if !job.head.is_held_by(lease.fence, lease.incarnation) {
            let again = job.head.settled == Some((lease.fence, lease.incarnation))
                && job.head.fence == lease.fence;
            return Ok(if again { SettleAnswer::AlreadyApplied } else { SettleAnswer::LeaseLost });
        }
        if let Err(refusal) = settle.check() {
            return Ok(SettleAnswer::Refused(refusal));
        }
        let result = settle.kept_result();

        let aside = result.is_some_and(|result| result.len() > INLINE_BYTES);
        if aside
            || settle.error.is_some()
            || !settle.log.is_empty()
            || settle.log_dropped > 0
            || !settle.progress.is_empty()
        {
            job.set(ASIDE, true);
        }
        if aside {
            job.set(RESULT_ASIDE, true);
        }
        let why =
            Why { duration: settle.duration, retention: Some(settle.retention), ..Why::at(now) };
        // A held job takes every ending.
        let _ = self.step(&mut job, &Event::Settle(settle.ending), &why)?;
        match result {
            Some(result) if aside => {
                self.db.run(
                    "INSERT INTO jk_payload (id, body) VALUES (?1, ?2) \
                     ON CONFLICT (id) DO UPDATE SET body = excluded.body",
                    params![result_aside(job.seq), result.as_bytes()],
                )?;
            }
            Some(result) => {
                self.db.run(
                    "UPDATE jk_job SET result = ?2 WHERE seq = ?1",
                    params![job.seq, result.as_bytes()],
                )?;
            }
            None => {}
        }
        if let Some(error) = &settle.error {
            if settle.ending.has_failed(job.state()) {
                let kind = self.db.name(job.kind)?;
                self.count_failure(ErrorGroup::first(&kind, job.id, error, now));
            }
            self.db.run(
                "INSERT OR REPLACE INTO jk_error (seq, fence, failures, at, fingerprint, detail) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    job.seq,
                    int(lease.fence),
                    job.head.failures,
                    now.as_micros(),
                    error.fingerprint.0.cast_signed(),
                    serde_json::to_string(error)?
                ],
            )?;
            self.db.run(
                "DELETE FROM jk_error WHERE seq = ?1 AND fence <= \
                 (SELECT fence FROM jk_error WHERE seq = ?1 ORDER BY fence DESC LIMIT 1 OFFSET 32)",
                [job.seq],
            )?;
        }
        self.append_log(job.seq, lease.fence, &settle.log, settle.log_dropped)?;
        self.set_progress(job.seq, &settle.progress)?;
        self.decide_finished(now, &mut Budget(bounds::CHILDREN_IN_SETTLE))?;
        Ok(SettleAnswer::Settled(job.state()))
    }

    /// The job a lease names, where its locator says, or else wherever it is.
    pub(crate) fn leased(&self, lease: &Lease) -> Done<Option<Job>> {
        match self.load(int(lease.locator.0))? {
            Some(job) if job.id == lease.job => Ok(Some(job)),
            _ => self.find(lease.job),
        }
    }

    /// The same, from memory if it was claimed a moment ago.
    fn leased_to_settle(&mut self, lease: &Lease) -> Done<Option<Job>> {
        let seq = int(lease.locator.0);
        if self.is_gathered(seq) {
            self.write_gathered()?;
        }
        if let Some(job) = self.db.claimed(seq)
            && job.id == lease.job
        {
            debug_assert!(
                !matches!(self.load(seq), Ok(Some(stored)) if stored != job),
                "{seq} was changed"
            );
            return Ok(Some(job));
        }
        let found = self.leased_if_readable(lease)?;
        if found.as_ref().is_some_and(|job| self.is_gathered(job.seq)) {
            self.write_gathered()?;
            return self.leased_if_readable(lease);
        }
        Ok(found)
    }

    /// The same; a row that cannot be read is held by nobody, until a rescue gives it up.
    pub(super) fn leased_if_readable(&self, lease: &Lease) -> Done<Option<Job>> {
        match self.leased(lease) {
            Err(fault) if fault.is_damage() => {
                tell_of_damage(int(lease.locator.0), &fault);
                Ok(None)
            }
            other => other,
        }
    }
}
