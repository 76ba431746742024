//! How many jobs of a queue are held here at once, where the server was given a most.

use std::collections::BTreeMap;

use crate::model::name::Name;
use crate::server::queues::Queues;

/// The queues with a most of their own.
#[derive(Debug)]
pub(super) struct Rooms(BTreeMap<Name, Room>);

#[derive(Debug)]
struct Room {
    most: usize,
    /// Claimed and not ended: running, or waiting for a worker.
    held: usize,
}

impl Rooms {
    pub(super) fn new(queues: &Queues) -> Self {
        let room = |(queue, most): (&Name, &usize)| (queue.clone(), Room { most: *most, held: 0 });
        Self(queues.most().iter().map(room).collect())
    }

    /// How many more of a queue may be held. What waits for a worker counts, so that of such a queue nothing is
    /// claimed that could not be started.
    pub(super) fn of(&self, queue: &Name) -> usize {
        self.0.get(queue).map_or(usize::MAX, |room| room.most.saturating_sub(room.held))
    }

    /// How many more of all these queues.
    pub(super) fn of_all(&self, queues: &[Name]) -> usize {
        queues.iter().fold(0, |all, queue| all.saturating_add(self.of(queue)))
    }

    pub(super) fn taken(&mut self, queue: &Name) {
        if let Some(room) = self.0.get_mut(queue) {
            room.held += 1;
        }
    }

    /// A job has ended or was given back; whether its queue had been full, so that more of it may wait.
    pub(super) fn freed(&mut self, queue: &Name) -> bool {
        let Some(room) = self.0.get_mut(queue) else { return false };
        let was_full = room.held >= room.most;
        room.held = room.held.saturating_sub(1);
        was_full
    }
}
