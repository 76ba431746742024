//! How a server behaves.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::handlers::registry::Kind;
use crate::model::bounds;
use crate::model::error::{Error, Result};
use crate::model::record::{Extras, MAX_TIMEOUT};
use crate::model::retry::RetryPolicy;
use crate::model::state::Retention;

/// The most jobs that run at once on a server.
pub(crate) const MAX_WORKERS: usize = 10_000;

/// The options of a server; what a job or its kind names takes precedence.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerOptions {
    pub(crate) name: Option<String>,
    pub(crate) queues: Option<Vec<String>>,
    pub(crate) workers: usize,
    /// Whether somebody named that number.
    pub(crate) workers_said: bool,
    pub(crate) queue_workers: BTreeMap<String, usize>,
    pub(crate) lease: Duration,
    pub(crate) poll_interval: Duration,
    pub(crate) max_poll_interval: Duration,
    pub(crate) janitor_interval: Duration,
    pub(crate) dead_after: Duration,
    pub(crate) prefetch: Prefetch,
    pub(crate) timeout: Option<Duration>,
    pub(crate) retry: RetryPolicy,
    pub(crate) retention: Retention,
    pub(crate) crash_limit: u32,
    pub(crate) cancel_grace: Duration,
    pub(crate) shutdown_grace: Duration,
    pub(crate) max_result_bytes: usize,
    pub(crate) unserved_after: Duration,
}

/// How many jobs are claimed before a worker is free for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefetch {
    /// About 50 ms of work by the measured durations; none where jobs take over a second.
    Adaptive,
    /// Always this many.
    Fixed(usize),
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            name: None,
            queues: None,
            workers: 20,
            workers_said: false,
            queue_workers: BTreeMap::new(),
            lease: Duration::from_secs(30),
            poll_interval: Duration::from_secs(1),
            max_poll_interval: Duration::from_secs(5),
            janitor_interval: Duration::from_secs(15),
            dead_after: Duration::from_secs(60),
            prefetch: Prefetch::Adaptive,
            timeout: None,
            retry: RetryPolicy::default(),
            retention: Retention::default(),
            crash_limit: bounds::CRASH_LIMIT,
            cancel_grace: Duration::from_secs(5),
            shutdown_grace: Duration::from_secs(25),
            max_result_bytes: bounds::RESULT_BYTES,
            unserved_after: Duration::from_secs(30),
        }
    }
}

