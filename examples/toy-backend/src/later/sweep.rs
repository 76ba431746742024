//! Before step 5: nothing is removed, and nothing is left to be completed.

use jobkit_core::state::Reason;
use jobkit_core::storage::Step;
use jobkit_core::{Error, Result};

use crate::txn::Txn;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Spread {
    Start,
    Cancel(Reason),
}

impl Txn<'_> {
    pub(crate) fn sweep(&mut self, _: usize) -> Result<Step> {
        Err(Error::unsupported("sweeps"))
    }

    pub(crate) fn purge(&mut self, _: usize) -> Result<Step> {
        Err(Error::unsupported("retention"))
    }
}
