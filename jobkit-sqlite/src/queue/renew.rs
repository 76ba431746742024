//! `renew`.

use std::collections::HashSet;

use jobkit_core::state::State;
use jobkit_core::state_machine::Event;
use jobkit_core::storage::{RenewAnswer, RenewRequest, Renewal, Renewed};
use jobkit_core::{Timestamp, bounds};

use super::lease;
use crate::codec::job_row::STARTED;
use crate::codec::sql_text::sql;
use crate::codec::{int, size};
use crate::error::SqlResult;
use crate::jobs::finish::finish_step;
use crate::jobs::read;
use crate::jobs::transition::{TransitionContext, transition};
use crate::txn::Txn;
use crate::txn::marks::Budget;

pub(crate) fn renew(
    txn: &mut Txn<'_, '_>,
    request: &RenewRequest,
    now: Timestamp,
) -> SqlResult<Renewed> {
    let expires_at = now.plus(request.lease);
    let mut answers = Vec::with_capacity(request.held.len());
    let mut listed = HashSet::with_capacity(request.held.len());
    for renewal in &request.held {
        let answer = renew_one(txn, renewal, expires_at)?;
        if answer != RenewAnswer::Lost {
            listed.insert(renewal.lease.job);
        }
        answers.push(answer);
    }
    let (from, to) = (int(*request.sequences.start()), int(*request.sequences.end()));
    let unlisted = txn.db.all(
        sql!(
            "SELECT seq FROM jk_job INDEXED BY jk_held \
         WHERE state = {processing} AND incarnation = ?1 AND claim_seq BETWEEN ?2 AND ?3 LIMIT ?4"
        ),
        [request.incarnation.as_i64(), from, to, size(listed.len() + bounds::MAX_STEP_ITEMS)],
        |row| row.get::<_, i64>(0),
    )?;
    let mut given_back = Vec::new();
    for seq in unlisted {
        let Some(mut job) = read::load(txn.db, seq)? else { continue };
        // What is beyond the bound is given back by the next renew.
        if !listed.contains(&job.id) && given_back.len() < bounds::MAX_STEP_ITEMS {
            let _ = transition(txn, &mut job, &Event::GiveBack, &TransitionContext::at(now))?;
            given_back.push(job.id);
        }
    }
    // What the server has seen is closed to a claim that comes late. Mostly the claim itself has written so.
    if from <= to {
        txn.db.run(
            "UPDATE jk_server SET last_claim = ?2 WHERE incarnation = ?1 AND last_claim < ?2",
            [request.incarnation.as_i64(), to],
        )?;
    }
    finish_step(txn, now, &mut Budget(bounds::CHILDREN_IN_SETTLE))?;
    Ok(Renewed { answers, given_back })
}

fn renew_one(
    txn: &Txn<'_, '_>,
    renewal: &Renewal,
    expires_at: Timestamp,
) -> SqlResult<RenewAnswer> {
    let Some(job) = lease::leased_if_readable(txn, &renewal.lease)? else {
        return Ok(RenewAnswer::Lost);
    };
    if !job.head.is_held_by(renewal.lease.fence, renewal.lease.incarnation) {
        return Ok(RenewAnswer::Lost);
    }
    let State::Processing(hold) = &job.head.state else { return Ok(RenewAnswer::Lost) };
    let started = if renewal.started { STARTED } else { 0 };
    txn.db.run(
        "UPDATE jk_job SET lease_until = ?2, flags = (flags & ~?3) | ?4 WHERE seq = ?1",
        [job.seq, expires_at.as_micros(), STARTED, started],
    )?;
    Ok(RenewAnswer::Renewed { expires_at, cancel: hold.cancel })
}
