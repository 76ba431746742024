//! The rows of jobs that were claimed just now, which their settles ask for next.

use std::collections::HashMap;

use crate::codec::job_row::Job;

/// The most rows that are kept.
const ROWS: usize = 2_000;

/// Rows as their claims left them. Each holds until anything else may have changed it.
#[derive(Debug, Default)]
pub(crate) struct ClaimedRows(HashMap<i64, Job>);

impl ClaimedRows {
    pub(crate) fn remember(&mut self, job: &Job) {
        if self.0.len() >= ROWS {
            self.0.clear();
        }
        self.0.insert(job.seq, job.clone());
    }

    /// The row of a job that was claimed before and has not changed since.
    pub(crate) fn take(&mut self, seq: i64) -> Option<Job> {
        self.0.remove(&seq)
    }

    pub(crate) fn forget(&mut self, seq: i64) {
        self.0.remove(&seq);
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}
