//! Before step 6: no job has parents, so nothing is to be decided.

use jobkit_core::edge::{Finish, Parent, Verdict};
use jobkit_core::record::NewRecord;
use jobkit_core::{BatchId, JobId, Result};
use serde::{Deserialize, Serialize};

use crate::record::{Condition, Job};
use crate::submit::{Planned, PlannedJob};
use crate::txn::Txn;

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) parent: Parent,
    pub(crate) verdict: Verdict,
    pub(crate) through: u64,
}

#[allow(clippy::unnecessary_wraps, reason = "as edges.rs has it")]
impl Txn<'_> {
    pub(crate) fn plan_edges<'p>(
        &self,
        _: &NewRecord,
        _: &dyn Fn(JobId) -> Option<&'p PlannedJob>,
        _: Option<BatchId>,
    ) -> Planned<(Vec<Condition>, bool)> {
        Ok(Ok((Vec::new(), false)))
    }

    pub(crate) fn add_edges(&mut self, _: &Job) {}

    pub(crate) fn remove_edges(&mut self, _: &Job) {}

    pub(crate) fn has_open_edges(&self, _: Parent) -> bool {
        false
    }

    pub(crate) fn has_marks(&self, _: Parent) -> bool {
        false
    }

    pub(crate) fn parent_finished(&mut self, _: JobId, _: Finish) {}

    pub(crate) fn settle_down(&mut self) -> Result<()> {
        Ok(())
    }

    pub(crate) fn decide(&mut self, _: &Ended) -> Result<bool> {
        Ok(true)
    }

    pub(crate) fn unmark_ended(&mut self, _: Parent) {}
}
