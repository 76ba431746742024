//! The contract that every database obeys.
//!
//! Domain-level and set-based: a storage is asked for whole operations, so that each database does
//! them its best way. Split by caller; [`Storage`] is all of them.
//!
//! # Rules for every method
//! - **Slices in, one outcome per item out, in order.** A refused item is an outcome, not an error,
//!   and does not disturb its neighbours. An item blocked by a stranger's lock is `Busy`, and core
//!   tries it again alone.
//! - **An [`Error`] changed nothing, or its [`applied`](Error::applied) is
//!   [`Unknown`](crate::Applied::Unknown).** After either the same call may be repeated and applies
//!   no effect twice.
//! - **A [`Call`] comes first** where a method writes, or compares something with the time. Reads that
//!   depend on no time take none.
//! - **The storage's clock decides** leases, due instants and expiry. [`Call::now`], which only tests
//!   set, replaces that clock for one call.
//! - **What must change together changes in one call**, atomically, and is visible to others only
//!   when all of it is.
//! - **Locks first, reads after.** What decides (a parent's children, a batch's end, a free slot) is
//!   read after the lock that guards it is held.
//! - **A fixed number of round trips** on hot paths, whatever the number of items.
//! - **No hidden threads**: core drives promotion, rescue, sweeps, purge and heartbeats.
//! - **No hot rows**: a claim writes no statistics; every other writing call appends its
//!   [`Delta`](crate::model::stats::Delta) once, and a fold adds them up at most once a second.
//! - A dropped future leaves it open whether the call was applied, as a lost answer does.
//!
//! Every **Contract** bullet has an id, and a case in `conformance-tests` that quotes it.
//!
//! # Levels
//! A backend may stop at [`Level::Core`] or [`Level::Standard`]; what lies beyond has default
//! methods that answer [`Unsupported`](crate::ErrorKind::Unsupported).

mod audit;
mod batches;
mod bulk;
mod call;
mod capabilities;
mod hub;
mod jobs;
mod limits;
mod lock;
mod log;
mod monitoring;
mod operations;
mod pushes;
mod queue;
mod recurring;
mod servers;
#[cfg(test)]
mod stored_tests;
mod transfer;
mod whole;

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::model::clock::Timestamp;
use crate::model::error::{Error, Result};

pub use audit::*;
pub use batches::*;
pub use bulk::*;
pub use call::*;
pub use capabilities::*;
pub use hub::*;
pub use jobs::*;
pub use limits::*;
pub use lock::*;
pub use log::*;
pub use monitoring::*;
pub use operations::*;
pub(crate) use pushes::Pushes;
pub use queue::*;
pub use recurring::*;
pub use servers::*;
pub use transfer::*;
pub use whole::*;

/// A place where jobs are kept: every trait of the contract, usable as `Arc<dyn Storage>`.
///
/// **Contract**
/// - **STO-1** `migrate` on an empty namespace makes the storage usable; on a current one it changes
///   nothing; two at once both succeed.
/// - **STO-2** `check` of a storage that is in order reports no finding of severity `Error`.
/// - **STO-3** Two namespaces on one server never see each other's jobs, locks or servers.
/// - **STO-4** What is committed is there after the storage was closed and opened again, as far as
///   [`Capabilities::durability`] says (G1).
/// - **OPS-12** `secret` answers the same 32 random bytes to all who ask for a name, also when several
///   ask first; another name, another secret.
#[async_trait]
pub trait Storage:
    JobStore
    + JobQueue
    + LockStore
    + ServerRegistry
    + RecurringStore
    + BatchStore
    + LimitStore
    + JobLog
    + Monitoring
    + Operations
    + BulkStore
    + AuditStore
    + TransferStore
    + Any
    + fmt::Debug
    + Send
    + Sync
{
    /// What this storage offers, with its figures.
    fn capabilities(&self) -> &Capabilities;

    /// The database's name for people, such as `sqlite`.
    fn backend(&self) -> &'static str;

    /// The schema, key prefix or file part that keeps this JobKit apart from others on the server.
    fn namespace(&self) -> &str;

    /// Where it is, for people who must see that they look at the right one: a file's path, or host and
    /// database, never with a password. `None`, the default, where there is nothing to name.
    fn location(&self) -> Option<String> {
        None
    }

    /// Brings the schema to what this release writes, under a lock. Additive and repeatable.
    ///
    /// # Errors
    /// [`Schema`](crate::ErrorKind::Schema) when the schema is newer than this release can use.
    async fn migrate(&self) -> Result<Migrated>;

    /// Names what is configured so that guarantees are weaker or things slower than they should be.
    async fn check(&self) -> Result<Vec<Finding>>;

    /// The storage's clock.
    async fn now(&self) -> Result<Timestamp>;

    /// 32 random bytes under a name, the same for all who ask; made at the first time.
    async fn secret(&self, _call: &Call, _name: &str) -> Result<[u8; 32]> {
        Err(Error::unsupported("shared secrets"))
    }
}

/// What a migration did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// The schema's version before; zero when there was none.
    pub from: u32,
    /// The schema's version now.
    pub to: u32,
}

/// Something that [`Storage::check`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// A stable short name, such as `synchronous-normal`.
    pub code: &'static str,
    /// What was found, why it matters, and what to do.
    pub message: String,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know.
    Info,
    /// Weaker or slower than it could be.
    Warning,
    /// A guarantee does not hold.
    Error,
}

/// What a client or a server can be made of: a storage, one in an `Arc`, or an `Arc<dyn Storage>`.
pub trait IntoStorage {
    /// The storage, shared.
    fn into_storage(self) -> Arc<dyn Storage>;
}

impl<S: Storage> IntoStorage for S {
    fn into_storage(self) -> Arc<dyn Storage> {
        Arc::new(self)
    }
}

impl<S: Storage> IntoStorage for Arc<S> {
    fn into_storage(self) -> Arc<dyn Storage> {
        self
    }
}

impl IntoStorage for Arc<dyn Storage> {
    fn into_storage(self) -> Arc<dyn Storage> {
        self
    }
}

/// A call to a storage. One that panics has failed: whether it was applied is unknown.
pub(crate) async fn caught<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    use futures_util::FutureExt as _;
    std::panic::AssertUnwindSafe(call).catch_unwind().await.unwrap_or_else(|_| {
        let text = "the storage panicked, which is a bug in it";
        Err(Error::new(crate::model::error::ErrorKind::Internal, text).maybe_applied())
    })
}

/// Whether a page of an export may have this many items.
///
/// # Errors
/// [`InvalidInput`](crate::ErrorKind::InvalidInput) with field `limit`.
pub fn check_export(limit: usize) -> Result<()> {
    let max = crate::model::bounds::MAX_STEP_ITEMS;
    if (1..=max).contains(&limit) {
        return Ok(());
    }
    Err(Error::invalid("limit", format_args!("is {limit}, where 1 to {max} are allowed")))
}

/// Whether a set is small enough for one call.
///
/// # Errors
/// [`InvalidInput`](crate::ErrorKind::InvalidInput), with the field and both numbers.
pub fn check_items(field: &'static str, items: usize) -> Result<()> {
    let max = crate::model::bounds::MAX_STEP_ITEMS;
    if items > max {
        return Err(Error::invalid(
            field,
            format_args!("has {items} items, where at most {max} are allowed"),
        ));
    }
    Ok(())
}
