//! `impl LockStore`.

use async_trait::async_trait;
use jobkit_core::name::check_label;
use jobkit_core::storage::{Call, LockLease, LockRequest, LockStore};
use jobkit_core::{Error, Incarnation, Result, Timestamp, bounds};
use serde::{Deserialize, Serialize};

use crate::ToyStorage;
use crate::fault::Fault;
use crate::keys::{Key, table};

/// A lock. Its row stays forever, since its generation must never repeat.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Lock {
    generation: u64,
    holder: Option<(Incarnation, Timestamp)>,
}

impl Lock {
    fn is_of(&self, request: &LockRequest, generation: u64) -> bool {
        self.generation == generation
            && self.holder.is_some_and(|(owner, _)| owner == request.owner)
    }
}

#[async_trait]
impl LockStore for ToyStorage {
    // [guide: lock]
    async fn try_acquire(&self, call: &Call, request: &LockRequest) -> Result<Option<LockLease>> {
        check(request)?;
        self.write(call, |txn| {
            let mut lock: Lock = txn.get(&key(request))?.unwrap_or_default();
            let expires_at = txn.now.plus(request.ttl);
            match lock.holder.filter(|(_, until)| *until > txn.now) {
                // Asked again, since the answer was lost.
                Some((owner, _)) if owner == request.owner => {}
                Some((owner, until)) if !txn.has(Fault::LockIsGivenTwice) => {
                    // Of a time when the clock was ahead.
                    if bounds::lease_has_expired(until, txn.now) {
                        lock.holder = Some((owner, expires_at));
                        txn.put(key(request), &lock)?;
                    }
                    return Ok(None);
                }
                _ => lock.generation += 1,
            }
            lock.holder = Some((request.owner, expires_at));
            txn.put(key(request), &lock)?;
            Ok(Some(LockLease { generation: lock.generation, expires_at }))
        })
    }
    // [end]

    async fn renew_lock(
        &self,
        call: &Call,
        request: &LockRequest,
        generation: u64,
    ) -> Result<bool> {
        check(request)?;
        self.write(call, |txn| {
            let mut lock: Lock = txn.get(&key(request))?.unwrap_or_default();
            // Also after its expiry, as long as nobody else has taken it.
            let held = lock.is_of(request, generation);
            if held {
                lock.holder = Some((request.owner, txn.now.plus(request.ttl)));
                txn.put(key(request), &lock)?;
            }
            Ok(held)
        })
    }

    async fn release_lock(
        &self,
        call: &Call,
        request: &LockRequest,
        generation: u64,
    ) -> Result<bool> {
        check(request)?;
        self.write(call, |txn| {
            let mut lock: Lock = txn.get(&key(request))?.unwrap_or_default();
            let any = txn.has(Fault::ReleaseForgetsTheGeneration);
            if !lock.is_of(request, if any { lock.generation } else { generation }) {
                return Ok(false);
            }
            let held = lock.holder.take().is_some_and(|(_, until)| until > txn.now);
            if txn.has(Fault::LockGenerationRepeats) {
                lock.generation = 0;
            }
            txn.put(key(request), &lock)?;
            Ok(held)
        })
    }
}

fn key(request: &LockRequest) -> Key {
    table("lock").text(&request.name)
}

fn check(request: &LockRequest) -> Result<()> {
    check_label("lock", &request.name)?;
    if bounds::LEASE.contains(&request.ttl) {
        return Ok(());
    }
    let reason = format_args!("is {:?}, where 10 ms to a day are allowed", request.ttl);
    Err(Error::invalid("ttl", reason))
}
