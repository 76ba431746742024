//! `impl LockStore`.

use async_trait::async_trait;

use crate::memory::MemoryStorage;
use crate::model::bounds;
use crate::model::error::{Error, Result};
use crate::model::name::check_label;
use crate::storage::{Call, LockLease, LockRequest, LockStore};

#[async_trait]
impl LockStore for MemoryStorage {
    async fn try_acquire(&self, call: &Call, request: &LockRequest) -> Result<Option<LockLease>> {
        check(request)?;
        Ok(self.write(call, |tables, work| {
            let row = tables.locks.entry(request.name.clone()).or_default();
            let expires_at = work.now.plus(request.ttl);
            match row.holder {
                Some((owner, until)) if until > work.now && owner != request.owner => {
                    if bounds::lease_has_expired(until, work.now) {
                        row.holder = Some((owner, expires_at));
                    }
                    return None;
                }
                Some((owner, until)) if until > work.now && owner == request.owner => {}
                _ => row.generation += 1,
            }
            row.holder = Some((request.owner, expires_at));
            Some(LockLease { generation: row.generation, expires_at })
        }))
    }

    async fn renew_lock(
        &self,
        call: &Call,
        request: &LockRequest,
        generation: u64,
    ) -> Result<bool> {
        check(request)?;
        Ok(self.write(call, |tables, work| {
            let Some(row) = tables.locks.get_mut(&request.name) else { return false };
            let held = row.generation == generation
                && row.holder.is_some_and(|(owner, _)| owner == request.owner);
            if held {
                // Also after its expiry, as long as nobody else has taken it.
                row.holder = Some((request.owner, work.now.plus(request.ttl)));
            }
            held
        }))
    }

    async fn release_lock(
        &self,
        call: &Call,
        request: &LockRequest,
        generation: u64,
    ) -> Result<bool> {
        check(request)?;
        Ok(self.write(call, |tables, work| {
            let Some(row) = tables.locks.get_mut(&request.name) else { return false };
            let mine = row.generation == generation
                && row.holder.is_some_and(|(owner, _)| owner == request.owner);
            if !mine {
                return false;
            }
            // The row stays, since its generation must never repeat.
            row.holder.take().is_some_and(|(_, until)| until > work.now)
        }))
    }
}

fn check(request: &LockRequest) -> Result<()> {
    check_label("lock", &request.name)?;
    if bounds::LEASE.contains(&request.ttl) {
        return Ok(());
    }
    let reason = format_args!("is {:?}, where 10 ms to a day are allowed", request.ttl);
    Err(Error::invalid("ttl", reason))
}
