//! What is SQLite's own, and a comparison with the storage in memory.

#![allow(clippy::unwrap_used, reason = "a test reports by panicking, its helpers too")]

mod conformance;
mod file;
mod model;
#[cfg(target_os = "linux")]
mod read_only;
mod transaction;
