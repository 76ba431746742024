//! Before step 3: nothing is settled.

use jobkit_core::storage::{SettleAnswer, SettleRequest};
use jobkit_core::{Error, Result};

use crate::txn::Txn;

impl Txn<'_> {
    pub(crate) fn settle_all(&mut self, _: &SettleRequest) -> Result<Vec<SettleAnswer>> {
        Err(Error::unsupported("settling"))
    }
}
