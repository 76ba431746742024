//! `Operations`, and what belongs to it: `BulkStore`, `AuditStore`, `TransferStore`.

mod export;
pub(crate) mod failures;
mod import;
pub(crate) mod operator_state;
pub(crate) mod pauses;

use async_trait::async_trait;
use jobkit_core::failure::Fingerprint;
use jobkit_core::ids::OperationId;
use jobkit_core::recurring::Pause;
use jobkit_core::storage::{
    AuditEntry, AuditStore, BulkRecord, BulkStore, Call, EditJob, ExportPage, Imported, Operations,
    PauseRecord, PauseTarget, ServerOrder, Submitted, TransferStore, Whole, check_export,
    check_items,
};
use jobkit_core::{Name, Result};
use rusqlite::params;

use self::pauses::{pauses, target_key};
use crate::codec::json;
use crate::jobs::edit;
use crate::limits::admission;
use crate::storage::SqliteStorage;

#[async_trait]
impl Operations for SqliteStorage {
    async fn pause(&self, call: &Call, target: &PauseTarget, pause: &Pause) -> Result<()> {
        pause.check()?;
        let ((of_kind, name), mut pause) = (target_key(target), pause.clone());
        self.writer()
            .call_at("pause", call, move |txn, now| {
                pause.since = now;
                txn.db.run(
                    "INSERT INTO jk_pause (of_kind, name, body) VALUES (?1, ?2, ?3) \
                     ON CONFLICT (of_kind, name) DO UPDATE SET body = excluded.body",
                    params![of_kind, name.as_str(), serde_json::to_string(&pause)?],
                )?;
                // Others may use the capacity that was given to what is paused now.
                admission::admit_everywhere(txn, pause.since)
            })
            .await
    }

    async fn resume(&self, call: &Call, target: &PauseTarget) -> Result<bool> {
        let (of_kind, name) = target_key(target);
        self.writer()
            .call_at("resume", call, move |txn, now| {
                let pause = txn.db.one(
                    "SELECT body FROM jk_pause WHERE of_kind = ?1 AND name = ?2",
                    params![of_kind, name.as_str()],
                    |row| row.get::<_, String>(0),
                )?;
                let Some(pause) = pause else { return Ok(false) };
                txn.db.run(
                    "DELETE FROM jk_pause WHERE of_kind = ?1 AND name = ?2",
                    params![of_kind, name.as_str()],
                )?;
                txn.work = true;
                admission::admit_everywhere(txn, now)?;
                Ok(json::<Pause>(&pause)?.holds(now))
            })
            .await
    }

    async fn pauses(&self, call: &Call) -> Result<Vec<PauseRecord>> {
        let now = call.time(self.clock());
        self.read("pauses", move |db| {
            let mut pauses = pauses(db)?;
            pauses.retain(|record| record.pause.holds(now));
            pauses.sort_by(|a, b| a.target.cmp(&b.target));
            Ok(pauses)
        })
        .await
    }

    async fn command_server(
        &self,
        call: &Call,
        server: &Name,
        order: Option<&ServerOrder>,
    ) -> Result<bool> {
        if let Some(order) = order {
            order.given.check()?;
        }
        let (server, mut order) = (server.clone(), order.cloned());
        self.writer()
            .call_at("command_server", call, move |txn, now| {
                let body = order.as_mut().map(|order| {
                    order.given.since = now;
                    serde_json::to_string(order)
                });
                let known = txn.db.run(
                    "UPDATE jk_server SET orders = ?2 WHERE name = ?1",
                    params![server.as_str(), body.transpose()?],
                )?;
                Ok(known > 0)
            })
            .await
    }

    async fn edit_job(&self, call: &Call, edit: EditJob<'_>) -> Result<Submitted> {
        edit.check()?;
        let EditJob { original, guard, copy, actor } = edit;
        let (copy, actor) = (copy.clone(), actor.map(str::to_owned));
        self.writer()
            .call_at("edit_job", call, move |txn, now| {
                edit::edit(txn, original, guard, &copy, actor.as_deref(), now)
            })
            .await
    }

    async fn mute(&self, call: &Call, group: Fingerprint, mute: Option<&Pause>) -> Result<bool> {
        if let Some(mute) = mute {
            mute.check()?;
        }
        let mut mute = mute.cloned();
        self.writer()
            .call_at("mute", call, move |txn, now| {
                if let Some(mute) = &mut mute {
                    mute.since = now;
                }
                failures::mute(txn.db, group, mute.as_ref())
            })
            .await
    }
}

#[async_trait]
impl BulkStore for SqliteStorage {
    async fn save_bulk(&self, _: &Call, bulk: &BulkRecord) -> Result<bool> {
        bulk.check()?;
        let bulk = bulk.clone();
        self.writer().call("save_bulk", move |txn| operator_state::save(txn.db, &bulk)).await
    }

    async fn bulk(&self, id: OperationId) -> Result<Option<BulkRecord>> {
        self.read("bulk", move |db| operator_state::bulk(db, id)).await
    }

    async fn bulks(&self, limit: usize) -> Result<Vec<BulkRecord>> {
        self.read("bulks", move |db| operator_state::bulks(db, limit)).await
    }
}

#[async_trait]
impl AuditStore for SqliteStorage {
    async fn append_audit(&self, call: &Call, entry: &AuditEntry) -> Result<()> {
        entry.check()?;
        let entry = entry.clone();
        self.writer()
            .call_at("append_audit", call, move |txn, now| {
                operator_state::append_audit(txn.db, &entry, now)
            })
            .await
    }

    async fn audit(&self, after: Option<OperationId>, limit: usize) -> Result<Vec<AuditEntry>> {
        self.read("audit", move |db| operator_state::audit(db, after, limit)).await
    }
}

#[async_trait]
impl TransferStore for SqliteStorage {
    async fn export(&self, after: Option<&str>, limit: usize) -> Result<ExportPage> {
        check_export(limit)?;
        let after = after.map(str::to_owned);
        self.read("export", move |db| export::export(db, after.as_deref(), limit)).await
    }

    async fn import(&self, call: &Call, items: &[Whole]) -> Result<Vec<Imported>> {
        check_items("items", items.len())?;
        let items = items.to_vec();
        self.writer()
            .call_at("import", call, move |txn, now| import::import(txn, &items, now))
            .await
    }
}
