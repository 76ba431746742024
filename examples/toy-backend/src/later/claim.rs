//! Before step 3: nothing is claimed.

use jobkit_core::storage::{ClaimRequest, Claimed};
use jobkit_core::{Error, Result};

use crate::call::Call;

impl Call<'_> {
    pub(crate) fn claim(&mut self, _: &ClaimRequest) -> Result<Claimed> {
        Err(Error::unsupported("claiming"))
    }
}
