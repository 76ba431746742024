#![doc = include_str!("../README.md")]

// From the top down: imports go one way, which `tests/it/layers.rs` checks.
mod options;
mod storage;

// One file for each trait of the contract; what it does in a transaction is in the folder of its name.
mod batches;
mod jobs;
mod limits;
mod lock;
mod log;
mod monitoring;
mod operations;
mod queue;
mod recurring;
mod servers;
mod transaction;
mod wake_up;

// Bounded steps of what a call has left.
mod sweep;

// The thread that writes.
mod writer;

// The transaction in progress.
mod txn;

mod codec;
mod connection;
mod error;
mod file;
mod schema;
mod secret;

pub use options::{SqliteDurability, SqliteOptions};
pub use schema::print_migrations;
pub use storage::SqliteStorage;
pub use transaction::SqliteScope;
