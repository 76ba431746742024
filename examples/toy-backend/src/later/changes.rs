//! Before step 5: nobody changes a job.

use jobkit_core::storage::{Change, ChangeOutcome};
use jobkit_core::{Error, Result};

use crate::txn::Txn;

impl Txn<'_> {
    pub(crate) fn change(&mut self, _: &Change, _: Option<&str>) -> Result<ChangeOutcome> {
        Err(Error::unsupported("changes"))
    }
}
