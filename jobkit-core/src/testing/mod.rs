//! Help for tests of applications and storages.

mod delegate;
mod faulty;

pub use faulty::{Fault, FaultyStorage};
