//! `JobLog`: what handlers tell while they run.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::model::clock::Timestamp;
use crate::model::error::{Error, Result};
use crate::model::ids::JobId;
use crate::model::record::{Lease, Payload, Progress};
use crate::storage::call::Call;

/// Log lines, progress, memos and checkpoints of attempts.
///
/// **Contract**
/// - **LOG-1** Only the holder writes; others learn [`WriteAnswer::LeaseLost`] and change nothing (G5).
/// - **LOG-2** Lines are read back in the order appended, by attempt, after a given number.
/// - **LOG-3** At most 1,000 lines an attempt are kept; older ones go, and how many is told.
/// - **LOG-4** Progress replaces the bar of the same name.
/// - **LOG-5** A memo belongs to (job, run, key): the first write stays, and every later one answers it.
/// - **LOG-6** A checkpoint belongs to the job and outlives attempts; a requeue clears it.
/// - **LOG-7** All of it is removed with the job.
#[async_trait]
#[allow(unused_variables, reason = "default bodies")]
pub trait JobLog {
    /// Appends lines and sets progress; one answer each, in order.
    async fn write_log(&self, call: &Call, writes: &[LogWrite]) -> Result<Vec<WriteAnswer>> {
        Err(Error::unsupported("logs"))
    }

    /// Lines of one attempt after line number `after`, at most `limit`; the latest attempt if `fence` is
    /// `None`.
    async fn read_log(
        &self,
        job: JobId,
        fence: Option<u64>,
        after: u64,
        limit: usize,
    ) -> Result<LogPage> {
        Err(Error::unsupported("logs"))
    }

    /// Keeps a memo, or answers the one that is kept; `None` when the lease is lost.
    async fn put_memo(
        &self,
        call: &Call,
        lease: Lease,
        key: &str,
        value: &Payload,
    ) -> Result<Option<Payload>> {
        Err(Error::unsupported("memos"))
    }

    /// The memo of a key in the job's present run.
    async fn memo(&self, job: JobId, key: &str) -> Result<Option<Payload>> {
        Err(Error::unsupported("memos"))
    }

    /// Keeps a checkpoint.
    async fn put_checkpoint(
        &self,
        call: &Call,
        lease: Lease,
        value: &Payload,
    ) -> Result<WriteAnswer> {
        Err(Error::unsupported("checkpoints"))
    }

    /// The job's checkpoint.
    async fn checkpoint(&self, job: JobId) -> Result<Option<Payload>> {
        Err(Error::unsupported("checkpoints"))
    }
}

/// How grave a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// For tracing.
    Trace,
    /// For developers.
    Debug,
    /// For operators.
    Info,
    /// Something to look at.
    Warn,
    /// Something went wrong.
    Error,
}

/// One line a handler wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When, by the server's clock.
    pub at: Timestamp,
    /// How grave.
    pub level: LogLevel,
    /// The text; at most 4 KiB, free of NUL.
    pub text: String,
}

/// What a handler tells.
#[derive(Clone, Debug, PartialEq)]
pub struct LogWrite {
    /// The right to say so.
    pub lease: Lease,
    /// New lines.
    pub lines: Vec<LogLine>,
    /// Lines that were dropped before these.
    pub dropped: u64,
    /// Bars that changed.
    pub progress: Vec<Progress>,
}

/// The outcome of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteAnswer {
    /// Kept.
    Written,
    /// The lease is not held any more; nothing changed.
    LeaseLost,
}

/// Lines of one attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogPage {
    /// The attempt.
    pub fence: u64,
    /// The lines with their numbers, from 1.
    pub lines: Vec<(u64, LogLine)>,
    /// How many lines of the attempt are not kept.
    pub dropped: u64,
}
