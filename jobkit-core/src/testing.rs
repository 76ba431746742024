//! Help for tests of applications and storages.

mod delegate;
mod faulty;
mod server;

pub use faulty::{Fault, FaultyStorage, ObservedCall, Observer};
pub use server::{TestServer, TestedJob};
