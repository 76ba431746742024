//! `renew`.

use std::collections::HashSet;

use jobkit_core::state::State;
use jobkit_core::state_machine::Event;
use jobkit_core::storage::{RenewAnswer, RenewRequest, Renewal, Renewed};
use jobkit_core::{Timestamp, bounds};

use crate::codec::{STARTED, int};
use crate::error::Done;
use crate::jobs::transition::{Budget, Why};
use crate::writer::Flight;

impl Flight<'_, '_> {
    pub(super) fn renew(&mut self, request: &RenewRequest) -> Done<Renewed> {
        let now = self.now(request.now);
        let expires_at = now.plus(request.lease);
        let mut answers = Vec::with_capacity(request.held.len());
        let mut listed = HashSet::with_capacity(request.held.len());
        for renewal in &request.held {
            let answer = self.renew_one(renewal, expires_at)?;
            if answer != RenewAnswer::Lost {
                listed.insert(renewal.lease.job);
            }
            answers.push(answer);
        }
        let (from, to) = (int(*request.sequences.start()), int(*request.sequences.end()));
        let unlisted = self.db.all(
            "SELECT seq FROM jk_job INDEXED BY jk_held \
             WHERE state = 3 AND incarnation = ?1 AND claim_seq BETWEEN ?2 AND ?3",
            [request.incarnation.as_i64(), from, to],
            |row| row.get::<_, i64>(0),
        )?;
        let mut given_back = Vec::new();
        for seq in unlisted {
            let Some(mut job) = self.load(seq)? else { continue };
            if !listed.contains(&job.id) {
                let _ = self.step(&mut job, &Event::GiveBack, &Why::at(now))?;
                given_back.push(job.id);
            }
        }
        self.cascade(now, &mut Budget(bounds::CHILDREN_IN_SETTLE))?;
        Ok(Renewed { answers, given_back })
    }

    fn renew_one(&self, renewal: &Renewal, expires_at: Timestamp) -> Done<RenewAnswer> {
        let Some(job) = self.leased_if_readable(&renewal.lease)? else {
            return Ok(RenewAnswer::Lost);
        };
        if !job.head.is_held_by(renewal.lease.fence, renewal.lease.incarnation) {
            return Ok(RenewAnswer::Lost);
        }
        let State::Processing(hold) = &job.head.state else { return Ok(RenewAnswer::Lost) };
        let started = if renewal.started { STARTED } else { 0 };
        self.db.run(
            "UPDATE jk_job SET lease_until = ?2, flags = (flags & ~?3) | ?4 WHERE seq = ?1",
            [job.seq, expires_at.as_micros(), STARTED, started],
        )?;
        Ok(RenewAnswer::Renewed { expires_at, cancel: hold.cancel })
    }
}
