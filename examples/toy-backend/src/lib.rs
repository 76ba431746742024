#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(feature = "step-8"),
    allow(
        dead_code,
        unused_imports,
        unreachable_pub,
        reason = "what a step of the guide has no use for yet"
    )
)]

mod fault;
mod jobs;
mod keys;
mod kv;
mod queue;
mod record;
mod servers;
mod storage;
mod txn;

// Before its step a module is one of the same interface that does nothing.
#[cfg(not(feature = "step-8"))]
#[path = "later/batches.rs"]
mod batches;
#[cfg(feature = "step-8")]
mod batches;
#[cfg(not(feature = "step-5"))]
#[path = "later/changes.rs"]
mod changes;
#[cfg(feature = "step-5")]
mod changes;
#[cfg(not(feature = "step-3"))]
#[path = "later/claim.rs"]
mod claim;
#[cfg(feature = "step-3")]
mod claim;
#[cfg(not(feature = "step-6"))]
#[path = "later/edges.rs"]
mod edges;
#[cfg(feature = "step-6")]
mod edges;
#[cfg(not(feature = "step-4"))]
#[path = "later/leases.rs"]
mod leases;
#[cfg(feature = "step-4")]
mod leases;
#[cfg(not(feature = "step-7"))]
#[path = "later/limits.rs"]
mod limits;
#[cfg(feature = "step-7")]
mod limits;
#[cfg(not(feature = "step-5"))]
#[path = "later/lock.rs"]
mod lock;
#[cfg(feature = "step-5")]
mod lock;
#[cfg(not(feature = "step-8"))]
#[path = "later/log.rs"]
mod log;
#[cfg(feature = "step-8")]
mod log;
#[cfg(not(feature = "step-8"))]
#[path = "later/recurring.rs"]
mod recurring;
#[cfg(feature = "step-8")]
mod recurring;
#[cfg(not(feature = "step-3"))]
#[path = "later/settle.rs"]
mod settle;
#[cfg(feature = "step-3")]
mod settle;
#[cfg(not(feature = "step-2"))]
#[path = "later/submit.rs"]
mod submit;
#[cfg(feature = "step-2")]
mod submit;
#[cfg(not(feature = "step-5"))]
#[path = "later/sweep.rs"]
mod sweep;
#[cfg(feature = "step-5")]
mod sweep;
#[cfg(not(feature = "step-7"))]
#[path = "later/unique.rs"]
mod unique;
#[cfg(feature = "step-7")]
mod unique;

#[doc(hidden)]
pub use fault::Fault;
pub use storage::ToyStorage;

use jobkit_core::storage::{AuditStore, BulkStore, Monitoring, Operations, TransferStore};

// What the dashboard needs is left at its default, which answers `Unsupported`.
impl Monitoring for ToyStorage {}
impl Operations for ToyStorage {}
impl BulkStore for ToyStorage {}
impl AuditStore for ToyStorage {}
impl TransferStore for ToyStorage {}
