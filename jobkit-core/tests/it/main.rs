//! The engine on the memory storage; in real time where nothing else is said.
#![allow(clippy::unwrap_used, reason = "tests")]

mod around;
mod clocks;
mod crashes;
mod engine;
mod failures;
mod faults;
mod filters;
mod futures;
mod inside;
mod latency;
mod layers;
mod names;
mod operators;
mod refusals;
mod retention;
mod rooms;
mod runtimes;
mod secrets;
mod strangers;
mod support;
mod test_server;
mod waiting;

/// Whether the storage of the tests tells claimers that sleep one by one.
const TELLS_SLEEPERS: bool = false;
