//! Claimers that sleep, for tests of what runs on storages that tell them one by one.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::model::ids::Incarnation;
use crate::model::name::Name;
use crate::model::state::StateName;
use crate::storage::ClaimRequest;

use super::state::{Place, Tables, Work};

/// Those who wait to be told, in the order in which they fell asleep.
#[derive(Debug, Default)]
pub(super) struct Sleepers(VecDeque<Sleeper>);

#[derive(Debug)]
struct Sleeper {
    life: Incarnation,
    queues: Vec<Name>,
    kinds: Arc<[Name]>,
}

impl Sleepers {
    /// Registers a claimer that took `taken` jobs, if it sleeps now.
    pub(super) fn claimed(&mut self, request: &ClaimRequest, taken: usize) {
        self.0.retain(|sleeper| sleeper.life != request.incarnation);
        if taken < request.sleeps_below {
            self.0.push_back(Sleeper {
                life: request.incarnation,
                queues: request.queues.iter().map(|quota| quota.queue.clone()).collect(),
                kinds: Arc::clone(&request.kinds),
            });
        }
    }
}

impl Tables {
    /// Takes those who are to be told of what became claimable: one for each job, and everybody where it
    /// is not known which jobs did.
    pub(super) fn woken(&mut self, work: &Work) -> Vec<Incarnation> {
        let Some(mut sleepers) = self.sleepers.take() else { return Vec::new() };
        sleepers.0.retain(|sleeper| {
            let name = self.lives.get(&sleeper.life);
            name.and_then(|name| self.servers.get(name)).is_some_and(|row| !row.info.draining)
        });
        let mut woken = Vec::new();
        if work.claimable && work.places.is_empty() {
            woken.extend(sleepers.0.drain(..).map(|sleeper| sleeper.life));
        }
        for place in &work.places {
            if sleepers.0.is_empty() {
                break;
            }
            if let Some(sleeper) = self.sleeper_for(&sleepers, *place) {
                woken.extend(sleepers.0.remove(sleeper).map(|sleeper| sleeper.life));
            }
        }
        self.sleepers = Some(sleepers);
        woken
    }

    /// The first one that would take a job, if it may still be claimed.
    fn sleeper_for(&self, sleepers: &Sleepers, place: Place) -> Option<usize> {
        let record = &self.jobs.get(&place)?.record;
        if record.state() != StateName::Enqueued || record.parked_at.is_some() {
            return None;
        }
        sleepers.0.iter().position(|sleeper| {
            sleeper.queues.contains(&record.queue) && sleeper.kinds.contains(&record.kind)
        })
    }
}
