//! `ServerRegistry`.

use std::time::Duration;

use async_trait::async_trait;
use jobkit_core::record::Lease;
use jobkit_core::storage::{
    Announced, Call, Heartbeat, HeartbeatAnswer, ServerInfo, ServerOrder, ServerRegistry,
    ServerStatus,
};
use jobkit_core::{Incarnation, Name, Result};
use rusqlite::{Params, Row, params};

use crate::codec::job_row::STARTED;
use crate::codec::sql_text::sql;
use crate::codec::{at, json, small};
use crate::error::SqlResult;
use crate::limits::admission;
use crate::operations::pauses::pauses;
use crate::queue::lease;
use crate::storage::SqliteStorage;
use crate::txn::Txn;

/// An order that cannot be read is ignored: its server must not be taken for dead.
fn read_order(text: String) -> Option<ServerOrder> {
    let read = json::<ServerOrder>(&text);
    if let Err(fault) = &read {
        tracing::warn!(error = %fault, "skipped an unreadable server command");
    }
    read.ok()
}

type StatusRow = (String, i64, i64, Option<String>);

fn status_row(row: &Row<'_>) -> rusqlite::Result<StatusRow> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
}

fn read_status((info, heartbeat, busy, order): StatusRow) -> SqlResult<ServerStatus> {
    Ok(ServerStatus {
        info: json(&info)?,
        heartbeat_at: at(heartbeat),
        busy: small(busy),
        order: order.and_then(read_order),
    })
}

#[async_trait]
impl ServerRegistry for SqliteStorage {
    async fn announce(&self, call: &Call, server: &ServerInfo) -> Result<Announced> {
        let server = server.clone();
        self.writer()
            .call_at("announce", call, move |txn, now| {
                let incarnation = server.incarnation.as_i64();
                let holder = txn.db.one(
                    "SELECT info, heartbeat_at, busy, orders FROM jk_server \
                     WHERE name = ?1 AND incarnation <> ?2",
                    params![server.name.as_str(), incarnation],
                    status_row,
                )?;
                // A row that cannot be read holds no name.
                let holder = holder.and_then(|row| read_status(row).ok());
                if let Some(holder) = holder.filter(|holder| !holder.yields_its_name(now)) {
                    return Ok(Announced::NameTaken(Box::new(holder)));
                }
                forget_lanes(txn,
                    "SELECT incarnation FROM jk_server WHERE name = ?1 OR incarnation = ?2",
                    params![server.name.as_str(), incarnation],
                )?;
                // An earlier incarnation under the same name; its leases stay as they are.
                txn.db.run(
                    "DELETE FROM jk_server WHERE name = ?1 AND incarnation <> ?2",
                    params![server.name.as_str(), incarnation],
                )?;
                // An incarnation that was removed and comes back must not repeat its last claim.
                txn.db.run(
                    sql!("INSERT INTO jk_server (incarnation, name, info, heartbeat_at, last_claim) \
                     VALUES (?1, ?2, ?3, ?4, COALESCE((SELECT max(claim_seq) \
                     FROM jk_job INDEXED BY jk_held WHERE state = {processing} AND incarnation = ?1), 0)) \
                     ON CONFLICT (incarnation) DO UPDATE SET \
                     name = excluded.name, info = excluded.info, heartbeat_at = excluded.heartbeat_at"),
                    params![
                        incarnation,
                        server.name.as_str(),
                        serde_json::to_string(&server)?,
                        now.as_micros()
                    ],
                )?;
                serve_lanes(txn, &server)?;
                admission::admit_everywhere(txn, now)?;
                Ok(Announced::Known)
            })
            .await
    }

