//! Before step 3: nothing is claimed.

use jobkit_core::storage::{ClaimRequest, Claimed};
use jobkit_core::{Error, Result};

use crate::txn::Txn;

impl Txn<'_> {
    pub(crate) fn claim(&mut self, _: &ClaimRequest) -> Result<Claimed> {
        Err(Error::unsupported("claiming"))
    }
}
