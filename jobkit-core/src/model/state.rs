//! The states of a job, and the reasons for them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::clock::Timestamp;
use crate::model::ids::Incarnation;
use crate::model::name::Name;

/// The name of a state, without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateName {
    /// Waits for parents, or for its batch to start.
    Awaiting,
    /// Waits for an instant.
    Scheduled,
    /// Waits for a worker.
    Enqueued,
    /// Held by a server under a lease.
    Processing,
    /// Finished: done.
    Succeeded,
    /// Finished: out of attempts, or failed for good.
    Failed,
    /// Finished: given up by a person, a condition or a cancellation.
    Deleted,
}

impl StateName {
    /// All seven, in the order of a job's life.
    pub const ALL: [Self; 7] = [
        Self::Awaiting,
        Self::Scheduled,
        Self::Enqueued,
        Self::Processing,
        Self::Succeeded,
        Self::Failed,
        Self::Deleted,
    ];

    /// Whether the state ends a run.
    pub const fn is_finished(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Deleted)
    }

    /// The position in [`ALL`](Self::ALL), which storages may keep.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The state at a position of [`ALL`](Self::ALL).
    pub fn from_index(index: usize) -> Option<Self> {
        Self::ALL.get(index).copied()
    }

    /// The name in lowercase, as in JSON, filters and columns.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Awaiting => "awaiting",
            Self::Scheduled => "scheduled",
            Self::Enqueued => "enqueued",
            Self::Processing => "processing",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Deleted => "deleted",
        }
    }
}

impl std::fmt::Display for StateName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a job is in its state. Counted in the statistics beside the states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// Submitted by a client.
    Submitted,
    /// Fired by a recurring schedule.
    Recurring,
    /// Waits for parents.
    Parents,
    /// Waits for its batch to start.
    BatchFilling,
    /// All parents decided.
    Released,
    /// Scheduled for an instant or after a delay.
    Delay,
    /// Failed before, runs again after a delay or at once.
    Retry,
    /// Asked to run later, without having failed.
    Snooze,
    /// Its instant came.
    Due,
    /// A person wanted it now.
    RunNow,
    /// A person set another instant.
    Rescheduled,
    /// Moved to another queue or priority. No transition gives it, since a move leaves the state; it keeps its
    /// position in [`ALL`](Self::ALL).
    Moved,
    /// Taken by a server.
    Claimed,
    /// Given back without having ended.
    GivenBack,
    /// Its server vanished, the lease was taken away.
    Rescued,
    /// Run again after it had finished.
    Requeued,
    /// The handler returned.
    Done,
    /// Failed as often as it may.
    OutOfAttempts,
    /// Failed with an error that no repetition fixes.
    Permanent,
    /// The stored arguments do not fit the handler.
    BadArguments,
    /// The record cannot be read.
    Unreadable,
    /// Its servers vanished as often as they may.
    CrashLimit,
    /// The result is larger than allowed.
    ResultTooLarge,
    /// Deleted by a client or a person.
    Deleted,
    /// Cancelled while it ran.
    Cancelled,
    /// Its batch was cancelled.
    BatchCancelled,
    /// Its condition can no longer be met.
    Unmeetable,
    /// Not started in time.
    NotStartedInTime,
    /// Another job with the same unique key took its place.
    Replaced,
    /// Its batch was never started.
    BatchDiscarded,
    /// A filter found that there was nothing to do any more.
    Skipped,
    /// A reason that this release does not know: a newer one wrote it.
    #[serde(other)]
    Other = 255,
}

impl Reason {
    /// All reasons that this release knows, in a fixed order.
    pub const ALL: [Self; 31] = [
        Self::Submitted,
        Self::Recurring,
        Self::Parents,
        Self::BatchFilling,
        Self::Released,
        Self::Delay,
        Self::Retry,
        Self::Snooze,
        Self::Due,
        Self::RunNow,
        Self::Rescheduled,
        Self::Moved,
        Self::Claimed,
        Self::GivenBack,
        Self::Rescued,
        Self::Requeued,
        Self::Done,
        Self::OutOfAttempts,
        Self::Permanent,
        Self::BadArguments,
        Self::Unreadable,
        Self::CrashLimit,
        Self::ResultTooLarge,
        Self::Deleted,
        Self::Cancelled,
        Self::BatchCancelled,
        Self::Unmeetable,
        Self::NotStartedInTime,
        Self::Replaced,
        Self::BatchDiscarded,
        Self::Skipped,
    ];

    /// The position in [`ALL`](Self::ALL), which storages may keep; it never changes.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The reason at a position of [`ALL`](Self::ALL); beyond it, [`Other`](Self::Other).
    pub fn from_index(index: usize) -> Self {
        Self::ALL.get(index).copied().unwrap_or(Self::Other)
    }

    /// The reason as words for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Recurring => "fired by its schedule",
            Self::Parents => "waits for its parents",
            Self::BatchFilling => "waits for its batch to start",
            Self::Released => "its parents are decided",
            Self::Delay => "delayed",
            Self::Retry => "retry after a failure",
            Self::Snooze => "asked to run later",
            Self::Due => "due",
            Self::RunNow => "run now",
            Self::Rescheduled => "rescheduled",
            Self::Moved => "moved",
            Self::Claimed => "claimed",
            Self::GivenBack => "given back",
            Self::Rescued => "rescued",
            Self::Requeued => "requeued",
            Self::Done => "done",
            Self::OutOfAttempts => "out of attempts",
            Self::Permanent => "permanent failure",
            Self::BadArguments => "bad arguments",
            Self::Unreadable => "unreadable record",
            Self::CrashLimit => "its server vanished too often",
            Self::ResultTooLarge => "result too large",
            Self::Deleted => "on request",
            Self::Cancelled => "cancelled while running",
            Self::BatchCancelled => "its batch was cancelled",
            Self::Unmeetable => "its condition can no longer be met",
            Self::NotStartedInTime => "not started in time",
            Self::Replaced => "replaced by a job with the same unique key",
            Self::BatchDiscarded => "its batch was never started",
            Self::Skipped => "skipped by a filter",
            Self::Other => "for a reason of a newer release",
        }
    }
}

