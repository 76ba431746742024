//! What describes a job in code: its type, its values and their options, versions of its arguments,
//! codecs, what travels with it, and what its result means. Imports from `model` and `storage` alone.

pub(crate) mod arguments;
pub mod capture;
pub mod codec;
pub(crate) mod job;
pub(crate) mod new_job;
pub(crate) mod outcome;
pub(crate) mod upgrade;
