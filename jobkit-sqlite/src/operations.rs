//! `Operations`.

mod desk;
pub(crate) mod failures;
mod transfer;

use std::collections::HashSet;

use async_trait::async_trait;
use jobkit_core::failure::Fingerprint;
use jobkit_core::ids::OperationId;
use jobkit_core::name::check_label;
use jobkit_core::recurring::Pause;
use jobkit_core::storage::{
    AuditEntry, BulkRecord, EditJob, ExportPage, Imported, Operations, PauseRecord, PauseTarget,
    ServerOrder, Submitted, Whole, check_export, check_items,
};
use jobkit_core::{Name, Result, Timestamp};
use rusqlite::params;

pub(crate) use self::desk::forget_old;

use crate::codec::json;
use crate::connection::Db;
use crate::error::Done;
use crate::storage::SqliteStorage;

/// Numbers of the queues and kinds that are paused now.
#[derive(Debug, Default)]
pub(crate) struct Paused {
    pub(crate) queues: HashSet<i64>,
    pub(crate) kinds: HashSet<i64>,
    /// Some of these pauses end by themselves.
    pub(crate) ends: bool,
}

impl Paused {
    pub(crate) fn read(db: &Db<'_>, now: Timestamp) -> Done<Self> {
        let mut paused = Self::default();
        for record in pauses(db)? {
            if !record.pause.holds(now) {
                continue;
            }
            let (numbers, name) = match &record.target {
                PauseTarget::Queue(name) => (&mut paused.queues, name),
                PauseTarget::Kind(name) => (&mut paused.kinds, name),
            };
            numbers.extend(db.name_id(name)?);
            paused.ends |= record.pause.until.is_some();
        }
        Ok(paused)
    }
}

/// All pauses, also those that have ended by themselves.
pub(crate) fn pauses(db: &Db<'_>) -> Done<Vec<PauseRecord>> {
    db.all("SELECT of_kind, name, body FROM jk_pause", [], |row| {
        Ok((row.get::<_, bool>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?))
    })?
    .into_iter()
    .map(|(of_kind, name, body)| {
        let name = Name::from_stored(name);
        let target = if of_kind { PauseTarget::Kind(name) } else { PauseTarget::Queue(name) };
        Ok(PauseRecord { target, pause: json::<Pause>(&body)? })
    })
    .collect()
}

fn key(target: &PauseTarget) -> (bool, Name) {
    match target {
        PauseTarget::Queue(name) => (false, name.clone()),
        PauseTarget::Kind(name) => (true, name.clone()),
    }
}

#[async_trait]
impl Operations for SqliteStorage {
    async fn pause(
        &self,
        target: &PauseTarget,
        pause: &Pause,
        now: Option<Timestamp>,
    ) -> Result<()> {
        pause.check()?;
        let ((of_kind, name), mut pause) = (key(target), pause.clone());
        self.writer()
            .call("pause", move |flight| {
                pause.since = flight.now(now);
                flight.db.run(
                    "INSERT INTO jk_pause (of_kind, name, body) VALUES (?1, ?2, ?3) \
                     ON CONFLICT (of_kind, name) DO UPDATE SET body = excluded.body",
                    params![of_kind, name.as_str(), serde_json::to_string(&pause)?],
                )?;
                // Others may use the room that was given to what is paused now.
                flight.refill_all(pause.since)
            })
            .await
    }

    async fn resume(&self, target: &PauseTarget) -> Result<bool> {
        let (of_kind, name) = key(target);
        self.writer()
            .call("resume", move |flight| {
                let now = flight.now(None);
                let pause = flight.db.one(
                    "SELECT body FROM jk_pause WHERE of_kind = ?1 AND name = ?2",
                    params![of_kind, name.as_str()],
                    |row| row.get::<_, String>(0),
                )?;
                let Some(pause) = pause else { return Ok(false) };
                flight.db.run(
                    "DELETE FROM jk_pause WHERE of_kind = ?1 AND name = ?2",
                    params![of_kind, name.as_str()],
                )?;
                flight.work = true;
                flight.refill_all(now)?;
                Ok(json::<Pause>(&pause)?.holds(now))
            })
            .await
    }

