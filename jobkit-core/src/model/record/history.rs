//! The history of a job, transition by transition.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::bounds;
use crate::model::clock::Timestamp;
use crate::model::name::Name;
use crate::model::state::{Reason, StateName};

/// A transition that was applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The state it led to.
    pub state: StateName,
    /// Why.
    pub reason: Reason,
    /// When, by the storage's clock.
    pub at: Timestamp,
    /// The fence of the attempt that began or ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<u64>,
    /// The server that held it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<Name>,
    /// How long the handler ran, where an attempt ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<Duration>,
    /// The instant it was scheduled for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<Timestamp>,
    /// Whose doing it was, where it was a person's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
}

/// A job's transitions, bounded: the first 4, the last 28, and how many fell out between (G17).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// What is kept, oldest first.
    pub entries: Vec<HistoryEntry>,
    /// How many transitions between the fourth and the fifth entry are not kept.
    #[serde(default)]
    pub dropped: u64,
}

impl History {
    /// Appends a transition, letting the oldest after the fourth go when there are too many.
    pub fn push(&mut self, entry: HistoryEntry) {
        self.entries.push(entry);
        if self.entries.len() > bounds::HISTORY_FIRST + bounds::HISTORY_LAST {
            self.entries.remove(bounds::HISTORY_FIRST);
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    /// How many transitions were applied in all.
    pub fn applied(&self) -> u64 {
        self.dropped.saturating_add(self.entries.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_keeps_both_ends_and_counts_the_rest() {
        let mut history = History::default();
        for i in 0..100 {
            history.push(HistoryEntry {
                state: StateName::Enqueued,
                reason: Reason::Retry,
                at: Timestamp::from_micros(i),
                fence: None,
                server: None,
                duration: None,
                run_at: None,
                actor: None,
            });
        }
        assert_eq!((history.entries.len(), history.dropped, history.applied()), (32, 68, 100));
        assert_eq!(history.entries[3].at, Timestamp::from_micros(3));
        assert_eq!(history.entries[4].at, Timestamp::from_micros(72));
    }
}
