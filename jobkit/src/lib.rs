#![doc = include_str!("../README.md")]

#[cfg(feature = "cli")]
pub mod cli;
mod connect;

pub use connect::connect;

pub use jobkit_core::{
    Batch, BatchHandle, BatchId, Client, ClientOptions, Data, Error, ErrorKind, Failure,
    FromContext, FromParent, FromParents, Job, JobContext, JobHandle, JobId, JobOptions, Jobs,
    MemoryStorage, Name, NewJob, On, Recurring, Result, RetryPolicy, Run, Schedule, Server,
    ServerBuilder, ServerHandle, ServerOptions, Storage, TimeZone, Timestamp, WaitError,
    job_by_name, jobs, permanent, retry_after, snooze,
};
#[cfg(feature = "macros")]
pub use jobkit_macros::job;

#[cfg(feature = "log-layer")]
pub use jobkit_core::JobLogLayer;

#[cfg(feature = "metrics")]
pub use jobkit_core::metrics;
pub use jobkit_core::{capture, codec, filter, storage};

/// What a client takes and returns, apart from [`Client`], [`Batch`] and the handles.
pub mod client {
    pub use jobkit_core::client::{
        Deleted, Enqueue, EnqueueMany, FinishedJobs, HasOutput, InTransaction, IntoSubmission, Lock,
    };
    pub use jobkit_core::{AsParent, Untyped};
}

/// What a handler's parameters are made of, apart from [`Data`], [`FromParent`] and [`FromContext`].
pub mod context {
    pub use jobkit_core::{ParentOutcome, Requirements};
}

/// Whether a failed call may have been applied, and why items are refused.
pub mod error {
    pub use jobkit_core::{Applied, refusal::Refusal};
}

/// Limits on what runs at the same time, or starts in a period.
pub mod limit {
    pub use jobkit_core::limit::{Limit, Window};
}

/// For operators and their tools: audited actions, bulk operations, searches, why a job does not run,
/// jobs as JSON without secrets, figures for Prometheus, moves between storages.
pub mod ops {
    pub use jobkit_core::OperationId;
    pub use jobkit_core::{bulk, operator, prometheus, search, transfer, view, why};
}

/// Jobs and batches as they are stored and read.
pub mod record {
    pub use jobkit_core::batch::{BatchRecord, BatchState};
    pub use jobkit_core::edge::{BatchCounts, Edge, Finish, Parent};
    pub use jobkit_core::error_group::ErrorGroup;
    pub use jobkit_core::failure::ErrorDetail;
    pub use jobkit_core::record::{
        AttemptError, EdgeStatus, Extras, History, HistoryEntry, JobDetails, JobRecord, Lease,
        Locator, NewRecord, Occurrence, Overrides, Payload, Progress,
    };
}

/// Schedules as they are stored, and the outcomes of their occurrences.
pub mod recurring {
    pub use jobkit_core::recurring::{
        JobTemplate, Misfire, NextRun, Overlap, Pause, RecurringRecord, RecurringRun,
        RecurringSpec, RunOutcome,
    };
}

/// What follows a failed attempt, apart from [`RetryPolicy`] and [`Failure`].
pub mod retry {
    pub use jobkit_core::retry::{
        DEFAULT_MAX_ATTEMPTS, DEFAULT_MAX_DELAY, MAX_ATTEMPTS, MAX_LISTED_DELAYS, MAX_RETRY_DELAY,
        RetryDecision,
    };
    pub use jobkit_core::{Directive, IntoJobResult, Retry};
}

/// Health, problems and failures that a server reports.
pub mod server {
    pub use jobkit_core::server::{BuildError, FailedJob, Health, Prefetch, Problem, stop_signal};
    pub use jobkit_core::{Incarnation, JobFn};
}

/// The states of a job, why it is in one, and how long it is kept.
pub mod state {
    pub use jobkit_core::state::{Hold, Keep, Reason, Retention, Start, State, StateName};
    pub use jobkit_core::state_machine::Ending;
}

/// Counters, series and histograms.
pub mod stats {
    pub use jobkit_core::stats::{Cell, Delta, Histogram, Scope, Step, Tally};
}

/// Tests of an application: a server in virtual time, a storage with faults on demand, clocks.
pub mod testing {
    pub use jobkit_core::testing::{
        Fault, FaultyStorage, ObservedCall, Observer, TestServer, TestedJob,
    };
    pub use jobkit_core::{Clock, SystemClock, TestClock};
}

/// Keys that let one job at a time exist.
pub mod unique {
    pub use jobkit_core::unique::{OnConflict, Unique, Until};
}

/// Arguments that older versions stored, and whether stored jobs fit a new program.
pub mod upgrade {
    pub use jobkit_core::{
        CompatibilityReport, IncompatibleJob, MAX_REPORTED, StoredJob, Upgraded, Upgrades,
    };
}

/// The SQLite storage: one file, any number of processes.
#[cfg(feature = "sqlite")]
pub mod sqlite {
    pub use jobkit_sqlite::*;
}

#[doc(hidden)]
pub use jobkit_core::__private;
