//! `BulkStore`: records of bulk operations, which core drives.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::model::bounds;
use crate::model::clock::Timestamp;
use crate::model::error::{Error, Result};
use crate::model::ids::{JobId, OperationId};
use crate::model::name::{check_note, check_text};
use crate::storage::call::Call;
use crate::storage::jobs::Action;

/// Where a bulk operation notes how far it is.
///
/// **Contract**
/// - **OPS-8** `save_bulk` stores a record whose version is one more than the stored one's, or 1 where
///   there is none; of any number of callers with one version one gets `true`, the others change nothing.
///   As long as one has not ended every heartbeat says so.
/// - **OPS-9** `bulks` lists those that have not ended, oldest first, then the others, newest first; a
///   week after its end a record is forgotten.
#[async_trait]
#[allow(unused_variables, reason = "default bodies")]
pub trait BulkStore {
    /// Stores how far a bulk operation is, if nobody was faster.
    async fn save_bulk(&self, call: &Call, bulk: &BulkRecord) -> Result<bool> {
        Err(Error::unsupported("bulk operations"))
    }

    /// One bulk operation.
    async fn bulk(&self, id: OperationId) -> Result<Option<BulkRecord>> {
        Err(Error::unsupported("bulk operations"))
    }

    /// Bulk operations, at most `limit`.
    async fn bulks(&self, limit: usize) -> Result<Vec<BulkRecord>> {
        Err(Error::unsupported("bulk operations"))
    }
}

/// An operation on everything that matches a filter, and how far it is. Core drives it in bounded
/// steps, each announced before and noted after: see [`bulk`](crate::operate::bulk).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BulkRecord {
    /// Its id.
    pub id: OperationId,
    /// Grows by one with every save; begins with 1.
    pub version: u64,
    /// What matches, in the filter language.
    pub filter: String,
    /// What is done to each.
    pub action: Action,
    /// Only jobs that were in their state by this instant.
    pub as_of: Timestamp,
    /// Requeued jobs are spread evenly over this duration.
    #[serde(default)]
    pub spread: Duration,
    /// How many matched when it was asked for; zero if nobody counted.
    #[serde(default)]
    pub previewed: u64,
    /// Who wants it.
    pub actor: String,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// How far the walk is; `None` at its beginning.
    #[serde(default)]
    pub place: Option<String>,
    /// What the present step is about to change.
    #[serde(default)]
    pub plan: Option<BulkPlan>,
    /// Jobs that were changed.
    #[serde(default)]
    pub done: u64,
    /// Jobs that had changed since they were seen, and were left alone.
    #[serde(default)]
    pub skipped: u64,
    /// Jobs that the state machine or a unique key refused.
    #[serde(default)]
    pub refused: u64,
    /// When it ended.
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
    /// Whether somebody stopped it.
    #[serde(default)]
    pub cancelled: bool,
}

impl BulkRecord {
    /// Checks every field against its bound (G20).
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput), with the field and the reason.
    pub fn check(&self) -> Result<()> {
        check_text("filter", &self.filter, bounds::FILTER_BYTES)?;
        check_text("actor", &self.actor, bounds::LABEL_BYTES)?;
        check_note("reason", &self.reason, bounds::NOTE_BYTES)
    }
}

/// What a step of a bulk operation is about to change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkPlan {
    /// When it was planned; who finds it much later takes it over.
    pub at: Timestamp,
    /// The jobs, in the version in which they were seen.
    pub jobs: Vec<(JobId, u64)>,
    /// Where the next step begins; `None` after the last.
    #[serde(default)]
    pub next: Option<String>,
}
