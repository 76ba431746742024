//! `Call`: what goes along with a call.

use crate::model::clock::{Clock, Timestamp};

/// What goes along with a call of a storage, whatever the call asks for.
///
/// A method that writes takes it as its first argument. So does a method that compares something with
/// the time. Other methods do not take it: reads that depend on no time, `wake_ups`, and those that look
/// after a storage (`migrate`, `check` and `now`).
///
/// The caller sets it. Clients and servers send the default, which leaves everything to the storage.
/// Only tests set a time. Where both the call and the storage know something, the call wins.
///
/// A later release may add fields, and the default of each will change nothing. So callers begin with
/// [`Call::default`] or [`Call::at`], and a storage that wraps another hands on the whole call.
///
/// # Example: a lock that is free again after its time
/// ```
/// # use std::time::Duration;
/// # use jobkit::{MemoryStorage, Storage, server::Incarnation};
/// use jobkit::storage::{Call, LockRequest, LockStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), jobkit::Error> {
/// let storage = MemoryStorage::new();
/// let ttl = Duration::from_secs(30);
/// let one = LockRequest { name: "report".into(), owner: Incarnation::new(), ttl };
/// let other = LockRequest { owner: Incarnation::new(), ..one.clone() };
///
/// let now = storage.now().await?;
/// assert!(storage.try_acquire(&Call::at(now), &one).await?.is_some());
/// assert!(storage.try_acquire(&Call::at(now), &other).await?.is_none());
/// assert!(storage.try_acquire(&Call::at(now.plus(ttl)), &other).await?.is_some());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Call {
    /// The time of the call, in the place of the storage's clock; only tests set it. It may lie before
    /// the time of an earlier call. `None`, the default, means the storage's clock.
    pub now: Option<Timestamp>,
}

impl Call {
    /// A call at this time, whatever the storage's clock says; for tests.
    pub fn at(now: Timestamp) -> Self {
        Self { now: Some(now) }
    }

    /// The time of the call: [`now`](Self::now), or else what the storage's clock says.
    ///
    /// A storage asks once in each call. It does so under the lock under which it commits, so that times
    /// grow in the order of commits.
    pub fn time(&self, clock: &dyn Clock) -> Timestamp {
        self.now.unwrap_or_else(|| clock.now())
    }
}
