//! The behaviour suite, and what is SQLite's own.

#![allow(clippy::unwrap_used, reason = "a test reports by panicking, its helpers too")]

mod conformance;
mod corruption_fuzz;
mod damage;
mod far;
mod file;
mod idle;
mod layers;
#[cfg(target_os = "linux")]
mod read_only;
mod retention;
mod rows;
mod support;
mod transaction;
