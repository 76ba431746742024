//! The engine on the memory storage; in real time where nothing else is said.
#![allow(clippy::unwrap_used, reason = "tests")]

mod around;
mod clocks;
mod engine;
mod faults;
mod filters;
mod inside;
mod operators;
mod refusals;
mod support;
mod test_server;
