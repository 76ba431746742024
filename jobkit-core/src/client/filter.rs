//! The hook before a job is submitted.

use crate::model::error::Result;
use crate::model::record::NewRecord;

/// Looks at every job before it is submitted, and may change or refuse it. Implemented by closures.
///
/// Synchronous, since jobs are also submitted inside transactions that are not `Send`; ask other
/// systems before you enqueue. A submit that is repeated because its answer was lost is not filtered
/// again. For a recurring job the filter sees the template when the schedule is saved.
///
/// # Example: no job without a tenant
/// ```
/// use jobkit::filter::SubmitFilter;
/// use jobkit::record::NewRecord;
/// use jobkit::{Client, ClientOptions, Error, Result};
///
/// struct NeedsTenant;
///
/// impl SubmitFilter for NeedsTenant {
///     fn submit(&self, job: &mut NewRecord) -> Result<()> {
///         if job.extras_mut().context.contains_key("tenant") {
///             return Ok(());
///         }
///         Err(Error::invalid("tenant", "is missing: enqueue inside a request"))
///     }
/// }
///
/// # let storage = jobkit::MemoryStorage::new();
/// let options = ClientOptions::default().filter(NeedsTenant);
/// let client = Client::with_options(storage, options);
/// # drop(client);
/// ```
pub trait SubmitFilter: Send + Sync + 'static {
    /// Looks at a job; called in the order in which filters were added.
    ///
    /// # Errors
    /// Refuses the whole submission; nothing is stored.
    fn submit(&self, job: &mut NewRecord) -> Result<()>;
}

impl<F: Fn(&mut NewRecord) -> Result<()> + Send + Sync + 'static> SubmitFilter for F {
    fn submit(&self, job: &mut NewRecord) -> Result<()> {
        self(job)
    }
}
