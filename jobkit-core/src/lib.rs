#![doc = include_str!("../README.md")]

pub mod client;
mod handlers;
mod jobs;
pub mod memory;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(not(feature = "metrics"))]
mod metrics;
mod model;
mod operate;
pub mod server;
pub mod storage;
pub mod testing;

/// Filters: hooks before a job is submitted, around each run, and when its outcome is decided.
///
/// A process that only enqueues links no handlers, so each hook is a trait of its own:
/// [`SubmitFilter`](filter::SubmitFilter) belongs to a client, [`PerformFilter`](filter::PerformFilter) and
/// [`OutcomeFilter`](filter::OutcomeFilter) to a server or to some of its [`Jobs`]. No filter writes to the
/// storage: what it decides is part of the same commit as the submit or the settle.
pub mod filter {
    pub use crate::client::filter::SubmitFilter;
    pub use crate::handlers::filter::{
        Decision, Ended, Next, OutcomeFilter, PerformFilter, Performed, Retrying,
    };
}

#[doc = include_str!("guarantees.md")]
pub mod guarantees {}

pub use handlers::context;
pub use jobs::{capture, codec};
pub use model::{
    batch, bounds, clock, duration, edge, error, error_group, failure, ids, limit, name, record,
    recurring, redact, refusal, retry, schedule, state, state_machine, stats, unique,
};
pub use operate::{bulk, operator, prometheus, search, transfer, view, why};

pub use clock::{Clock, SystemClock, TestClock, Timestamp};
pub use error::{Applied, Error, ErrorKind, Result};
pub use ids::{BatchId, Incarnation, JobId, OperationId};
pub use memory::MemoryStorage;
pub use name::Name;
pub use retry::{RetryDecision, RetryPolicy};
pub use schedule::{Schedule, TimeZone};

pub use client::{
    Batch, BatchHandle, Client, ClientOptions, Enqueue, FinishedJobs, InTransaction,
    IntoSubmission, JobHandle, Recurring, WaitError,
};
pub use context::{
    Data, FromContext, FromParent, FromParents, JobContext, ParentOutcome, Requirements,
};
pub use edge::On;
pub use handlers::check_stored::{CompatibilityReport, IncompatibleJob, MAX_REPORTED, StoredJob};
pub use handlers::job_fn::JobFn;
#[cfg(feature = "log-layer")]
pub use handlers::log_layer::JobLogLayer;
pub use handlers::registry::Jobs;
pub use handlers::run::Run;
pub use jobs::job::{Job, JobOptions};
pub use jobs::new_job::{AsParent, NewJob, Untyped, job_by_name};
pub use jobs::outcome::{Directive, Failure, IntoJobResult, Retry, permanent, retry_after, snooze};
pub use jobs::upgrade::{Upgraded, Upgrades};
pub use server::{Server, ServerBuilder, ServerHandle, ServerOptions};
pub use storage::Storage;

/// What `#[job]` expands to. Not for other use: it changes without notice.
#[doc(hidden)]
pub mod __private {
    pub use serde;

    pub use crate::handlers::context::{FromContext, JobContext, Requirements};
    pub use crate::handlers::run::{Run, run_blocking};
    pub use crate::jobs::job::{Job, JobOptions};
    pub use crate::jobs::new_job::NewJob;
    pub use crate::jobs::outcome::{Failure, IntoJobResult, Retry};
    pub use crate::jobs::upgrade::{Upgraded, Upgrades};
    pub use crate::model::limit::{Limit, Window};
    pub use crate::model::retry::RetryPolicy;
    pub use crate::model::state::{Keep, Retention};
    pub use crate::model::unique::{OnConflict, Unique, Until};

    pub use crate::jobs::arguments::missing;

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
