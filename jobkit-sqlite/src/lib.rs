#![doc = include_str!("../README.md")]

mod options;
mod storage;

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
mod sweep;
mod transaction;
mod wake_up;

mod codec;
mod connection;
mod error;
mod file;
mod schema;
mod txn;
mod writer;

pub use options::{SqliteDurability, SqliteOptions};
pub use schema::print_migrations;
pub use storage::SqliteStorage;
pub use transaction::SqliteScope;
