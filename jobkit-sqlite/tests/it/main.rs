//! What is SQLite's own, and a comparison with the storage in memory.

mod conformance;
mod model;
