//! Help for tests of applications and storages.

mod delegate;
mod faulty;
mod server;

pub use crate::memory::{Held, Hold};
pub use faulty::{Answer, Fault, FaultyStorage, ObservedCall, Observer, Pace};
pub use server::{TestServer, TestedJob};
