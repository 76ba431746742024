#![doc = include_str!("../README.md")]

#[cfg(feature = "cli")]
pub mod cli;
mod connect;

pub use connect::connect;
pub use jobkit_core::*;
#[cfg(feature = "macros")]
pub use jobkit_macros::job;

/// The SQLite storage: one file, any number of processes.
#[cfg(feature = "sqlite")]
pub mod sqlite {
    pub use jobkit_sqlite::*;
}

#[doc(hidden)]
pub use jobkit_core::__private;
