//! The job that a lease is for.

use jobkit_core::record::Lease;

use crate::codec::int;
use crate::codec::job_row::Job;
use crate::error::{SqlResult, warn_corrupt_row};
use crate::jobs::read;
use crate::txn::Txn;

/// The job that a lease names, found by its locator or else by its id.
pub(crate) fn leased(txn: &Txn<'_, '_>, lease: &Lease) -> SqlResult<Option<Job>> {
    match read::load(txn.db, int(lease.locator.0))? {
        Some(job) if job.id == lease.job => Ok(Some(job)),
        _ => read::find(txn.db, lease.job),
    }
}

/// The same. A row that cannot be read counts as held by nobody, until a rescue gives it up.
pub(crate) fn leased_if_readable(txn: &Txn<'_, '_>, lease: &Lease) -> SqlResult<Option<Job>> {
    match leased(txn, lease) {
        Err(fault) if fault.is_corrupt_row() => {
            warn_corrupt_row(int(lease.locator.0), &fault);
            Ok(None)
        }
        other => other,
    }
}
