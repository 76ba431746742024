//! `impl ServerRegistry`.

use std::time::Duration;

use async_trait::async_trait;

use crate::memory::MemoryStorage;
use crate::model::error::Result;
use crate::model::ids::Incarnation;
use crate::model::name::Name;
use crate::model::record::Lease;
use crate::model::state::State;
use crate::storage::{
    Announced, Call, Heartbeat, HeartbeatAnswer, ServerInfo, ServerRegistry, ServerStatus,
};

use super::state::{ServerRow, Tables};

#[async_trait]
impl ServerRegistry for MemoryStorage {
    async fn announce(&self, call: &Call, server: &ServerInfo) -> Result<Announced> {
        Ok(self.write(call, |tables, work| {
            let (name, life) = (&server.name, server.incarnation);
            if let Some(row) = tables.servers.get_mut(name) {
                if row.info.incarnation == life {
                    row.info = server.clone();
                    row.heartbeat_at = work.now;
                    tables.refill_limits(work);
                    return Announced::Known;
                }
                let status = row.status();
                if !status.yields_its_name(work.now) {
                    return Announced::NameTaken(Box::new(status));
                }
            }
            tables.forget_life(life);
            if let Some(former) = tables.servers.remove(name) {
                tables.lives.remove(&former.info.incarnation);
            }
            // A life that was forgotten and comes back must not repeat its last claim.
            let leases = tables.leases.get(&life);
            let last_claim = leases.and_then(|leases| leases.last()).map_or(0, |lease| lease.0);
            let row = ServerRow {
                info: server.clone(),
                heartbeat_at: work.now,
                busy: 0,
                last_claim,
                order: None,
            };
            tables.servers.insert(name.clone(), row);
            tables.lives.insert(life, name.clone());
            tables.refill_limits(work);
            Announced::Known
        }))
    }

    async fn heartbeat(&self, call: &Call, beat: &Heartbeat) -> Result<HeartbeatAnswer> {
        Ok(self.write(call, |tables, work| {
            let now = work.now;
            let holding = tables.pauses.iter().filter(|(_, pause)| pause.holds(now));
            let paused = holding.map(|(target, _)| target.clone()).collect();
            let name = tables.lives.get(&beat.incarnation);
            let row = name.and_then(|name| tables.servers.get_mut(name));
            let (known, command) = match row {
                Some(row) => {
                    row.heartbeat_at = now;
                    row.busy = beat.busy;
                    let order = row.order.as_ref().filter(|order| order.given.holds(now));
                    (true, order.map(|order| order.command))
                }
                None => (false, None),
            };
            HeartbeatAnswer { known, command, paused, bulk: tables.operator_state.is_busy(), now }
        }))
    }

    async fn remove_server(
        &self,
        call: &Call,
        incarnation: Incarnation,
        still_running: &[Lease],
    ) -> Result<()> {
        self.write(call, |tables, work| {
            for lease in still_running.iter().filter(|lease| lease.incarnation == incarnation) {
                if let Some(place) = tables.find_held(lease)
                    && let State::Processing(hold) = &mut tables.job_mut(place).record.head.state
                {
                    // Its rescue counts no crash: the process went as it should.
                    hold.started = false;
                }
            }
            tables.forget_life(incarnation);
            tables.refill_limits(work);
        });
        Ok(())
    }

    async fn remove_dead(&self, call: &Call, silent_for: Duration) -> Result<Vec<Name>> {
        Ok(self.write(call, |tables, work| {
            let silent = |row: &ServerRow| work.now.apart(row.heartbeat_at) > silent_for;
            let dead = tables.servers.values().filter(|row| silent(row));
            let dead: Vec<(Name, Incarnation)> =
                dead.map(|row| (row.info.name.clone(), row.info.incarnation)).collect();
            for (_, life) in &dead {
                tables.forget_life(*life);
            }
            if !dead.is_empty() {
                tables.refill_limits(work);
            }
            dead.into_iter().map(|(name, _)| name).collect()
        }))
    }

    async fn servers(&self) -> Result<Vec<ServerStatus>> {
        Ok(self.read(|tables| tables.servers.values().map(ServerRow::status).collect()))
    }
}

impl ServerRow {
    fn status(&self) -> ServerStatus {
        ServerStatus {
            info: self.info.clone(),
            heartbeat_at: self.heartbeat_at,
            busy: self.busy,
            order: self.order.clone(),
        }
    }
}

impl Tables {
    fn forget_life(&mut self, life: Incarnation) {
        if let Some(name) = self.lives.remove(&life) {
            self.servers.remove(&name);
        }
    }
}
