#![doc = include_str!("../README.md")]

mod batches;
mod call;
mod changes;
mod claim;
mod edges;
mod fault;
mod jobs;
mod keys;
mod kv;
mod leases;
mod limits;
mod lock;
mod log;
mod queue;
mod record;
mod recurring;
mod servers;
mod settle;
mod storage;
mod submit;
mod sweep;
mod unique;

#[doc(hidden)]
pub use fault::Fault;
pub use storage::ToyStorage;

use jobkit_core::storage::{Monitoring, Operations};

// What the dashboard needs is left at its default, which answers `Unsupported`.
impl Monitoring for ToyStorage {}
impl Operations for ToyStorage {}
