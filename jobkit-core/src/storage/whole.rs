//! Whole records, as one storage hands them to another.

use serde::{Deserialize, Serialize};

use crate::model::batch::BatchRecord;
use crate::model::bounds;
use crate::model::clock::Timestamp;
use crate::model::edge::Finish;
use crate::model::error::{Error, Result};
use crate::model::ids::{BatchId, JobId, OperationId};
use crate::model::limit::Limit;
use crate::model::record::{JobDetails, Payload};
use crate::model::recurring::Pause;
use crate::model::recurring::{Fired, RecurringRecord, RecurringRun};
use crate::model::state::{State, StateName};
use crate::model::unique::KeyHash;
use crate::storage::log::LogLine;
use crate::storage::servers::{PauseRecord, PauseTarget};

/// Everything that a storage keeps of one thing. In JSON, one line of a dump.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Whole {
    /// A limit's number and window. Starts of a rate limit do not go along: its window begins anew.
    Limit {
        /// The limit.
        limit: Limit,
        /// Whether an operator set it.
        by_operator: bool,
    },
    /// A pause of a queue or kind.
    Pause {
        /// What is paused.
        target: PauseTarget,
        /// Its pause.
        pause: Pause,
    },
    /// A recurring job, or what is remembered of one that was removed.
    Recurring(Box<WholeRecurring>),
    /// A batch.
    Batch(WholeBatch),
    /// A unique key that is held for a period.
    Key {
        /// Its hash.
        hash: KeyHash,
        /// The job that took it, which may be gone.
        job: JobId,
        /// Until when.
        until: Timestamp,
    },
    /// A job.
    Job(Box<WholeJob>),
}

impl From<PauseRecord> for Whole {
    fn from(PauseRecord { target, pause }: PauseRecord) -> Self {
        Self::Pause { target, pause }
    }
}

/// A schedule with the outcomes of its occurrences.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WholeRecurring {
    /// Its id.
    pub id: String,
    /// The schedule; `None` if it was removed, and what it fired alone is remembered.
    pub record: Option<RecurringRecord>,
    /// The instant that was fired or skipped last.
    pub last_nominal_at: Option<Timestamp>,
    /// Which occurrences were fired.
    #[serde(default)]
    pub fired: Fired,
    /// The recorded occurrences, newest first.
    #[serde(default)]
    pub runs: Vec<RecurringRun>,
}

/// A batch with what its record does not show.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WholeBatch {
    /// The record. Its counts are those of all members, the ones that are gone too.
    pub record: BatchRecord,
    /// How the batch around it counts it.
    #[serde(default)]
    pub counted: Option<Finish>,
    /// It is filled, and begins with the batch around it.
    #[serde(default)]
    pub starts_with_parent: bool,
}

/// A job with all that belongs to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WholeJob {
    /// The record with arguments, result, history, errors, edges and progress. Its sequence and the limit
    /// at which it was parked are those of the storage it comes from.
    pub details: JobDetails,
    /// Whether it holds its unique key, other than for a period.
    #[serde(default)]
    pub holds_key: bool,
    /// The last change that was applied to it.
    #[serde(default)]
    pub operation: Option<OperationId>,
    /// The memos of its present run.
    #[serde(default)]
    pub memos: Vec<(String, Payload)>,
    /// Its checkpoint.
    #[serde(default)]
    pub checkpoint: Option<Payload>,
    /// The log lines of its attempts, by fence, with how many are not kept.
    #[serde(default)]
    pub logs: Vec<(u64, Vec<LogLine>, u64)>,
}

/// A page of everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExportPage {
    /// Limits, pauses, schedules, batches, keys, then jobs in the order of their sequences. Running jobs
    /// are left out.
    pub items: Vec<Whole>,
    /// Where the next page begins; `None` on the last.
    pub next: Option<String>,
    /// How many running jobs were passed over.
    pub running: u64,
}

/// The outcome of an imported thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Imported {
    /// It is stored now.
    Stored,
    /// It was there already, and stays as it is.
    Already,
}

impl WholeJob {
    /// About how many bytes it holds.
    pub fn size(&self) -> usize {
        let details = &self.details;
        let lines = self.logs.iter().flat_map(|(_, lines, _)| lines).map(|line| line.text.len());
        let errors = details.errors.iter().map(|it| {
            it.detail.message.len() + it.detail.backtrace.as_ref().map_or(0, String::len)
        });
        let memos = self.memos.iter().map(|(_, value)| value.len());
        1_000
            + details.args.len()
            + details.result.as_ref().map_or(0, |result| result.len())
            + self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.len())
            + lines.chain(errors).chain(memos).sum::<usize>()
    }

    /// The digest that tells two submits of its id apart; see
    /// [`NewRecord::content_digest`](crate::model::record::NewRecord::content_digest).
    pub fn digest(&self) -> [u8; 16] {
        let record = &self.details.record;
        crate::model::record::content::digest(&record.kind, &self.details.args)
    }

    /// Whether it waits for the start of its batch, beside its parents.
    pub fn waits_for_batch(&self) -> bool {
        let open = self.details.parents.iter().filter(|status| !status.decided).count();
        match self.details.record.head.state {
            State::Awaiting { open: waits } => waits as usize > open,
            _ => false,
        }
    }

    /// Whether it can be imported: it does not run, and its batch is there.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput), with the field and the reason.
    pub fn check(&self, has_batch: impl Fn(BatchId) -> bool) -> Result<()> {
        let record = &self.details.record;
        if record.state() == StateName::Processing {
            return Err(Error::invalid("state", format_args!("job {} runs", record.id)));
        }
        if let Some(batch) = record.batch.filter(|batch| !has_batch(*batch)) {
            let reason = format_args!("{batch} of job {} is not there", record.id);
            return Err(Error::invalid("batch", reason));
        }
        if self.details.args.len() > bounds::ARGS_BYTES / 2 * 3 {
            return Err(Error::invalid("args", "are larger than a job's may be"));
        }
        Ok(())
    }
}
