//! Jobs as code: their types and options, how they are registered and run, what a handler is given, and
//! what its result means. It imports from `model` and `storage`.

pub(crate) mod arguments;
pub mod capture;
pub(crate) mod check_stored;
pub mod codec;
pub mod context;
pub mod filter;
pub(crate) mod job;
#[cfg(feature = "log-layer")]
pub(crate) mod log_layer;
pub(crate) mod new_job;
pub(crate) mod outcome;
pub(crate) mod registry;
#[cfg(test)]
mod stored_tests;
pub(crate) mod upgrade;
