//! `LockStore`: named leases.

use std::time::Duration;

use async_trait::async_trait;

use crate::model::clock::Timestamp;
use crate::model::error::Result;
use crate::model::ids::Incarnation;
use crate::storage::call::Call;

/// Named locks, as leases with expiry and a generation (G12).
///
/// **Contract**
/// - **LCK-1** At most one unexpired lease exists per name, on the storage's clock.
/// - **LCK-2** Every new owner gets a generation greater than all before it, also after the lock was
///   released, expired, or the storage reopened.
/// - **LCK-3** An owner that acquires again what it holds gets the same generation and the new expiry,
///   so that a lost answer can be repeated.
/// - **LCK-4** Renew and release by anyone but the holder change nothing and answer `false`.
/// - **LCK-5** A lock that expired is free for others; its former owner's renew answers `false` once
///   another has taken it.
/// - **LCK-6** A lock that ends further ahead than any can last ([a day](crate::model::bounds::LEASE)) was taken
///   while the clock was ahead: one who asks for it in vain makes it end after the time asked for, unless
///   its owner renews it.
#[async_trait]
pub trait LockStore {
    /// Takes the lock if it is free; `None` if another holds it.
    async fn try_acquire(&self, call: &Call, request: &LockRequest) -> Result<Option<LockLease>>;

    /// Extends a held lock; `false` if it is not held any more.
    async fn renew_lock(&self, call: &Call, request: &LockRequest, generation: u64)
    -> Result<bool>;

    /// Frees a held lock; `false` if it was not held any more.
    async fn release_lock(
        &self,
        call: &Call,
        request: &LockRequest,
        generation: u64,
    ) -> Result<bool>;
}

/// Whose lock, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockRequest {
    /// The lock's name: 1 to 200 bytes of any text.
    pub name: String,
    /// The owner: one number per guard, not per process.
    pub owner: Incarnation,
    /// How long it holds from now.
    pub ttl: Duration,
}

/// A held lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockLease {
    /// Grows with every new owner, forever; to be handed to other systems.
    pub generation: u64,
    /// When it ends unless renewed.
    pub expires_at: Timestamp,
}
