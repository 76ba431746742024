//! The examples, run as people run them.

mod conformance;
mod quickstart;
