//! The leases a server holds, shared between the dispatcher and the renewal.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::handlers::context::JobContext;
use crate::model::ids::JobId;
use crate::model::record::Lease;
use crate::model::sync::lock;

/// Why a running job is asked to stop; the first cause stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StopCause {
    /// A client or person deleted it, or its batch was cancelled.
    Requested,
    /// The lease was taken away.
    LeaseLost,
    /// The lease may have been taken away: it could not be renewed in time.
    LeaseUnsure,
    /// Its time is up.
    TimedOut,
    /// The server shuts down.
    Shutdown,
}

/// The way to stop one running job.
#[derive(Clone, Debug, Default)]
pub(super) struct Stopper {
    pub(super) token: CancellationToken,
    cause: std::sync::Arc<OnceLock<StopCause>>,
}

impl Stopper {
    pub(super) fn stop(&self, cause: StopCause) {
        let _ = self.cause.set(cause);
        self.token.cancel();
    }

    pub(super) fn cause(&self) -> Option<StopCause> {
        self.cause.get().copied()
    }
}

/// What a held job does.
#[derive(Debug)]
pub(super) enum Phase {
    /// Claimed, waits for a worker.
    Prefetched,
    /// Runs.
    Running(Running),
    /// Ended; its outcome is on its way.
    Settling,
}

#[derive(Debug)]
pub(super) struct Running {
    pub(super) stopper: Stopper,
    pub(super) context: JobContext,
    /// Ignored its cancellation for so long that its worker was replaced.
    pub(super) stuck: bool,
    pub(super) stop_asked_at: Option<Instant>,
}

/// One attempt of one job.
pub(super) type Attempt = (JobId, u64);

/// The attempt that a lease is for.
pub(super) fn attempt(lease: &Lease) -> Attempt {
    (lease.job, lease.fence)
}

#[derive(Debug)]
pub(super) struct HeldJob {
    pub(super) lease: Lease,
    pub(super) claim: u64,
    pub(super) phase: Phase,
    /// Whether its handler was started, or is to be at once.
    pub(super) started: bool,
    /// Whether the storage would count a crash of this server against it.
    pub(super) counted: bool,
    /// Whether it holds limit slots, so that it must not go on once the lease may be gone.
    pub(super) limited: bool,
    /// Until when the lease surely holds, on the monotonic clock.
    pub(super) sure_until: Instant,
}

#[derive(Debug, Default)]
pub(crate) struct Held {
    inner: Mutex<HeldJobs>,
}

#[derive(Debug, Default)]
pub(super) struct HeldJobs {
    /// By job and fence: an attempt that lost its lease may still be ending while the next one of the
    /// same job runs here.
    pub(super) jobs: BTreeMap<Attempt, HeldJob>,
    /// The last claim whose answer was seen; what it took is in `jobs`.
    pub(super) seen_claim: u64,
    /// The last claim that took anything.
    pub(super) last_taken: u64,
    /// The job near its crash limit whose turn it is: a crash counts against it alone.
    pub(super) turn: Option<Attempt>,
}

impl Held {
    pub(super) fn lock(&self) -> MutexGuard<'_, HeldJobs> {
        lock(&self.inner)
    }

    /// Stops every running job.
    pub(super) fn stop_all(&self, cause: StopCause) {
        for job in self.lock().jobs.values_mut() {
            job.stop(cause);
        }
    }
}

impl HeldJob {
    pub(super) fn stop(&mut self, cause: StopCause) {
        if let Phase::Running(running) = &mut self.phase {
            running.stopper.stop(cause);
            running.stop_asked_at.get_or_insert_with(Instant::now);
        }
    }
}

impl HeldJobs {
    /// Whether a crash of this server should count against a job.
    pub(super) fn counts(&self, this: Attempt, job: &HeldJob) -> bool {
        job.started && self.turn.is_none_or(|turn| turn == this)
    }

    /// Gives a job its turn, or ends that of the last one; whether the storage knows all of it.
    pub(super) fn set_turn(&mut self, turn: Option<Attempt>) -> bool {
        self.turn = turn;
        if let Some(job) = turn.and_then(|turn| self.jobs.get_mut(&turn)) {
            job.started = true;
        }
        self.jobs.iter().all(|(this, job)| job.counted == self.counts(*this, job))
    }

    /// Marks handlers that have ignored their cancellation for too long; answers how many are newly
    /// so, and how many there are in all.
    pub(super) fn find_stuck(&mut self, after: Duration) -> (usize, usize) {
        let (mut newly, mut all) = (0, 0);
        for job in self.jobs.values_mut() {
            if let Phase::Running(running) = &mut job.phase {
                // A handler that blocks its thread keeps its own timer from running, so its time
                // is watched from here too.
                let deadline = running.context.deadline();
                if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                    running.stopper.stop(StopCause::TimedOut);
                }
                if running.stopper.token.is_cancelled() {
                    running.stop_asked_at.get_or_insert_with(Instant::now);
                }
                let late = running.stop_asked_at.is_some_and(|at| at.elapsed() > after);
                if late && !running.stuck {
                    running.stuck = true;
                    newly += 1;
                }
                all += usize::from(running.stuck);
            }
        }
        (newly, all)
    }
}
