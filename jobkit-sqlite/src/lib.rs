#![doc = include_str!("../README.md")]

// The storage and how it is opened. `tests/it/layers.rs` checks that only what implements the contract
// imports it, and that the transaction and the codec at the bottom import nothing from above.
mod options;
mod storage;

// What implements the contract: a file for each trait (`operations` has four small ones). What a trait
// does in a transaction is in the folder of its name.
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
