//! Giving up jobs that cannot be read.

use jobkit_core::Timestamp;
use jobkit_core::state_machine::Event;
use rusqlite::params;

use super::read;
use super::transition::{TransitionContext, transition};
use crate::codec::size;
use crate::codec::sql_text::sql;
use crate::error::SqlResult;
use crate::limits::slots;
use crate::txn::Txn;

/// Fails a job whose record cannot be read, using what can be read of it.
pub(crate) fn give_up_unreadable(txn: &mut Txn<'_, '_>, seq: i64, now: Timestamp) -> SqlResult {
    txn.carried.claimed.forget(seq);
    // Even if its limits cannot be read: others may use the capacity it was admitted to.
    slots::unadmit(txn, seq)?;
    let plain = read::load(txn.db, seq);
    if let Ok(Some(mut job)) = plain {
        for json in [&mut job.limits, &mut job.extras, &mut job.tags] {
            if json
                .as_deref()
                .is_some_and(|text| serde_json::from_str::<serde_json::Value>(text).is_err())
            {
                *json = None;
            }
        }
        if job.limits().is_err() {
            job.limits = None;
        }
        let _ = transition(txn, &mut job, &Event::Unreadable, &TransitionContext::at(now))?;
        return Ok(());
    }
    // Not even its columns can be read: do what is possible without them. No limit is freed for a
    // parked job, since it holds none; a running one holds slots.
    let limits = txn.db.one(
        sql!("SELECT limits FROM jk_job WHERE seq = ?1 AND state = {processing}"),
        [seq],
        |row| row.get::<_, Option<String>>(0),
    );
    if let Ok(Some(Some(limits))) = limits {
        let limits: Vec<jobkit_core::limit::Limit> =
            serde_json::from_str(&limits).unwrap_or_default();
        for limit in limits {
            slots::free(txn, &limit.name)?;
        }
    }
    txn.db.run(
        sql!("UPDATE jk_job SET state = {failed}, reason = ?2, version = version + 1, entered_at = ?3, \
         was = NULL, parked = NULL, server = NULL, batch = NULL, last_op = NULL, actor = NULL, open = NULL, \
         expires_at = NULL WHERE seq = ?1"),
        params![seq, size(jobkit_core::state::Reason::Unreadable.index()), now.as_micros()],
    )?;
    Ok(())
}
