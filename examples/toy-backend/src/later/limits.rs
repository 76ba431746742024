//! Before step 7: no job has a limit.

use jobkit_core::Result;
use jobkit_core::record::NewRecord;
use jobkit_core::state::StateName;
use jobkit_core::storage::LimitStore;

use crate::ToyStorage;
use crate::record::Job;
use crate::txn::Txn;

pub(crate) const ADMITTED_AT_ONCE: usize = 0;

// All of it answers `Unsupported`.
impl LimitStore for ToyStorage {}

#[allow(clippy::unnecessary_wraps, reason = "as limits.rs has it")]
impl Txn<'_> {
    pub(crate) fn define_limits(&mut self, _: &NewRecord) -> Result<()> {
        Ok(())
    }

    pub(crate) fn park_if_full(&mut self, _: &mut Job) -> Result<bool> {
        Ok(false)
    }

    pub(crate) fn count_starts(&mut self, _: &Job) -> Result<()> {
        Ok(())
    }

    pub(crate) fn freed_slots(&mut self, _: &Job) -> Result<()> {
        Ok(())
    }

    pub(crate) fn leave_limit(&mut self, _: &mut Job, _: StateName) {}

    pub(crate) fn moved_at_limits(&mut self, _: &mut Job) {}

    pub(crate) fn note_room(&mut self, _: &str) -> Result<()> {
        Ok(())
    }

    pub(crate) fn admit(&mut self, _: &str, _: usize) -> Result<usize> {
        Ok(0)
    }

    pub(crate) fn refill_limits(&mut self) {}

    pub(crate) fn fill_limits(&mut self, _: usize) -> Result<(usize, bool)> {
        Ok((0, false))
    }

    pub(crate) fn fill_due_limits(&mut self, _: usize) -> Result<usize> {
        Ok(0)
    }
}
