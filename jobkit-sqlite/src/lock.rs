//! `LockStore`.

use async_trait::async_trait;
use jobkit_core::name::check_label;
use jobkit_core::storage::{Call, LockLease, LockRequest, LockStore};
use jobkit_core::{Error, Result, Timestamp, bounds};
use rusqlite::params;

use crate::codec::{int, uint};
use crate::error::SqlResult;
use crate::storage::SqliteStorage;
use crate::txn::Txn;

fn acquire(
    txn: &mut Txn<'_, '_>,
    request: &LockRequest,
    now: Timestamp,
) -> SqlResult<Option<LockLease>> {
    let held = txn.db.one(
        "SELECT owner, generation, expires_at FROM jk_lock WHERE name = ?1 AND expires_at > ?2",
        params![request.name, now.as_micros()],
        |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)),
    )?;
    let expires_at = now.plus(request.ttl);
    let generation = match held {
        Some((owner, generation, _)) if owner == request.owner.as_i64() => uint(generation),
        Some((_, _, until)) => {
            // The clock was ahead when it was acquired.
            if bounds::lease_has_expired(Timestamp::from_micros(until), now) {
                txn.db.run(
                    "UPDATE jk_lock SET expires_at = ?2 WHERE name = ?1",
                    params![request.name, expires_at.as_micros()],
                )?;
            }
            return Ok(None);
        }
        None => {
            // One counter for all names, so that rows of free locks need not be kept.
            let generation = txn.meta("generation")? + 1;
            txn.set_meta("generation", generation)?;
            generation
        }
    };
    txn.db.run(
        "INSERT INTO jk_lock (name, owner, generation, expires_at) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, \
         generation = excluded.generation, expires_at = excluded.expires_at",
        params![request.name, request.owner.as_i64(), int(generation), expires_at.as_micros()],
    )?;
    Ok(Some(LockLease { generation, expires_at }))
}

fn check(request: &LockRequest) -> Result<()> {
    check_label("lock", &request.name)?;
    if bounds::LEASE.contains(&request.ttl) {
        return Ok(());
    }
    let reason = format_args!("is {:?}, where 10 ms to a day are allowed", request.ttl);
    Err(Error::invalid("ttl", reason))
}

#[async_trait]
impl LockStore for SqliteStorage {
    async fn try_acquire(&self, call: &Call, request: &LockRequest) -> Result<Option<LockLease>> {
        check(request)?;
        let request = request.clone();
        self.writer()
            .call_at("try_acquire", call, move |txn, now| acquire(txn, &request, now))
            .await
    }

    async fn renew_lock(
        &self,
        call: &Call,
        request: &LockRequest,
        generation: u64,
    ) -> Result<bool> {
        check(request)?;
        let request = request.clone();
        self.writer()
            .call_at("renew_lock", call, move |txn, now| {
                let expires_at = now.plus(request.ttl);
                // Even after it expired, as long as nobody has taken it since.
                let renewed = txn.db.run(
                    "UPDATE jk_lock SET expires_at = ?4 \
                     WHERE name = ?1 AND owner = ?2 AND generation = ?3",
                    params![
                        request.name,
                        request.owner.as_i64(),
                        int(generation),
                        expires_at.as_micros()
                    ],
                )?;
                Ok(renewed > 0)
            })
            .await
    }

    async fn release_lock(
        &self,
        call: &Call,
        request: &LockRequest,
        generation: u64,
    ) -> Result<bool> {
        check(request)?;
        let request = request.clone();
        self.writer()
            .call_at("release_lock", call, move |txn, now| {
                let until = txn.db.one(
                    "SELECT expires_at FROM jk_lock \
                     WHERE name = ?1 AND owner = ?2 AND generation = ?3",
                    params![request.name, request.owner.as_i64(), int(generation)],
                    |row| row.get::<_, i64>(0),
                )?;
                let Some(until) = until else { return Ok(false) };
                txn.db.run("DELETE FROM jk_lock WHERE name = ?1", [&request.name])?;
                Ok(until > now.as_micros())
            })
            .await
    }
}
