//! `LimitStore`: limits as operators see them. Taking and freeing slots belongs to claim, settle and
//! rescue.

use async_trait::async_trait;

use crate::model::clock::Timestamp;
use crate::model::error::{Error, Result};
use crate::model::ids::JobId;
use crate::model::limit::Limit;
use crate::storage::call::Call;

/// Limits (G13).
///
/// **Contract**
/// - **LIM-1** `define_limit` sets an operator's number, which later submits do not change; more room
///   makes waiters claimable at once.
/// - **LIM-2** `limits` and `limit_holders` tell what is committed: used slots are exactly the running
///   jobs that hold them, waiting ones exactly the parked jobs. A rate limit has no holders: its used
///   ones are the starts that count now, and when it is full it tells when there is room again.
/// - **LIM-3** Never more than the number hold a limit, however many claim, and also after crashes.
/// - **LIM-4** Waiters of a limit become claimable in the order of priority and sequence, as many as
///   have room.
/// - **LIM-5** What no announced server serves (queue and kind), or what is paused, takes no room from
///   others while it stands in line, however much of it there is: room reaches the waiters that are
///   served, in the step in which a slot is freed, a server comes or goes, a pause begins or ends, a
///   waiter is moved, or a job that was let go is given up or parked at another limit. Where another step
///   holds the limit, the next sweep does it. One step admits at most 500 waiters of a limit, one step of
///   a sweep looks at no more than 100 limits, and the next sweeps do the rest. Of every other lane one job
///   is let go, so that a server that comes finds it.
///   Room that was given to a job which is not claimed within two polls (10 s) is for others, too, with
///   the next sweep (G21).
/// - **LIM-6** A limit with a [`Window`](crate::model::limit::Window) counts starts. A claim takes one of each
///   rate limit that its job names, and never more than the number count at an instant: those of the
///   present fixed window, or those of the length that ends now. Nothing but time gives one back: not a
///   settle, a give-back or a rescue; every attempt is a start (G13). Where the clock goes back by more
///   than a second, starts that are yet to come count as if they were now.
/// - **LIM-7** A job that finds no free start is parked as at any limit, and room that time brings is
///   told by [`promote_due`](crate::storage::JobQueue::promote_due), which makes the next waiters
///   claimable. A job may name limits of both kinds.
/// - **LIM-8** `define_limit` may set another window, or none. Starts that count stay counted as long as
///   there is a window: those of a sliding one by their instants, those of a fixed one as if they were
///   at the change; who runs holds its slot whatever the limit was when it was claimed. A submit
///   that names another window than the stored one, or none, means the stored one.
/// - **LIM-9** `release_stuck` rescues a job that holds the limit under an expired lease without waiting
///   for the second look: a crash is counted as in any rescue, and its slot is free in the same step. A
///   lease that has not expired is never taken (G4, G13).
/// - **LIM-10** While a stranger's transaction holds a limit, a job that has a slot of it settles all the
///   same; a sweep gives the slot to the next waiter afterwards. An operator's change of the limit fails
///   with [`Unavailable`](crate::ErrorKind::Unavailable) (G13).
#[async_trait]
#[allow(unused_variables, reason = "default bodies")]
pub trait LimitStore {
    /// Sets a limit's number and window by an operator's hand.
    async fn define_limit(&self, call: &Call, limit: &Limit) -> Result<()> {
        Err(Error::unsupported("limits"))
    }

    /// Limits by name, in the order of bytes, after the one named, at most `limit`.
    async fn limits(
        &self,
        call: &Call,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<LimitUsage>> {
        Err(Error::unsupported("limits"))
    }

    /// One limit.
    async fn limit(&self, call: &Call, name: &str) -> Result<Option<LimitUsage>> {
        Err(Error::unsupported("limits"))
    }

    /// The jobs that hold a limit, in the order of their claims, at most `limit`; none of a rate limit.
    async fn limit_holders(&self, name: &str, limit: usize) -> Result<Vec<LimitHolder>> {
        Err(Error::unsupported("limits"))
    }

    /// Frees the slot of a job whose lease has expired, by rescuing it at once; `false` if it holds none,
    /// or its lease has not expired.
    async fn release_stuck(&self, call: &Call, request: ReleaseStuck<'_>) -> Result<bool> {
        Err(Error::unsupported("releasing a stuck slot"))
    }
}

/// Which slot is to be freed.
#[derive(Clone, Copy, Debug)]
pub struct ReleaseStuck<'a> {
    /// The limit's name.
    pub limit: &'a str,
    /// The job that holds it.
    pub job: JobId,
    /// How many crashes a job may have; the next one makes it Failed.
    pub crash_limit: u32,
}

/// A limit as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitUsage {
    /// Its name, number and window.
    pub limit: Limit,
    /// Slots taken, or starts that count now.
    pub used: u32,
    /// When a rate limit that is full has room again.
    pub room_at: Option<Timestamp>,
    /// Jobs parked at it.
    pub waiting: u64,
    /// Whether an operator set the number.
    pub defined_by_operator: bool,
}

/// A job that holds a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitHolder {
    /// The job.
    pub job: JobId,
    /// The number of its claim.
    pub fence: u64,
    /// When it was claimed.
    pub claimed_at: Timestamp,
    /// When its lease ends.
    pub expires_at: Timestamp,
}
