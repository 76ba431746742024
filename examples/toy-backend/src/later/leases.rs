//! Before step 4: leases end, and nobody looks.

use jobkit_core::storage::{Promoted, RenewRequest, Renewed, Rescue, RescueRequest};
use jobkit_core::{Error, Result};

use crate::txn::Txn;

impl Txn<'_> {
    pub(crate) fn renew(&mut self, _: &RenewRequest) -> Result<Renewed> {
        Err(Error::unsupported("renewing"))
    }

    pub(crate) fn rescue(&mut self, _: &RescueRequest) -> Result<Rescue> {
        Err(Error::unsupported("rescuing"))
    }

    pub(crate) fn promote(&mut self, _: usize) -> Result<Promoted> {
        Err(Error::unsupported("promoting"))
    }
}
