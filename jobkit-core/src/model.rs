//! Plain data and pure functions: ids, times, states and their machine, records, schedules, retry
//! policies, limits, errors. It imports from no other room and does no I/O.

pub(crate) mod backoff;
pub mod batch;
pub mod bounds;
pub mod clock;
pub mod duration;
pub mod edge;
pub mod error;
pub mod error_group;
pub mod failure;
pub mod ids;
pub mod limit;
pub(crate) mod lossless;
pub mod name;
pub mod record;
pub mod recurring;
pub mod redact;
pub mod refusal;
pub mod retry;
pub mod schedule;
pub mod state;
pub mod state_machine;
pub mod stats;
pub(crate) mod sync;
pub mod unique;
