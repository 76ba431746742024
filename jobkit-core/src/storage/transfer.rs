//! `TransferStore`: whole records out of one storage and into another.

use async_trait::async_trait;

use crate::model::error::{Error, Result};
use crate::storage::call::Call;
use crate::storage::whole::{ExportPage, Imported, Whole};

/// Export and import of whole records.
///
/// **Contract**
/// - **OPS-13** `export` pages everything that is not running, each thing once: records as they are, with
///   arguments byte for byte, fences, counters, history, errors, edges, keys, memos, checkpoints and logs.
///   A page holds at least one thing and about 8 MiB at most. Things come in an order of the storage's own,
///   in which the jobs of one line (a queue and a priority) keep theirs.
/// - **OPS-14** `import` stores things as they are, each in one step of its own or in one with others, with
///   a new sequence for each job in the order given: ids, fences, versions, states, instants and edges stay,
///   so that every later decision is the same as it would have been. What is there already stays as it is and answers
///   [`Already`](Imported::Already). Ids of any age are taken. The statistics count jobs by state, and no
///   transition (G18). What the importing storage finds decided is decided by its sweeps (SWP-2).
#[async_trait]
#[allow(unused_variables, reason = "default bodies")]
pub trait TransferStore {
    /// A page of everything that is not running.
    async fn export(&self, after: Option<&str>, limit: usize) -> Result<ExportPage> {
        Err(Error::unsupported("exporting whole records"))
    }

    /// Stores whole records that another storage exported; one answer each, in order.
    ///
    /// # Errors
    /// A running job is invalid input, and so is a member whose batch is not there; nothing of the call is
    /// stored then.
    async fn import(&self, call: &Call, items: &[Whole]) -> Result<Vec<Imported>> {
        Err(Error::unsupported("importing whole records"))
    }
}
