//! The core of JobKit.

pub mod clock;
pub mod error;
pub mod schedule;

pub use clock::{Clock, SystemClock, TestClock, Timestamp};
pub use error::{Applied, Error, ErrorKind, Result};
pub use schedule::{Schedule, TimeZone};
