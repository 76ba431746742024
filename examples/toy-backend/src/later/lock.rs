//! Before step 5: no locks.

use async_trait::async_trait;
use jobkit_core::storage::{Call, LockLease, LockRequest, LockStore};
use jobkit_core::{Error, Result};

use crate::ToyStorage;

#[async_trait]
impl LockStore for ToyStorage {
    async fn try_acquire(&self, _: &Call, _: &LockRequest) -> Result<Option<LockLease>> {
        Err(Error::unsupported("locks"))
    }

    async fn renew_lock(&self, _: &Call, _: &LockRequest, _: u64) -> Result<bool> {
        Err(Error::unsupported("locks"))
    }

    async fn release_lock(&self, _: &Call, _: &LockRequest, _: u64) -> Result<bool> {
        Err(Error::unsupported("locks"))
    }
}
