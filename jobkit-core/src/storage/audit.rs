//! `AuditStore`: who did what.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::model::bounds;
use crate::model::clock::Timestamp;
use crate::model::error::{Error, Result};
use crate::model::ids::OperationId;
use crate::model::name::{check_note, check_text};
use crate::storage::call::Call;

/// The audit of operators' actions.
///
/// **Contract**
/// - **OPS-11** `append_audit` appends an entry, or replaces that of the same operation; `audit` pages
///   them, newest first; they are kept for 90 days.
#[async_trait]
#[allow(unused_variables, reason = "default bodies")]
pub trait AuditStore {
    /// Appends to the audit, or replaces the entry of the same operation.
    async fn append_audit(&self, call: &Call, entry: &AuditEntry) -> Result<()> {
        Err(Error::unsupported("audit"))
    }

    /// The audit, newest first, after the entry named, at most `limit`.
    async fn audit(&self, after: Option<OperationId>, limit: usize) -> Result<Vec<AuditEntry>> {
        Err(Error::unsupported("audit"))
    }
}

/// Who did what, why and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Of which operation.
    pub operation: OperationId,
    /// When it was appended first, by the storage's clock; what a caller says is overwritten.
    #[serde(default)]
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// From where: an address, or the name of a program.
    #[serde(default)]
    pub peer: String,
    /// What: `retry`, `pause queue`.
    pub action: String,
    /// To what: an id, a name, a filter.
    pub target: String,
    /// How many were changed.
    #[serde(default)]
    pub count: u64,
    /// How it went; empty until that is known.
    #[serde(default)]
    pub outcome: String,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

impl AuditEntry {
    /// Checks every field against its bound (G20).
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput), with the field and the reason.
    pub fn check(&self) -> Result<()> {
        check_text("actor", &self.actor, bounds::LABEL_BYTES)?;
        check_text("action", &self.action, bounds::LABEL_BYTES)?;
        check_note("peer", &self.peer, bounds::LABEL_BYTES)?;
        let notes =
            [("target", &self.target), ("outcome", &self.outcome), ("reason", &self.reason)];
        notes.into_iter().try_for_each(|(field, text)| check_note(field, text, bounds::NOTE_BYTES))
    }
}