    async fn pauses(&self, now: Option<Timestamp>) -> Result<Vec<PauseRecord>> {
        let now = now.unwrap_or_else(|| self.inner.shared.clock.now());
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
        server: &Name,
        order: Option<&ServerOrder>,
        now: Option<Timestamp>,
    ) -> Result<bool> {
        if let Some(order) = order {
            order.given.check()?;
        }
        let (server, mut order) = (server.clone(), order.cloned());
        self.writer()
            .call("command_server", move |flight| {
                let now = flight.now(now);
                let body = order.as_mut().map(|order| {
                    order.given.since = now;
                    serde_json::to_string(order)
                });
                let known = flight.db.run(
                    "UPDATE jk_server SET orders = ?2 WHERE name = ?1",
                    params![server.as_str(), body.transpose()?],
                )?;
                Ok(known > 0)
            })
            .await
    }

    async fn edit_job(&self, edit: EditJob<'_>) -> Result<Submitted> {
        edit.check()?;
        let EditJob { original, guard, copy, actor, now } = edit;
        let (copy, actor) = (copy.clone(), actor.map(str::to_owned));
        self.writer()
            .call("edit_job", move |flight| {
                let now = flight.now(now);
                flight.edit(original, guard, &copy, actor.as_deref(), now)
            })
            .await
    }

    async fn save_bulk(&self, bulk: &BulkRecord) -> Result<bool> {
        bulk.check()?;
        let bulk = bulk.clone();
        self.writer().call("save_bulk", move |flight| desk::save(flight.db, &bulk)).await
    }

    async fn bulk(&self, id: OperationId) -> Result<Option<BulkRecord>> {
        self.read("bulk", move |db| desk::bulk(db, id)).await
    }

    async fn bulks(&self, limit: usize) -> Result<Vec<BulkRecord>> {
        self.read("bulks", move |db| desk::bulks(db, limit)).await
    }

    async fn mute(
        &self,
        group: Fingerprint,
        mute: Option<&Pause>,
        now: Option<Timestamp>,
    ) -> Result<bool> {
        if let Some(mute) = mute {
            mute.check()?;
        }
        let mut mute = mute.cloned();
        self.writer()
            .call("mute", move |flight| {
                if let Some(mute) = &mut mute {
                    mute.since = flight.now(now);
                }
                failures::mute(flight.db, group, mute.as_ref())
            })
            .await
    }

    async fn append_audit(&self, entry: &AuditEntry, now: Option<Timestamp>) -> Result<()> {
        entry.check()?;
        let entry = entry.clone();
        self.writer()
            .call("append_audit", move |flight| {
                let now = flight.now(now);
                desk::append_audit(flight.db, &entry, now)
            })
            .await
    }

    async fn audit(&self, after: Option<OperationId>, limit: usize) -> Result<Vec<AuditEntry>> {
        self.read("audit", move |db| desk::audit(db, after, limit)).await
    }

    async fn export(&self, after: Option<&str>, limit: usize) -> Result<ExportPage> {
        check_export(limit)?;
        let after = after.map(str::to_owned);
        self.read("export", move |db| transfer::export(db, after.as_deref(), limit)).await
    }

    async fn import(&self, items: &[Whole]) -> Result<Vec<Imported>> {
        check_items("items", items.len())?;
        let items = items.to_vec();
        self.writer()
            .call("import", move |flight| {
                let now = flight.now(None);
                flight.import(&items, now)
            })
            .await
    }

    async fn secret(&self, name: &str) -> Result<[u8; 32]> {
        check_label("secret", name)?;
        let name = name.to_owned();
        self.writer().call("secret", move |flight| desk::secret(flight.db, &name)).await
    }
}
