//! Help for tests of applications and storages.

mod delegate;
mod faulty;
mod server;

pub use faulty::{Answer, Call, Fault, FaultyStorage, Observer, Pace};
pub use server::{TestServer, TestedJob};