    async fn heartbeat(&self, call: &Call, beat: &Heartbeat) -> Result<HeartbeatAnswer> {
        let beat = *beat;
        self.writer()
            .call_at("heartbeat", call, move |txn, now| {
                let known = txn.db.run(
                    "UPDATE jk_server SET heartbeat_at = ?2, busy = ?3 WHERE incarnation = ?1",
                    params![beat.incarnation.as_i64(), now.as_micros(), beat.busy],
                )? > 0;
                let order = txn.db.one(
                    "SELECT orders FROM jk_server WHERE incarnation = ?1",
                    [beat.incarnation.as_i64()],
                    |row| row.get::<_, Option<String>>(0),
                )?;
                let order = order.flatten().and_then(read_order);
                let order = order.filter(|order| order.given.holds(now));
                let command = order.map(|order| order.command);
                let bulk = txn.db.one(
                    "SELECT 1 FROM jk_bulk INDEXED BY jk_bulk_open WHERE ended_at IS NULL LIMIT 1",
                    [],
                    |_| Ok(()),
                )?;
                let mut paused: Vec<_> = pauses(txn.db)?
                    .into_iter()
                    .filter(|record| record.pause.holds(now))
                    .map(|record| record.target)
                    .collect();
                paused.sort();
                Ok(HeartbeatAnswer { known, command, paused, bulk: bulk.is_some(), now })
            })
            .await
    }

    async fn remove_server(
        &self,
        call: &Call,
        incarnation: Incarnation,
        still_running: &[Lease],
    ) -> Result<()> {
        let leases = still_running.to_vec();
        self.writer()
            .call_at("remove_server", call, move |txn, now| {
                forget_lanes(txn, "SELECT ?1", [incarnation.as_i64()])?;
                txn.db
                    .run("DELETE FROM jk_server WHERE incarnation = ?1", [incarnation.as_i64()])?;
                for lease in &leases {
                    let Some(job) = lease::leased(txn, lease)? else { continue };
                    if lease.incarnation == incarnation
                        && job.head.is_held_by(lease.fence, lease.incarnation)
                    {
                        // Its server deregisters: that is no crash.
                        txn.db.run(
                            "UPDATE jk_job SET flags = flags & ~?2 WHERE seq = ?1",
                            [job.seq, STARTED],
                        )?;
                    }
                }
                admission::admit_everywhere(txn, now)
            })
            .await
    }

    async fn remove_dead(&self, call: &Call, silent_for: Duration) -> Result<Vec<Name>> {
        self.writer()
            .call_at("remove_dead", call, move |txn, now| {
                // A heartbeat further ahead comes from a time when the clock was ahead.
                let alive = [now.minus(silent_for).as_micros(), now.plus(silent_for).as_micros()];
                let dead = txn.db.all(
                    "SELECT name FROM jk_server WHERE heartbeat_at NOT BETWEEN ?1 AND ?2 \
                     ORDER BY name",
                    alive,
                    |row| row.get::<_, String>(0),
                )?;
                if !dead.is_empty() {
                    forget_lanes(txn,
                        "SELECT incarnation FROM jk_server WHERE heartbeat_at NOT BETWEEN ?1 AND ?2",
                        alive,
                    )?;
                    txn.db.run(
                        "DELETE FROM jk_server WHERE heartbeat_at NOT BETWEEN ?1 AND ?2",
                        alive,
                    )?;
                    admission::admit_everywhere(txn, now)?;
                }
                Ok(dead.into_iter().map(Name::from_stored).collect())
            })
            .await
    }

    async fn servers(&self) -> Result<Vec<ServerStatus>> {
        self.read("servers", |db| {
            db.all(
                "SELECT info, heartbeat_at, busy, orders FROM jk_server ORDER BY name",
                [],
                status_row,
            )?
            .into_iter()
            .map(read_status)
            .collect()
        })
        .await
    }
}

/// Stores the queues and kinds of a server.
fn serve_lanes(txn: &Txn<'_, '_>, server: &ServerInfo) -> SqlResult {
    let queues = server.queues.iter().map(|queue| (0, queue));
    for (of_kind, name) in queues.chain(server.kinds.iter().map(|kind| (1, kind))) {
        txn.db.run(
            "INSERT OR IGNORE INTO jk_serves (name, of_kind, server) VALUES (?1, ?2, ?3)",
            params![txn.db.intern(name)?, of_kind, server.incarnation.as_i64()],
        )?;
    }
    Ok(())
}

/// Removes the lanes of the servers whose incarnations `servers` selects.
fn forget_lanes(txn: &Txn<'_, '_>, servers: &'static str, params: impl Params) -> SqlResult {
    for server in txn.db.all(servers, params, |row| row.get::<_, i64>(0))? {
        txn.db.run("DELETE FROM jk_serves WHERE server = ?1", [server])?;
    }
    Ok(())
}
