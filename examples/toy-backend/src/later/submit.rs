//! Before step 2: nothing is submitted.

use jobkit_core::refusal::Refusal;
use jobkit_core::state::Reason;
use jobkit_core::storage::{Submission, Submitted};
use jobkit_core::{Error, Result};

use crate::txn::Txn;

pub(crate) type Planned<T> = Result<std::result::Result<T, Refusal>>;

#[derive(Debug)]
pub(crate) struct Plan;

#[derive(Debug)]
pub(crate) enum PlannedJob {}

impl Txn<'_> {
    pub(crate) fn submit_one(&mut self, _: &Submission, _: Reason) -> Result<Submitted> {
        Err(Error::unsupported("submitting"))
    }
}
