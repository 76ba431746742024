//! [`Job`]: a kind of job, its arguments and options.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::jobs::upgrade::Upgrades;
use crate::model::limit::Limit;
use crate::model::retry::RetryPolicy;
use crate::model::state::Retention;
use crate::model::unique::Unique;

/// A kind of job: its name, its arguments (the type itself), its output and its options.
///
/// Enough to enqueue; a process that runs it needs [`Run`](crate::Run) too. Usually made by `#[job]`.
///
/// # Example: a job by hand
/// ```
/// use jobkit::{Job, JobOptions};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Resize { path: String, width: u32 }
///
/// impl Job for Resize {
///     const KIND: &'static str = "resize";
///     type Output = ();
///     fn options() -> JobOptions {
///         JobOptions::new().queue("images").max_attempts(3)
///     }
/// }
/// ```
pub trait Job: Serialize + DeserializeOwned + Send + 'static {
    /// The stable name, never a module path: `[A-Za-z0-9._@-]`, at most 64 bytes, not ending in `@` and
    /// digits.
    const KIND: &'static str;

    /// The version of the arguments, from 1. From 2 on jobs are stored as kind `KIND@VERSION`, so that a
    /// server which does not know the version never claims them.
    const VERSION: u32 = 1;

    /// Former names, under which stored jobs are still served.
    const ALIASES: &'static [&'static str] = &[];

    /// Arguments that are not shown to people, by their stored names.
    ///
    /// They are stored like others; the names go with each job, so that whoever shows it can leave them out.
    const SENSITIVE: &'static [&'static str] = &[];

    /// What it returns; kept as its result.
    type Output: Serialize + DeserializeOwned + Send + 'static;

    /// The options of the kind.
    fn options() -> JobOptions {
        JobOptions::new()
    }

    /// How arguments that older versions stored become this one's.
    fn upgrades() -> Upgrades<Self> {
        Upgrades::new()
    }

    /// A name of this job for people, instead of the kind's; cut at 200 bytes.
    fn display_name(&self) -> Option<String> {
        None
    }

    /// Tags of this job; at most 8 of 64 bytes.
    fn tags(&self) -> Vec<String> {
        Vec::new()
    }

    /// The unique key of this job.
    fn unique(&self) -> Option<Unique> {
        None
    }

    /// The limits this job runs under.
    fn limits(&self) -> Vec<Limit> {
        Vec::new()
    }
}

/// The options of a kind. A job value may override them; what neither names, the server decides.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobOptions {
    pub(crate) queue: Option<&'static str>,
    pub(crate) priority: Option<u8>,
    pub(crate) retry: Option<RetryPolicy>,
    pub(crate) max_attempts: Option<u32>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) retention: Option<Retention>,
}

impl JobOptions {
    /// None set.
    pub const fn new() -> Self {
        Self {
            queue: None,
            priority: None,
            retry: None,
            max_attempts: None,
            timeout: None,
            retention: None,
        }
    }

    /// The queue; `default` if none. Stored at enqueue.
    #[must_use]
    pub const fn queue(mut self, queue: &'static str) -> Self {
        self.queue = Some(queue);
        self
    }

    /// 0 to 9; 9 goes first; 5 if none. Stored at enqueue.
    #[must_use]
    pub const fn priority(mut self, priority: u8) -> Self {
        self.priority = Some(priority);
        self
    }

    /// When a failed job runs again; the server's policy if none. Read when the job runs.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = Some(policy);
        self
    }

    /// How many failures it may have, 1 to 1,000, the first run included. Read when the job runs.
    #[must_use]
    pub const fn max_attempts(mut self, max_attempts: u32) -> Self {
        self.max_attempts = Some(max_attempts);
        self
    }

    /// How long one attempt may take; the server's if none. Read when the job runs.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How long finished jobs are kept; the server's if none. Read when the job runs.
    #[must_use]
    pub const fn retention(mut self, retention: Retention) -> Self {
        self.retention = Some(retention);
        self
    }
}
