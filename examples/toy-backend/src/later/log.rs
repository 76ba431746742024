//! Before step 8: what handlers tell is not kept.

use jobkit_core::Result;
use jobkit_core::record::Progress;
use jobkit_core::storage::{JobLog, LogLine};

use crate::ToyStorage;
use crate::txn::Txn;

// All of it answers `Unsupported`.
impl JobLog for ToyStorage {}

#[allow(clippy::unnecessary_wraps, reason = "as log.rs has it")]
impl Txn<'_> {
    pub(crate) fn append_log(
        &mut self,
        _: u64,
        _: u64,
        _: &[LogLine],
        _: u64,
        _: &[Progress],
    ) -> Result<()> {
        Ok(())
    }
}
