#![doc = "placeholder"]

#[cfg(feature = "macros")]
pub use jobkit_macros::job;

pub use jobkit_core::*;
