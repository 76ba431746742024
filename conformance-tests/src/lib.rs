#![doc = include_str!("../README.md")]

mod backend;
#[macro_use]
mod cases;
mod cli;
mod fixtures;

#[doc(hidden)]
pub mod batches;
#[doc(hidden)]
pub mod bulk;
#[doc(hidden)]
pub mod continuations;
#[doc(hidden)]
pub mod error_groups;
#[doc(hidden)]
pub mod faults;
pub mod history;
#[doc(hidden)]
pub mod limits;
#[doc(hidden)]
pub mod locks;
#[doc(hidden)]
pub mod log;
pub mod model;
#[doc(hidden)]
pub mod monitoring;
#[doc(hidden)]
pub mod nested_batches;
#[doc(hidden)]
pub mod operations;
#[doc(hidden)]
pub mod queue;
#[doc(hidden)]
pub mod recurring;
#[doc(hidden)]
pub mod retention;
#[doc(hidden)]
pub mod servers;
pub mod simulation;
#[doc(hidden)]
pub mod states;
#[doc(hidden)]
pub mod storage;
#[doc(hidden)]
pub mod strangers;
#[doc(hidden)]
pub mod submit;
#[doc(hidden)]
pub mod transfer;
#[doc(hidden)]
pub mod unique;
#[doc(hidden)]
pub mod why;

pub use backend::{Case, CaseFuture, Connections, Group, Stranger, TestBackend, run, try_case};
pub use cases::{CASES, SOURCES};
pub use cli::{cli, cli_with};
pub use fixtures::Env;
