//! Filters of a server or of some of its jobs.

mod outcome;
mod perform;

use std::sync::Arc;

pub(crate) use outcome::decide;
pub use outcome::{Decision, Ended, OutcomeFilter, Retrying};
pub(crate) use perform::perform;
pub use perform::{Next, PerformFilter, Performed};

/// The filters of a server, or of a set of jobs.
#[derive(Clone, Default)]
pub(crate) struct Filters {
    pub(crate) perform: Vec<Arc<dyn PerformFilter>>,
    pub(crate) outcome: Vec<Arc<dyn OutcomeFilter>>,
}

impl std::fmt::Debug for Filters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Filters({} of runs, {} of outcomes)", self.perform.len(), self.outcome.len())
    }
}
