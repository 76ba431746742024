//! The core of JobKit.

pub mod batch;
pub mod bounds;
pub mod client;
pub mod clock;
mod coalescer;
pub mod context;
pub mod edge;
pub mod error;
pub mod failure;
#[doc = include_str!("guarantees.md")]
pub mod guarantees {}

pub mod ids;
mod job;
mod jobs;
pub mod limit;
pub mod memory;
pub mod name;
mod new_job;
mod outcome;
pub mod record;
pub mod recurring;
pub mod refusal;
pub mod retry;
pub mod schedule;
pub mod server;
pub mod state;
pub mod state_machine;
pub mod stats;
pub mod storage;
pub mod unique;

pub use clock::{Clock, SystemClock, TestClock, Timestamp};
pub use error::{Applied, Error, ErrorKind, Result};
pub use ids::{BatchId, Incarnation, JobId, OperationId};
pub use memory::MemoryStorage;
pub use name::Name;
pub use retry::{RetryDecision, RetryPolicy};
pub use schedule::{Schedule, TimeZone};

pub use client::{
    Batch, BatchHandle, Client, ClientOptions, Enqueue, JobHandle, Recurring, WaitError,
};
pub use context::{Data, FromContext, JobContext, Requirements};
pub use edge::On;
pub use job::{Job, JobOptions, Run};
pub use jobs::{JobFn, Jobs};
pub use new_job::{AsParent, NewJob, Untyped, job_by_name};
pub use outcome::{Advice, Failure, Outcome, Stop, permanent, retry_after, snooze};
pub use server::{Server, ServerBuilder, ServerHandle, ServerOptions};
pub use storage::Storage;
