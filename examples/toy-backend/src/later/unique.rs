//! Before step 7: no job has a unique key.

use jobkit_core::record::NewRecord;
use jobkit_core::state_machine::Effects;
use jobkit_core::{JobId, Result};

use crate::record::Job;
use crate::submit::Planned;
use crate::txn::Txn;

#[derive(Debug, Default)]
pub(crate) struct PlannedKeys {}

impl PlannedKeys {
    pub(crate) fn replaced(&self) -> impl Iterator<Item = JobId> {
        std::iter::empty()
    }
}

#[allow(clippy::unnecessary_wraps, reason = "as unique.rs has it")]
impl Txn<'_> {
    pub(crate) fn other_holder(&self, _: &Job) -> Result<Option<JobId>> {
        Ok(None)
    }

    pub(crate) fn plan_key(&self, _: &NewRecord, _: &mut PlannedKeys) -> Planned<Option<JobId>> {
        Ok(Ok(None))
    }

    pub(crate) fn take_planned_key(&mut self, _: &NewRecord, _: &PlannedKeys) -> Result<()> {
        Ok(())
    }

    pub(crate) fn change_key(&mut self, _: &Job, _: &Effects) -> Result<()> {
        Ok(())
    }

    pub(crate) fn purge_keys(&mut self, _: usize) -> bool {
        false
    }
}
