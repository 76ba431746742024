//! Finishing a step: what waits for the jobs and batches that ended in it.

use jobkit_core::Timestamp;
use jobkit_core::edge::{Decision, On, Parent};
use jobkit_core::state::{Reason, StateName};
use jobkit_core::state_machine::Event;
use rusqlite::params;

use super::read;
use super::transition::{TransitionContext, transition};
use super::unreadable::give_up_unreadable;
use crate::batches::touched;
use crate::codec::sql_text::sql;
use crate::codec::{on_number, parent_columns, size};
use crate::error::{SqlResult, warn_corrupt_row};
use crate::limits::admission;
use crate::txn::Txn;
use crate::txn::marks::{self, Budget, Mark, Verdict};

/// Finishes a step: decides what waits for the jobs and batches that ended, and admits waiters at limits
/// that have room.
pub(crate) fn finish_step(txn: &mut Txn<'_, '_>, now: Timestamp, budget: &mut Budget) -> SqlResult {
    decide_finished(txn, now, budget)?;
    admission::admit_waiters(txn, now)
}

/// Decides what waits for the jobs and batches that ended, as far as the budget allows, and marks the
/// rest for sweeps. Parents decide in the order in which they end (BAT-9): a batch ends with its last
/// member, before anything that this member decides.
pub(crate) fn decide_finished(
    txn: &mut Txn<'_, '_>,
    now: Timestamp,
    budget: &mut Budget,
) -> SqlResult {
    loop {
        touched::write_changed(txn, now)?;
        let Some((parent, verdict)) = txn.ended.pop_front() else { return Ok(()) };
        decide_or_mark(txn, parent, verdict, now, budget)?;
    }
}

/// Decides what waits for a parent that ended, and leaves a mark for what exceeds the budget.
fn decide_or_mark(
    txn: &mut Txn<'_, '_>,
    parent: Parent,
    verdict: Verdict,
    now: Timestamp,
    budget: &mut Budget,
) -> SqlResult {
    let until = txn.last_seq()?;
    // An earlier end of the same parent decides first.
    if marks::is_marked(txn.db, parent)?
        || decide_children(txn, parent, verdict, until, now, budget)?
    {
        marks::insert(txn, &Mark::Decide { parent, verdict }, 0, until)?;
    }
    Ok(())
}

/// Decides open edges from a parent; returns whether some are left because the budget is used up.
pub(crate) fn decide_children(
    txn: &mut Txn<'_, '_>,
    parent: Parent,
    verdict: Verdict,
    until: i64,
    now: Timestamp,
    budget: &mut Budget,
) -> SqlResult<bool> {
    let (id, is_batch) = parent_columns(&parent);
    // In the order of BAT-9.
    for on in [On::Any, On::Success, On::Failed] {
        let met = match verdict.decide(on) {
            Decision::Open => continue,
            Decision::Met => true,
            Decision::Unmeetable => false,
        };
        loop {
            let page = budget.0.min(100);
            let edges = txn.db.all(
                "SELECT child, n FROM jk_edge INDEXED BY jk_edge_open \
                 WHERE decided = 0 AND parent = ?1 AND batch = ?2 AND cond = ?3 AND child <= ?4 \
                 ORDER BY child LIMIT ?5",
                params![&id[..], is_batch, on_number(on), until, size(page.max(1))],
                |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
            )?;
            if edges.is_empty() {
                break;
            }
            if budget.0 == 0 {
                return Ok(true);
            }
            for (child, n) in edges {
                budget.0 = budget.0.saturating_sub(1);
                txn.db.run(
                    "UPDATE jk_edge SET decided = 1 WHERE child = ?1 AND n = ?2",
                    [child, n],
                )?;
                decided(txn, child, met, Reason::Unmeetable, now)?;
            }
        }
    }
    Ok(false)
}

/// Records for a child that one of its parents was decided.
fn decided(
    txn: &mut Txn<'_, '_>,
    child: i64,
    met: bool,
    otherwise: Reason,
    now: Timestamp,
) -> SqlResult {
    let loaded = match read::load(txn.db, child) {
        Err(fault) if fault.is_corrupt_row() => {
            warn_corrupt_row(child, &fault);
            let waits =
                sql!("SELECT EXISTS (SELECT 1 FROM jk_job WHERE seq = ?1 AND state = {awaiting})");
            // A child that no longer waits, for example after a run-now, may run.
            if txn.db.one(waits, [child], |row| row.get(0))? == Some(true) {
                give_up_unreadable(txn, child, now)?;
            }
            return Ok(());
        }
        loaded => loaded?,
    };
    if let Some(mut child) = loaded
        && child.state() == StateName::Awaiting
    {
        // A refusal means that it no longer waits.
        let _ = transition(
            txn,
            &mut child,
            &Event::Decided { met, otherwise },
            &TransitionContext::at(now),
        )?;
    }
    Ok(())
}