impl ServerOptions {
    /// How many jobs run at once, 1 to 10,000; 20 by default. Handlers that wait cost little; those that
    /// compute want about one worker a core.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self.workers_said = true;
        self
    }

    /// How many jobs of a queue run at once on this server, 1 to 10,000; see
    /// [`ServerBuilder::queue_workers`](crate::ServerBuilder::queue_workers).
    #[must_use]
    pub fn queue_workers(mut self, queue: impl Into<String>, workers: usize) -> Self {
        self.queue_workers.insert(queue.into(), workers);
        self
    }

    /// How long a claim holds unless renewed, 100 ms to a day; 30 s by default. Renewed at a third of
    /// it, so long jobs need no configuration. Shorter finds vanished servers sooner and asks the
    /// storage more often.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// How often an idle server looks for work where the storage does not push: from `first`, backing
    /// off to `longest`; 1 s and 5 s by default.
    #[must_use]
    pub fn poll_interval(mut self, first: Duration, longest: Duration) -> Self {
        self.poll_interval = first;
        self.max_poll_interval = longest;
        self
    }

    /// How often expired leases are looked for, 15 s by default, and never less often than at half of
    /// the lease. Retention is applied, and silent servers are forgotten, at four times this.
    #[must_use]
    pub fn janitor_interval(mut self, interval: Duration) -> Self {
        self.janitor_interval = interval;
        self
    }

    /// After how long a silent server is forgotten; 60 s by default.
    #[must_use]
    pub fn dead_after(mut self, silence: Duration) -> Self {
        self.dead_after = silence;
        self
    }

    /// How many jobs are claimed ahead; adaptive by default.
    #[must_use]
    pub fn prefetch(mut self, prefetch: Prefetch) -> Self {
        self.prefetch = prefetch;
        self
    }

    /// How long one attempt may take; without limit by default.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// When failed jobs run again; [`RetryPolicy::polynomial`] by default.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// How long finished jobs are kept; a day, and 30 days for Failed ones, by default.
    #[must_use]
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// How often the server of a started job may vanish before the job is Failed, 1 to 100; 3 by
    /// default.
    #[must_use]
    pub fn crash_limit(mut self, crashes: u32) -> Self {
        self.crash_limit = crashes;
        self
    }

    /// How long a handler may ignore its cancellation before it is dropped; 5 s by default.
    #[must_use]
    pub fn cancel_grace(mut self, grace: Duration) -> Self {
        self.cancel_grace = grace;
        self
    }

    /// How long running jobs may go on after a stop was asked for, before they are cancelled; 25 s by
    /// default.
    #[must_use]
    pub fn shutdown_grace(mut self, grace: Duration) -> Self {
        self.shutdown_grace = grace;
        self
    }

    /// The largest result that is kept; 64 KiB by default and at most, which is what storages keep. A
    /// larger one is a permanent failure.
    #[must_use]
    pub fn max_result_bytes(mut self, bytes: usize) -> Self {
        self.max_result_bytes = bytes;
        self
    }

    /// How long jobs may wait while no live server serves their kind and queue, before health says so;
    /// 30 s by default, a day at most. Looked for at every [`janitor_interval`](Self::janitor_interval)
    /// while anything waits, less often while nothing does, and told at the second look.
    #[must_use]
    pub fn unserved_after(mut self, wait: Duration) -> Self {
        self.unserved_after = wait;
        self
    }

    /// How often leases are renewed.
    pub(crate) fn renew_interval(&self) -> Duration {
        self.lease / 3
    }

    /// How often expired leases are looked for.
    pub(crate) fn rescue_interval(&self) -> Duration {
        self.janitor_interval.min(self.lease / 2)
    }

    /// All errors.
    pub(crate) fn errors(&self) -> Vec<Error> {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        let timeout =
            self.timeout.is_none_or(|timeout| !timeout.is_zero() && timeout <= MAX_TIMEOUT);
        let graces = self.cancel_grace <= DAY && self.shutdown_grace <= DAY;
        let prefetch = !matches!(self.prefetch, Prefetch::Fixed(jobs) if jobs > bounds::STEP_ITEMS);
        let checks: [Result<()>; 12] = [
            check("timeout", timeout, "must be over zero and at most 366 days"),
            check("cancel_grace, shutdown_grace", graces, "must be at most a day"),
            check(
                "max_result_bytes",
                self.max_result_bytes <= bounds::RESULT_BYTES,
                "must be at most 65536, which is what storages keep; keep larger results elsewhere, \
                 and return where",
            ),
            check("prefetch", prefetch, "must be at most 300"),
            check(
                "dead_after",
                self.dead_after >= Duration::from_secs(1),
                "must be at least a second",
            ),
            check("workers", (1..=MAX_WORKERS).contains(&self.workers), "must be 1 to 10,000"),
            check(
                "lease",
                self.lease >= Duration::from_millis(100) && self.lease <= *bounds::LEASE.end(),
                "must be 100 ms to a day",
            ),
            check(
                "poll_interval",
                self.poll_interval >= Duration::from_millis(10)
                    && self.max_poll_interval >= self.poll_interval
                    && self.max_poll_interval <= DAY,
                "must be 10 ms to a day, and the longest at least the first",
            ),
            check(
                "janitor_interval",
                self.janitor_interval >= Duration::from_millis(10) && self.janitor_interval <= DAY,
                "must be 10 ms to a day",
            ),
            check("unserved_after", self.unserved_after <= DAY, "must be at most a day"),
            check("crash_limit", (1..=100).contains(&self.crash_limit), "must be 1 to 100"),
            self.retry.validate(),
        ];
        checks.into_iter().filter_map(Result::err).collect()
    }

    /// How long a job is kept once finished: as the job says, else its kind, else the server.
    pub(super) fn retention_of(&self, extras: Option<&Extras>, kind: Option<&Kind>) -> Retention {
        extras
            .and_then(|extras| extras.overrides.retention)
            .or_else(|| kind.and_then(|kind| kind.options.retention))
            .unwrap_or(self.retention)
    }
}

fn check(field: &'static str, holds: bool, reason: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::invalid(field, reason)) }
}
