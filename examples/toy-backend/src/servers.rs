//! `impl ServerRegistry`.

use std::time::Duration;

use async_trait::async_trait;
use jobkit_core::record::Lease;
use jobkit_core::state::State;
use jobkit_core::storage::{
    Announced, Call, Heartbeat, HeartbeatAnswer, ServerInfo, ServerRegistry, ServerStatus,
};
use jobkit_core::{Incarnation, Name, Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::ToyStorage;
use crate::fault::Fault;
use crate::keys::{Key, last_number, table};
use crate::txn::Txn;

/// A server, under its name; `life/` leads from its incarnation to the name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Server {
    pub(crate) info: ServerInfo,
    heartbeat_at: Timestamp,
    busy: u32,
    /// The last claim that took something, by which a repetition is recognised.
    pub(crate) last_claim: u64,
}

impl Server {
    pub(crate) fn key(name: &str) -> Key {
        table("server").text(name)
    }

    fn status(self) -> ServerStatus {
        ServerStatus {
            info: self.info,
            heartbeat_at: self.heartbeat_at,
            busy: self.busy,
            order: None,
        }
    }
}

#[async_trait]
impl ServerRegistry for ToyStorage {
    // [guide: announce]
    async fn announce(&self, call: &Call, server: &ServerInfo) -> Result<Announced> {
        self.write(call, |txn| {
            let life = server.incarnation;
            let former: Option<Server> = txn.get(&Server::key(&server.name))?;
            let other = former.clone().filter(|former| former.info.incarnation != life);
            if let Some(other) = other.map(Server::status)
                && !other.yields_its_name(txn.now)
                && !txn.has(Fault::NamesAreTakenAway)
            {
                return Ok(Announced::NameTaken(Box::new(other)));
            }
            let (busy, last_claim) = match former {
                Some(same) if same.info.incarnation == life => (same.busy, same.last_claim),
                former => {
                    txn.forget_life(life)?;
                    if let Some(former) = former
                        && !txn.has(Fault::FormerLifeMayClaim)
                    {
                        txn.forget_life(former.info.incarnation)?;
                    }
                    // A life that was forgotten and comes back must not repeat its last claim.
                    let leases = txn.keys(&table("lease").life(life), usize::MAX);
                    (0, leases.last().map_or(0, |key| last_number(&key[..key.len() - 16])))
                }
            };
            let row = Server { info: server.clone(), heartbeat_at: txn.now, busy, last_claim };
            txn.put(Server::key(&server.name), &row)?;
            txn.put(table("life").life(life), &server.name)?;
            txn.refill_limits();
            Ok(Announced::Known)
        })
    }
    // [end]

    async fn heartbeat(&self, call: &Call, beat: &Heartbeat) -> Result<HeartbeatAnswer> {
        self.write(call, |txn| {
            let server = txn.server_of(beat.incarnation)?;
            let known = server.is_some() || txn.has(Fault::HeartbeatRevivesTheDead);
            if let Some(server) = server {
                let row = Server { heartbeat_at: txn.now, busy: beat.busy, ..server };
                txn.put(Server::key(&row.info.name), &row)?;
            }
            // Commands, pauses and bulk operations belong to the full level.
            Ok(HeartbeatAnswer { known, now: txn.now, ..HeartbeatAnswer::default() })
        })
    }

    async fn remove_server(
        &self,
        call: &Call,
        incarnation: Incarnation,
        still_running: &[Lease],
    ) -> Result<()> {
        self.write(call, |txn| {
            for lease in still_running.iter().filter(|lease| lease.incarnation == incarnation) {
                let Some(place) = txn.find_held(lease)? else { continue };
                let mut job = txn.job(place)?;
                if let State::Processing(hold) = &mut job.record.head.state {
                    // Its rescue counts no crash: the process went as it should.
                    hold.started &= txn.has(Fault::DeregisteringCountsACrash);
                }
                txn.save(&job)?;
            }
            txn.forget_life(incarnation)?;
            txn.refill_limits();
            Ok(())
        })
    }

    async fn remove_dead(&self, call: &Call, silent_for: Duration) -> Result<Vec<Name>> {
        self.write(call, |txn| {
            let mut dead = Vec::new();
            for server in txn.servers()? {
                let kept = txn.has(Fault::DeadServersAreNeverForgotten);
                if txn.now.apart(server.heartbeat_at) > silent_for && !kept {
                    txn.forget_life(server.info.incarnation)?;
                    dead.push(server.info.name);
                }
            }
            if !dead.is_empty() {
                txn.refill_limits();
            }
            Ok(dead)
        })
    }

    async fn servers(&self) -> Result<Vec<ServerStatus>> {
        self.read(|txn| Ok(txn.servers()?.into_iter().map(Server::status).collect()))
    }
}

impl Txn<'_> {
    /// All servers, by name. There are few.
    pub(crate) fn servers(&self) -> Result<Vec<Server>> {
        let keys = self.keys(&table("server"), usize::MAX);
        let rows = keys.iter().map(|key| self.get(key));
        rows.filter_map(Result::transpose).collect()
    }

    pub(crate) fn server_of(&self, life: Incarnation) -> Result<Option<Server>> {
        let name: Option<Name> = self.get(&table("life").life(life))?;
        name.map_or(Ok(None), |name| self.get(&Server::key(&name)))
    }

    fn forget_life(&mut self, life: Incarnation) -> Result<()> {
        if let Some(server) = self.server_of(life)? {
            self.tx.delete(Server::key(&server.info.name));
        }
        self.tx.delete(table("life").life(life));
        Ok(())
    }
}
