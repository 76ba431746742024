//! `Operations`: what an operator does. Pause and resume work; the words of the rest are fixed, and
//! answer `Unsupported` until they do too.

use async_trait::async_trait;

use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::failure::Fingerprint;
use crate::ids::{JobId, OperationId};
use crate::name::Name;
use crate::record::NewRecord;
use crate::recurring::Pause;
use crate::storage::jobs::{Action, Submitted};
use crate::storage::monitoring::JobQuery;
use crate::storage::servers::{PauseRecord, PauseTarget, ServerCommand};

/// An operator's means.
///
/// **Contract**
/// - **OPS-1** After `pause` returns no claim takes jobs of that queue or kind; running jobs go on;
///   other queues and kinds are not disturbed (G15).
/// - **OPS-2** `resume` makes the waiting jobs claimable at once (G21); it answers `false` if nothing
///   was paused.
/// - **OPS-3** A pause with an end lifts itself at that instant, on the storage's clock.
/// - **OPS-4** `pauses` lists what holds, with who, why, since and until when.
/// - **OPS-5** What is not offered answers `Unsupported` and changes nothing.
#[async_trait]
pub trait Operations {
    /// Pauses a queue or kind, or replaces its pause.
    async fn pause(
        &self,
        target: &PauseTarget,
        pause: &Pause,
        now: Option<Timestamp>,
    ) -> Result<()> {
        let _ = (target, pause, now);
        Err(Error::unsupported("pausing"))
    }

    /// Lifts a pause; `false` if there was none.
    async fn resume(&self, target: &PauseTarget) -> Result<bool> {
        let _ = target;
        Err(Error::unsupported("pausing"))
    }

    /// The pauses that hold.
    async fn pauses(&self, now: Option<Timestamp>) -> Result<Vec<PauseRecord>> {
        let _ = now;
        Err(Error::unsupported("pausing"))
    }

    /// Tells a server to be quiet or to stop; `None` takes the command back. `false` if it is unknown.
    async fn command_server(&self, server: &Name, command: Option<ServerCommand>) -> Result<bool> {
        let _ = (server, command);
        Err(Error::unsupported("commands to servers"))
    }

    /// Replaces a waiting or finished job by an edited copy, linked to it, in one step.
    async fn edit_job(
        &self,
        operation: OperationId,
        job: JobId,
        edited: &NewRecord,
    ) -> Result<Submitted> {
        let _ = (operation, job, edited);
        Err(Error::unsupported("editing jobs"))
    }

    /// Deletes what waits in a queue, in bounded steps; answers the operation.
    async fn empty_queue(&self, queue: &Name) -> Result<OperationId> {
        let _ = queue;
        Err(Error::unsupported("emptying queues"))
    }

    /// Begins an operation on everything that matched at `as_of`, in bounded steps.
    async fn start_bulk(&self, bulk: &Bulk) -> Result<()> {
        let _ = bulk;
        Err(Error::unsupported("bulk operations"))
    }

    /// How far a bulk operation is.
    async fn bulk(&self, id: OperationId) -> Result<Option<BulkStatus>> {
        let _ = id;
        Err(Error::unsupported("bulk operations"))
    }

    /// Stops a bulk operation where it is; `false` if it had ended.
    async fn cancel_bulk(&self, id: OperationId) -> Result<bool> {
        let _ = id;
        Err(Error::unsupported("bulk operations"))
    }

    /// Mutes an error group until an instant; `None` unmutes.
    async fn mute(&self, group: Fingerprint, until: Option<Timestamp>) -> Result<()> {
        let _ = (group, until);
        Err(Error::unsupported("muting"))
    }

    /// Appends to the audit.
    async fn append_audit(&self, entry: &AuditEntry) -> Result<()> {
        let _ = entry;
        Err(Error::unsupported("audit"))
    }

    /// The audit, newest first, before an instant.
    async fn audit(&self, before: Option<Timestamp>, limit: usize) -> Result<Vec<AuditEntry>> {
        let _ = (before, limit);
        Err(Error::unsupported("audit"))
    }

    /// 32 random bytes under a name, the same for all who ask; made at the first time.
    async fn secret(&self, name: &str) -> Result<[u8; 32]> {
        let _ = name;
        Err(Error::unsupported("shared secrets"))
    }
}

/// An operation on everything that matches.
#[derive(Clone, Debug, PartialEq)]
pub struct Bulk {
    /// Its id.
    pub id: OperationId,
    /// What matches.
    pub query: JobQuery,
    /// What is done to each.
    pub action: Action,
    /// Only jobs that were in their state by this instant.
    pub as_of: Timestamp,
    /// How many matched when it was asked for.
    pub previewed: u64,
    /// Who wants it.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// How far a bulk operation is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BulkStatus {
    /// Done.
    pub done: u64,
    /// Left alone, since they had changed.
    pub skipped: u64,
    /// Refused.
    pub refused: u64,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Whether it was stopped.
    pub cancelled: bool,
}

/// Who did what, why and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// From which address.
    pub peer: String,
    /// What.
    pub action: String,
    /// To what.
    pub target: String,
    /// How many.
    pub count: u64,
    /// How it went.
    pub outcome: String,
    /// Why.
    pub reason: String,
}
