//! What a storage offers, typed. The suite tests what is claimed, and that what is not claimed
//! answers `Unsupported` and changes nothing.

use std::time::Duration;

use crate::model::bounds;
use crate::model::error::{Error, Result};

/// What a storage offers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// How much of the contract it implements.
    pub level: Level,
    /// Whether it tells sleeping servers of new work.
    pub wake_ups: WakeUpReach,
    /// What a returned `enqueue` survives.
    pub durability: Durability,
    /// Whether jobs can be enqueued and completed inside a caller's transaction.
    pub transactions: Support,
    /// How text is searched.
    pub text_search: TextSearch,
    /// Whether settling and claiming are one step, with one commit.
    pub settle_and_claim: Support,
    /// The finest difference between two instants it keeps.
    pub time_precision: Duration,
    /// The most bytes of arguments of one job, as they are stored; at most 1 MiB. A client refuses more before
    /// it calls the storage.
    pub max_payload_bytes: usize,
    /// The most items of one call that it takes well, 1 to 500; 500 by default. No call of core submits,
    /// claims, settles, renews, changes, logs, saves or imports more, and no step of background work is asked
    /// to do more. Only a flow is sent whole, however large it is.
    pub step_items: usize,
    /// How many finished jobs of each state it keeps at most, where a number bounds them besides their
    /// retention (PUR-6).
    pub max_finished: Option<u64>,
}

impl Capabilities {
    /// A storage of this level that offers nothing optional, keeps microseconds, takes every bound of
    /// the contract, and keeps any number of finished jobs. Change what differs.
    pub fn new(level: Level) -> Self {
        Self {
            level,
            wake_ups: WakeUpReach::None,
            durability: Durability::Memory,
            transactions: Support::No,
            text_search: TextSearch::None,
            settle_and_claim: Support::No,
            time_precision: Duration::from_micros(1),
            max_payload_bytes: bounds::ARGS_BYTES,
            step_items: bounds::MAX_STEP_ITEMS,
            max_finished: None,
        }
    }

    /// How many items a call may carry, where core would send `most`.
    pub fn items_of(&self, most: usize) -> usize {
        self.step_items.clamp(1, most)
    }

    /// Whether it keeps arguments of this many bytes.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) with field `args`.
    pub(crate) fn check_payload(&self, has: usize) -> Result<()> {
        let max = self.max_payload_bytes;
        // What every storage takes is checked with the record, and there sealed arguments may have more.
        if has <= max || max >= bounds::ARGS_BYTES {
            return Ok(());
        }
        let reason = format_args!(
            "have {has} bytes, where this storage keeps at most {max}; keep the data elsewhere, and hand \
             over where it is"
        );
        Err(Error::invalid("args", reason))
    }
}

/// How much of the contract a storage implements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Jobs, queues, locks and servers.
    Core,
    /// And recurring jobs, batches, limits, unique keys, edges and logs.
    Standard,
    /// And monitoring and operations: what the dashboard needs.
    Full,
}

/// Whether something is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// It is not.
    No,
    /// It is.
    Yes,
}

/// How far wake-ups reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WakeUpReach {
    /// Servers must poll.
    None,
    /// Servers and clients of the same process are told at once; others poll.
    Process,
    /// All are told at once.
    All,
}

/// What a returned `enqueue` survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// Nothing: it lives as long as the process.
    Memory,
    /// The crash of every process, but not of the machine.
    ProcessCrash,
    /// Power loss.
    PowerLoss,
    /// The loss of a node.
    Failover,
}

/// How text is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextSearch {
    /// Not at all.
    None,
    /// In a window of the newest rows, and the answer says so.
    Window,
    /// By an index.
    Indexed,
}
