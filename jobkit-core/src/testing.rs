//! Help for tests of applications and storages.

mod delegate;
mod faulty;
mod server;

pub use faulty::{Call, Fault, FaultyStorage, Observer};
pub use server::{TestServer, TestedJob};