/// A server's right to a job, while it is [`Processing`](State::Processing).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The server's name.
    pub server: Name,
    /// The life of the server that holds it.
    pub incarnation: Incarnation,
    /// The claim that took it.
    pub claim_sequence: u64,
    /// When it was claimed.
    pub claimed_at: Timestamp,
    /// When the lease ends unless renewed. Expiry only permits rescue (G4).
    pub expires_at: Timestamp,
    /// Whether the handler is known to have been started. Only such attempts count as crashes.
    pub started: bool,
    /// Whether a deletion or cancellation was asked for while it runs, and why.
    pub cancel: Option<Reason>,
}

/// A job's state, with the data that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waits for `open` more decisions: undecided edges, and one for a batch not started yet.
    Awaiting {
        /// How many are open; at least one.
        open: u32,
    },
    /// Waits until `run_at`.
    Scheduled {
        /// The earliest instant it may run.
        run_at: Timestamp,
    },
    /// Waits for a worker.
    Enqueued,
    /// Held by a server.
    Processing(Hold),
    /// Finished: done.
    Succeeded,
    /// Finished: failed.
    Failed,
    /// Finished: given up.
    Deleted,
}

impl State {
    /// The state without its data.
    pub const fn name(&self) -> StateName {
        match self {
            Self::Awaiting { .. } => StateName::Awaiting,
            Self::Scheduled { .. } => StateName::Scheduled,
            Self::Enqueued => StateName::Enqueued,
            Self::Processing(_) => StateName::Processing,
            Self::Succeeded => StateName::Succeeded,
            Self::Failed => StateName::Failed,
            Self::Deleted => StateName::Deleted,
        }
    }

    /// Whether the state ends a run.
    pub const fn is_finished(&self) -> bool {
        self.name().is_finished()
    }
}

/// When a job may run once nothing else holds it back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// At once.
    #[default]
    Now,
    /// Not before an instant.
    At(Timestamp),
    /// So long after it was submitted, or after the last of its parents was decided.
    After(Duration),
}

impl Start {
    /// The instant to wait for, if it lies after `now`.
    pub fn run_at(self, now: Timestamp) -> Option<Timestamp> {
        let at = match self {
            Self::Now => return None,
            Self::At(at) => at,
            Self::After(delay) => now.plus(delay),
        };
        (at > now).then_some(at)
    }
}

/// How long a finished job is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// So long after it finished; at least an hour, since ids are remembered that long (G2). A storage whose
    /// [`max_finished`](crate::storage::Capabilities::max_finished) bounds the number may remove it before.
    For(Duration),
    /// Until it is removed by hand, or until a storage whose
    /// [`max_finished`](crate::storage::Capabilities::max_finished) bounds the number has no room.
    Forever,
}

impl Keep {
    /// When a job that finished at `finished_at` may be purged.
    pub fn expires_at(self, finished_at: Timestamp) -> Option<Timestamp> {
        match self {
            Self::For(length) => {
                Some(finished_at.plus(length.max(crate::model::bounds::ID_MEMORY)))
            }
            Self::Forever => None,
        }
    }
}

/// How long finished jobs are kept, by state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// After success; a day by default.
    pub succeeded: Keep,
    /// After failing for good; 30 days by default.
    pub failed: Keep,
    /// After deletion; a day by default.
    pub deleted: Keep,
}

impl Retention {
    /// The same for all three states.
    pub const fn all(keep: Keep) -> Self {
        Self { succeeded: keep, failed: keep, deleted: keep }
    }
}

impl Default for Retention {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        Self { succeeded: Keep::For(DAY), failed: Keep::For(DAY * 30), deleted: Keep::For(DAY) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_stable() {
        for (i, state) in StateName::ALL.into_iter().enumerate() {
            assert_eq!((state.index(), StateName::from_index(i)), (i, Some(state)));
        }
        for (i, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!((reason.index(), Reason::from_index(i)), (i, reason));
        }
        assert_eq!(Reason::from_index(Reason::Other.index()), Reason::Other);
    }

    #[test]
    fn a_reason_of_a_newer_release_is_read() {
        let read = serde_json::from_str::<Reason>(r#""evaporated""#);
        assert_eq!(read.expect("falls back"), Reason::Other);
        let counts: std::collections::BTreeMap<Reason, u64> =
            serde_json::from_str(r#"{"done":2,"evaporated":1}"#).expect("falls back");
        assert_eq!(counts[&Reason::Other], 1);
    }

    #[test]
    fn nothing_finished_is_forgotten_within_the_hour() {
        let at = Timestamp::from_micros(0);
        assert_eq!(
            Keep::For(Duration::ZERO).expires_at(at),
            Some(at.plus(Duration::from_secs(3600)))
        );
        assert_eq!(Keep::Forever.expires_at(at), None);
    }
}
