//! The core of JobKit.

pub mod batch;
pub mod bounds;
pub mod clock;
pub mod edge;
pub mod error;
pub mod failure;
#[doc = include_str!("guarantees.md")]
pub mod guarantees {}

pub mod ids;
pub mod limit;
pub mod name;
pub mod record;
pub mod recurring;
pub mod refusal;
pub mod retry;
pub mod schedule;
pub mod state;
pub mod state_machine;
pub mod stats;
pub mod storage;
pub mod unique;

pub use clock::{Clock, SystemClock, TestClock, Timestamp};
pub use error::{Applied, Error, ErrorKind, Result};
pub use ids::{BatchId, Incarnation, JobId, OperationId};
pub use name::Name;
pub use retry::{RetryDecision, RetryPolicy};
pub use schedule::{Schedule, TimeZone};
