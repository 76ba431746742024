//! The core of JobKit.

pub mod clock;
pub mod error;
pub mod retry;
pub mod schedule;

pub use clock::{Clock, SystemClock, TestClock, Timestamp};
pub use error::{Applied, Error, ErrorKind, Result};
pub use retry::{RetryDecision, RetryPolicy};
pub use schedule::{Schedule, TimeZone};
