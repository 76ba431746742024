#![doc = include_str!("../README.md")]

mod arguments;
pub mod batch;
pub mod bounds;
pub mod bulk;
pub mod capture;
mod check_stored;
pub mod client;
pub mod clock;
mod coalescer;
pub mod codec;
pub mod context;
pub mod edge;
pub mod error;
pub mod error_group;
pub mod failure;
pub mod filter;
mod lossless;
#[doc = include_str!("guarantees.md")]
pub mod guarantees {}

pub mod ids;
mod job;
mod jobs;
pub mod limit;
#[cfg(feature = "log-layer")]
mod log_layer;
pub mod memory;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(not(feature = "metrics"))]
mod metrics;
pub mod name;
mod new_job;
pub mod operator;
mod outcome;
pub mod prometheus;
pub mod record;
pub mod recurring;
pub mod redact;
pub mod refusal;
pub mod retry;
pub mod schedule;
pub mod search;
pub mod server;
pub mod state;
pub mod state_machine;
pub mod stats;
pub mod storage;
#[cfg(test)]
mod stored_tests;
pub mod testing;
pub mod transfer;
pub mod unique;
mod upgrade;
pub mod why;

pub use clock::{Clock, SystemClock, TestClock, Timestamp};
pub use error::{Applied, Error, ErrorKind, Result};
pub use ids::{BatchId, Incarnation, JobId, OperationId};
pub use memory::MemoryStorage;
pub use name::Name;
pub use retry::{RetryDecision, RetryPolicy};
pub use schedule::{Schedule, TimeZone};

pub use check_stored::{StoredCheck, StoredJob, StoredMisfit, TOLD_MISFITS};
pub use client::{
    Batch, BatchHandle, Client, ClientOptions, Ends, Enqueue, InTransaction, IntoSubmission,
    JobHandle, Recurring, WaitError,
};
pub use context::{
    Data, FromContext, FromParent, FromParents, JobContext, ParentOutcome, Requirements,
};
pub use edge::On;
pub use job::{Job, JobOptions, Run};
pub use jobs::{JobFn, Jobs};
#[cfg(feature = "log-layer")]
pub use log_layer::JobLogLayer;
pub use new_job::{AsParent, NewJob, Untyped, job_by_name};
pub use outcome::{Advice, Failure, Outcome, Retry, Stop, permanent, retry_after, snooze};
pub use server::{Server, ServerBuilder, ServerHandle, ServerOptions};
pub use storage::Storage;
pub use upgrade::{Upgraded, Upgrades};

/// What `#[job]` expands to. Not for other use: it changes without notice.
#[doc(hidden)]
pub mod __private {
    pub use serde;

    pub use crate::context::{FromContext, JobContext, Requirements};
    pub use crate::job::{Job, JobOptions, Run};
    pub use crate::jobs::run_blocking;
    pub use crate::limit::{Limit, Window};
    pub use crate::new_job::NewJob;
    pub use crate::outcome::{Failure, Outcome, Retry};
    pub use crate::retry::RetryPolicy;
    pub use crate::state::{Keep, Retention};
    pub use crate::unique::{OnConflict, Unique, Until};
    pub use crate::upgrade::{Upgraded, Upgrades};

    pub use crate::arguments::missing;

    /// A type that can be stored as a job's argument.
    #[diagnostic::on_unimplemented(
        message = "`{Self}` cannot be an argument of a job",
        note = "arguments are stored: they implement `serde::Serialize` and `serde::de::DeserializeOwned`, and own what they hold",
        note = "a service is asked for as `Data<{Self}>`, and given to the server with `.data(…)`"
    )]
    pub trait Argument {}

    impl<T: serde::Serialize + serde::de::DeserializeOwned + Send + 'static> Argument for T {}

    /// Fails to compile for what cannot be stored.
    pub const fn assert_argument<T: Argument>() {}
}
