//! `Operations`: what an operator does.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::model::bounds;
use crate::model::clock::Timestamp;
use crate::model::error::{Error, Result};
use crate::model::failure::Fingerprint;
use crate::model::ids::{JobId, OperationId};
use crate::model::name::{Name, check_note, check_text};
use crate::model::record::NewRecord;
use crate::model::recurring::Pause;
use crate::storage::jobs::{Action, Guard, Submitted};
use crate::storage::servers::{PauseRecord, PauseTarget, ServerOrder};
use crate::storage::whole::{ExportPage, Imported, Whole};

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
/// - **OPS-6** `command_server` is told with every heartbeat of that life until it is taken back or its
///   end has passed; a later life under the same name begins without it; an unknown server answers
///   `false`.
/// - **OPS-7** `edit_job` stores the copy and, where the original waits, deletes it as
///   [`Replaced`](crate::model::state::Reason::Replaced), in one step: its unique key goes over to the copy. A
///   running original, one that waits for others or that others wait for, and a waiting member of a batch
///   are refused; a finished
///   original stays as it is. Repeating it changes nothing and answers
///   [`Already`](crate::storage::JobSubmitted::Already) (G3, G11).
/// - **OPS-8** `save_bulk` stores a record whose version is one more than the stored one's, or 1 where
///   there is none; of any number of callers with one version one gets `true`, the others change nothing.
///   As long as one has not ended every heartbeat says so.
/// - **OPS-9** `bulks` lists those that have not ended, oldest first, then the others, newest first; a
///   week after its end a record is forgotten.
/// - **OPS-10** `mute` marks an error group with who, why and until when; its failures are counted all
///   the same. `false` if there is no such group.
/// - **OPS-11** `append_audit` appends an entry, or replaces that of the same operation; `audit` pages
///   them, newest first; they are kept for 90 days.
/// - **OPS-12** `secret` answers the same 32 random bytes to all who ask for a name, also when several
///   ask first; another name, another secret.
/// - **OPS-13** `export` pages everything that is not running, each thing once: records as they are, with
///   arguments byte for byte, fences, counters, history, errors, edges, keys, memos, checkpoints and logs.
///   A page holds at least one thing and about 8 MiB at most.
/// - **OPS-14** `import` stores things as they are, in one step for each call, with a new sequence for each
///   job in the order given: ids, fences, versions, states, instants and edges stay, so that every later
///   decision is the same as it would have been. What is there already stays as it is and answers
///   [`Already`](Imported::Already). Ids of any age are taken. The statistics count jobs by state, and no
///   transition (G18). What the importing storage finds decided is decided by its sweeps (SWP-2).
#[async_trait]
#[allow(unused_variables, reason = "default bodies")]
pub trait Operations {
    /// Pauses a queue or kind, or replaces its pause.
    async fn pause(
        &self,
        target: &PauseTarget,
        pause: &Pause,
        now: Option<Timestamp>,
    ) -> Result<()> {
        Err(Error::unsupported("pausing"))
    }

    /// Lifts a pause; `false` if there was none.
    async fn resume(&self, target: &PauseTarget) -> Result<bool> {
        Err(Error::unsupported("pausing"))
    }

    /// The pauses that hold.
    async fn pauses(&self, now: Option<Timestamp>) -> Result<Vec<PauseRecord>> {
        Err(Error::unsupported("pausing"))
    }

    /// Tells a server to be quiet or to stop; `None` takes the order back. `false` if it is unknown.
    async fn command_server(
        &self,
        server: &Name,
        order: Option<&ServerOrder>,
        now: Option<Timestamp>,
    ) -> Result<bool> {
        Err(Error::unsupported("commands to servers"))
    }

    /// Puts an edited copy in the place of a waiting job, or beside a finished one, in one step.
    async fn edit_job(&self, edit: EditJob<'_>) -> Result<Submitted> {
        Err(Error::unsupported("editing jobs"))
    }

    /// Stores how far a bulk operation is, if nobody was faster.
    async fn save_bulk(&self, bulk: &BulkRecord) -> Result<bool> {
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

    /// Mutes an error group; `None` unmutes it. `false` if there is none.
    async fn mute(
        &self,
        group: Fingerprint,
        mute: Option<&Pause>,
        now: Option<Timestamp>,
    ) -> Result<bool> {
        Err(Error::unsupported("muting"))
    }

    /// Appends to the audit, or replaces the entry of the same operation.
    async fn append_audit(&self, entry: &AuditEntry, now: Option<Timestamp>) -> Result<()> {
        Err(Error::unsupported("audit"))
    }

    /// The audit, newest first, after the entry named, at most `limit`.
    async fn audit(&self, after: Option<OperationId>, limit: usize) -> Result<Vec<AuditEntry>> {
        Err(Error::unsupported("audit"))
    }

    /// A page of everything that is not running.
    async fn export(&self, after: Option<&str>, limit: usize) -> Result<ExportPage> {
        Err(Error::unsupported("exporting whole records"))
    }

    /// Stores whole records that another storage exported; one answer each, in order.
    ///
    /// # Errors
    /// A running job is invalid input, and so is a member whose batch is not there; nothing of the call is
    /// stored then.
    async fn import(&self, items: &[Whole]) -> Result<Vec<Imported>> {
        Err(Error::unsupported("importing whole records"))
    }

    /// 32 random bytes under a name, the same for all who ask; made at the first time.
    async fn secret(&self, name: &str) -> Result<[u8; 32]> {
        Err(Error::unsupported("shared secrets"))
    }
}

/// A copy of a job with other content.
#[derive(Clone, Copy, Debug)]
pub struct EditJob<'a> {
    /// The original.
    pub original: JobId,
    /// Only if the original is as it was seen.
    pub guard: Guard,
    /// The copy, which names the original in [`Extras::made_from`](crate::model::record::Extras::made_from)
    /// and has neither edges nor a batch.
    pub copy: &'a NewRecord,
    /// Who wants it, for the history.
    pub actor: Option<&'a str>,
    /// Replaces the storage's clock; tests only.
    pub now: Option<Timestamp>,
}

impl EditJob<'_> {
    /// Checks the copy (G20).
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput), with the field and the reason.
    pub fn check(&self) -> Result<()> {
        self.copy.check()?;
        for (field, set) in
            [("parents", !self.copy.edges.is_empty()), ("batch", self.copy.batch.is_some())]
        {
            if set {
                return Err(Error::invalid(field, "cannot be set on an edited copy"));
            }
        }
        if self.copy.id == self.original {
            return Err(Error::invalid("id", "is that of the original"));
        }
        Ok(())
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
    /// Requeued jobs are spread evenly over so long.
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
