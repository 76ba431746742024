//! Filters of a server or of some of its jobs.

mod elect;
mod perform;

use std::sync::Arc;

pub(crate) use elect::elect;
pub use elect::{ElectFilter, Election, Ended, Retrying};
pub(crate) use perform::perform;
pub use perform::{Next, PerformFilter, Performed};

/// The filters that a server, or a set of jobs, is laid round with.
#[derive(Clone, Default)]
pub(crate) struct Filters {
    pub(crate) perform: Vec<Arc<dyn PerformFilter>>,
    pub(crate) elect: Vec<Arc<dyn ElectFilter>>,
}

impl std::fmt::Debug for Filters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Filters({} round runs, {} of elections)", self.perform.len(), self.elect.len())
    }
}
