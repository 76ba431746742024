//! Named locks, held across processes by a lease that renews itself.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::client::Client;
use crate::model::backoff::Backoff;
use crate::model::bounds::LEASE;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::ids::Incarnation;
use crate::model::name::check_label;
use crate::storage::{Call, LockRequest, Storage};

impl Client {
    /// Takes a lock if it is free; `None` if another holds it.
    ///
    /// The guard renews it at a third of `ttl`, and frees it when it is dropped. Should this process
    /// vanish, the lock is free after `ttl`, 10 ms to a day.
    ///
    /// # Errors
    /// Invalid input names the field; otherwise the storage's.
    ///
    /// # Example: one at a time, across all processes
    /// ```
    /// # use jobkit::{Client, MemoryStorage};
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), jobkit::Error> {
    /// # let client = Client::new(MemoryStorage::new());
    /// if let Some(lock) = client.try_lock("close-the-books", Duration::from_secs(30)).await? {
    ///     // Hand the generation to systems that must refuse a former owner.
    ///     println!("owner number {}", lock.generation());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn try_lock(&self, name: &str, ttl: Duration) -> Result<Option<Lock>> {
        check_label("lock", name)?;
        if !LEASE.contains(&ttl) {
            return Err(Error::invalid("ttl", "must be 10 ms to a day"));
        }
        let request = LockRequest { name: name.to_owned(), owner: Incarnation::new(), ttl };
        let storage = Arc::clone(self.dyn_storage());
        let asked_at = Instant::now();
        let lease = super::changes::repeated(|| async {
            storage.try_acquire(&Call::default(), &request).await
        })
        .await?;
        Ok(lease.map(|lease| Lock::hold(storage, request, lease.generation, asked_at)))
    }

    /// Takes a lock, waiting for it for so long at the most.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout) when another still holds it; otherwise as
    /// [`try_lock`](Self::try_lock).
    ///
    /// # Cancel safety
    /// A dropped future may leave the lock taken for `ttl`.
    pub async fn lock(&self, name: &str, ttl: Duration, wait: Duration) -> Result<Lock> {
        let give_up_at = Instant::now() + wait.min(Duration::from_secs(366 * 24 * 3600));
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(500));
        loop {
            if let Some(lock) = self.try_lock(name, ttl).await? {
                return Ok(lock);
            }
            let next = backoff.next();
            if Instant::now() + next > give_up_at {
                let text = "another still holds the lock";
                return Err(Error::new(ErrorKind::Timeout, text).with("lock", name));
            }
            tokio::time::sleep(next).await;
        }
    }
}

/// A held lock; dropping it frees the lock.
pub struct Lock {
    storage: Arc<dyn Storage>,
    request: LockRequest,
    generation: u64,
    lost: CancellationToken,
    // Ends the renewals.
    _renews: DropGuard,
}

impl Lock {
    fn hold(
        storage: Arc<dyn Storage>,
        request: LockRequest,
        generation: u64,
        asked_at: Instant,
    ) -> Self {
        let lost = CancellationToken::new();
        let ended = CancellationToken::new();
        let renewals = renew(
            Arc::clone(&storage),
            request.clone(),
            generation,
            asked_at + request.ttl,
            lost.clone(),
        );
        tokio::spawn({
            let ended = ended.clone();
            async move { ended.run_until_cancelled(renewals).await }
        });
        Self { storage, request, generation, lost, _renews: ended.drop_guard() }
    }

    /// Grows with every owner, forever: other systems can refuse what a former owner still sends.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Cancelled when the lock may not be held any more: it could not be renewed in time, or was taken
    /// over.
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Frees the lock, and waits for that; `false` if it was lost before.
    ///
    /// # Errors
    /// The storage's; the lock is free after its `ttl` then.
    pub async fn release(self) -> Result<bool> {
        self.storage.release_lock(&Call::default(), &self.request, self.generation).await
    }
}

/// Renews until the lock is lost; returns then.
async fn renew(
    storage: Arc<dyn Storage>,
    request: LockRequest,
    generation: u64,
    mut sure_until: Instant,
    lost: CancellationToken,
) {
    loop {
        tokio::time::sleep(
            (request.ttl / 3).min(sure_until.saturating_duration_since(Instant::now())),
        )
        .await;
        let asked_at = Instant::now();
        let left = sure_until.saturating_duration_since(asked_at);
        match tokio::time::timeout(left, storage.renew_lock(&Call::default(), &request, generation))
            .await
        {
            Ok(Ok(true)) => sure_until = asked_at + request.ttl,
            // Not sure any more that it is held.
            Ok(Ok(false)) | Err(_) => break,
            Ok(Err(error)) => {
                tracing::debug!(lock = %request.name, error = %error, "renewing a lock failed, retrying");
                if Instant::now() >= sure_until {
                    break;
                }
            }
        }
    }
    lost.cancel();
}

impl Drop for Lock {
    fn drop(&mut self) {
        let (storage, request, generation) =
            (Arc::clone(&self.storage), self.request.clone(), self.generation);
        // Outside a runtime the lock ends with its lease.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // A lock that was released before, or lost, stays as it is.
                let _ = storage.release_lock(&Call::default(), &request, generation).await;
            });
        }
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock")
            .field("name", &self.request.name)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}
