//! What runs a job: the registry of handlers, what a handler is given, and the filters around it.
//! Imports from `client` and below.

pub(crate) mod check_stored;
pub mod context;
pub(crate) mod filter;
pub(crate) mod job_fn;
#[cfg(feature = "log-layer")]
pub(crate) mod log_layer;
pub(crate) mod panics;
pub(crate) mod registry;
pub(crate) mod run;
