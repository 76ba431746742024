//! The tests of the engine once more, on a storage that tells claimers that sleep one by one.
#![allow(clippy::unwrap_used, dead_code, reason = "tests; shared ones")]

#[path = "../it/crashes.rs"]
mod crashes;
#[path = "../it/engine.rs"]
mod engine;
#[path = "../it/failures.rs"]
mod failures;
#[path = "../it/operators.rs"]
mod operators;
#[path = "../it/support.rs"]
mod support;
#[path = "../it/waiting.rs"]
mod waiting;

/// Whether the storage of the tests does so.
const TELLS_SLEEPERS: bool = true;
