//! Unique keys: who holds one, and who takes it next.

use jobkit_core::unique::{Unique, Until, is_held};
use jobkit_core::{JobId, Timestamp};
use rusqlite::params;

use super::read;
use crate::codec::job_row::Job;
use crate::codec::{at, bytes16};
use crate::error::SqlResult;
use crate::txn::Txn;

/// Frees the unique key of a job, unless it is held for a period or by another job: always, or only if
/// it ends with the start.
pub(crate) fn free(txn: &mut Txn<'_, '_>, job: &Job, in_any_case: bool) -> SqlResult {
    match job.unique() {
        Ok(Some(unique)) if in_any_case || unique.until == Until::Started => {
            txn.db.run(
                "DELETE FROM jk_ukey WHERE hash = ?1 AND job = ?2 AND until IS NULL",
                params![&unique.hash().0[..], job.seq],
            )?;
        }
        Ok(_) => {}
        // The key cannot be read any more: look for it by its holder.
        Err(_) if in_any_case => {
            txn.db.run("DELETE FROM jk_ukey WHERE job = ?1 AND until IS NULL", [job.seq])?;
        }
        Err(_) => {}
    }
    Ok(())
}

/// The job that holds a key: its sequence and its id, since a job that holds it for a period may have
/// been removed.
pub(crate) fn holder(
    txn: &Txn<'_, '_>,
    hash: &[u8; 16],
    now: Timestamp,
) -> SqlResult<Option<(i64, JobId)>> {
    let held = txn.db.one(
        "SELECT job, holder, until, taken_at FROM jk_ukey WHERE hash = ?1",
        params![&hash[..]],
        |row| {
            let holder = row.get_ref(1)?.as_blob_or_null()?;
            // What cannot be read must not fail each submission of the key: it is held as long as its job
            // lasts, and `Replace` takes it over.
            let (until, taken_at) = (row.get(2).unwrap_or(None), row.get(3).unwrap_or(None));
            let is_held = is_held(until.map(at), taken_at.map(at), now);
            let holder = holder.map(|id| JobId::from_bytes(bytes16(id)));
            Ok(is_held.then_some((row.get::<_, i64>(0)?, holder)))
        },
    )?;
    Ok(match held.flatten() {
        Some((seq, Some(holder))) => Some((seq, holder)),
        Some((seq, None)) => read::load(txn.db, seq)?.map(|job| (seq, job.id)),
        None => None,
    })
}

/// Gives a key to a job, whoever holds it.
pub(crate) fn take(
    txn: &Txn<'_, '_>,
    unique: &Unique,
    seq: i64,
    id: JobId,
    now: Timestamp,
) -> SqlResult {
    let until = unique.held_until(now).map(Timestamp::as_micros);
    txn.db.run(
        "INSERT OR REPLACE INTO jk_ukey (hash, job, until, holder, taken_at) \
         VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            &unique.hash().0[..],
            seq,
            until,
            until.map(|_| &id.as_bytes()[..]),
            until.map(|_| now.as_micros())
        ],
    )?;
    Ok(())
}
