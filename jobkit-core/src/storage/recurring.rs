//! `RecurringStore`: schedules and their occurrences.

use async_trait::async_trait;

use crate::model::clock::Timestamp;
use crate::model::error::{Error, Result};
use crate::model::ids::JobId;
use crate::model::record::NewRecord;
use crate::model::recurring::{
    NextRun, Overlap, Pause, RecurringRecord, RecurringRun, RecurringSpec,
};
use crate::model::refusal::Refusal;
use crate::storage::call::Call;

/// Recurring jobs. Core computes instants; the storage decides who fires (G10).
///
/// **Contract**
/// - **REC-1** Saving a new definition stores it with the next occurrence given; saving an unchanged
///   one keeps the etag and the earlier of both next occurrences; a changed one replaces definition and
///   next occurrence; a pause stays in all cases.
/// - **REC-2** A save guarded by an etag that does not fit answers [`SaveOutcome::Changed`].
/// - **REC-3** `due` answers unpaused schedules whose due instant has come, earliest first, and the next
///   due instant of the rest.
/// - **REC-4** `fire` compares the etag and the next occurrence, replaces the latter, creates the job and
///   records the occurrence, in one step: of any number of callers one gets [`FireOutcome::Fired`], the
///   others [`FireOutcome::Stale`] (G10).
/// - **REC-5** With [`Overlap::Skip`], while the last fired job has not finished, the occurrence is
///   recorded as overlapping and no job is created.
/// - **REC-6** A unique key that is held records the occurrence as skipped, and the schedule goes on.
/// - **REC-7** Skipped occurrences that the call names are recorded with their reason.
/// - **REC-8** `trigger` creates a job beside the schedule and records it; the next occurrence stays.
/// - **REC-9** A paused schedule is not due and cannot be fired; resuming sets the next occurrence
///   given.
/// - **REC-10** `remove` forgets the schedule but not what it fired: saved again, it never fires an instant
///   that was fired before.
/// - **REC-11** The job carries the occurrence: the schedule's id and the nominal instant.
/// - **REC-12** An occurrence that is due is not lost when its definition is replaced: with the same
///   instants it stays the next one, otherwise it is recorded as replaced. So it is when the schedule is
///   removed; that record is kept until the schedule is saved again, and then stands among its
///   occurrences. A resume records what was due: in the pause as paused, before it as misfired.
/// - **REC-13** What was fired while the clock was ahead counts for itself alone: when the clock has gone
///   back, instants before it are fired, and it is not fired again when its time comes, also after the
///   schedule was removed and saved again.
/// - **REC-14** An item that cannot be carried out, since something stored cannot be read, is recorded as
///   refused and the schedule goes on; where not even that can be stored it is [`FireOutcome::Failed`].
///   Its neighbours in the call are fired.
/// - **REC-15** A save, fire or trigger that meets what a stranger's transaction holds, such as the schedule or
///   its key, answers `Busy` after a short wait at most, and the occurrence stays due; a pause or removal
///   fails with [`Unavailable`](crate::ErrorKind::Unavailable) (G10).
#[async_trait]
#[allow(unused_variables, reason = "default bodies")]
pub trait RecurringStore {
    /// Saves definitions; one outcome each, in order.
    async fn save_recurring(
        &self,
        call: &Call,
        saves: &[SaveRecurring],
    ) -> Result<Vec<SaveOutcome>> {
        Err(Error::unsupported("recurring jobs"))
    }

    /// Removes a schedule; `false` if there was none.
    async fn remove_recurring(&self, call: &Call, id: &str) -> Result<bool> {
        Err(Error::unsupported("recurring jobs"))
    }

    /// Pauses a schedule, or resumes it with its next occurrence; `false` if there is none.
    async fn pause_recurring(&self, call: &Call, id: &str, change: PauseChange) -> Result<bool> {
        Err(Error::unsupported("recurring jobs"))
    }

    /// What is due.
    async fn due_recurring(&self, call: &Call, max: usize) -> Result<DueRecurring> {
        Err(Error::unsupported("recurring jobs"))
    }

    /// Fires or skips occurrences; one outcome each, in order.
    async fn fire_recurring(&self, call: &Call, fires: &[Fire]) -> Result<Vec<FireOutcome>> {
        Err(Error::unsupported("recurring jobs"))
    }

    /// Creates a job of a schedule beside its occurrences.
    async fn trigger_recurring(
        &self,
        call: &Call,
        id: &str,
        job: &NewRecord,
    ) -> Result<TriggerOutcome> {
        Err(Error::unsupported("recurring jobs"))
    }

    /// Schedules by id, in the order of bytes, after the one named, at most `limit`.
    async fn list_recurring(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<RecurringRecord>> {
        Err(Error::unsupported("recurring jobs"))
    }

    /// One schedule.
    async fn recurring(&self, id: &str) -> Result<Option<RecurringRecord>> {
        Err(Error::unsupported("recurring jobs"))
    }

    /// The latest recorded occurrences of a schedule, newest first; at most 100 are kept.
    async fn recurring_runs(&self, id: &str, limit: usize) -> Result<Vec<RecurringRun>> {
        Err(Error::unsupported("recurring jobs"))
    }
}

/// A definition to save.
#[derive(Clone, Debug, PartialEq)]
pub struct SaveRecurring {
    /// The definition.
    pub spec: RecurringSpec,
    /// Its next occurrence, computed by core.
    pub next: Option<NextRun>,
    /// Only if the stored etag is this one; zero: only if there is none.
    pub if_etag: Option<u64>,
}

/// The outcome of a save.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SaveOutcome {
    /// There was none before.
    Created {
        /// The new etag.
        etag: u64,
    },
    /// It was the same.
    Unchanged {
        /// The etag.
        etag: u64,
    },
    /// Another definition was replaced.
    Replaced {
        /// The new etag.
        etag: u64,
    },
    /// The guard did not fit.
    Changed {
        /// The stored etag; zero if there is none.
        etag: u64,
    },
    /// Nothing was stored.
    Refused(Refusal),
    /// Blocked by a stranger's lock; nothing was stored.
    Busy,
}

/// A pause to be set or lifted.
#[derive(Clone, Debug, PartialEq)]
pub enum PauseChange {
    /// Set it.
    Pause(Pause),
    /// Lift it.
    Resume {
        /// The next occurrence from now.
        next: Option<NextRun>,
    },
}

/// What is due.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DueRecurring {
    /// Schedules whose next occurrence is due.
    pub due: Vec<RecurringRecord>,
    /// The earliest due instant of the others.
    pub next_due_at: Option<Timestamp>,
    /// The storage's clock.
    pub now: Timestamp,
}

/// An occurrence to fire, or several to skip.
#[derive(Clone, Debug, PartialEq)]
pub struct Fire {
    /// The schedule.
    pub id: String,
    /// The next occurrence as it was seen: applied only if it still is.
    pub expected: Timestamp,
    /// The schedule's etag as it was seen: applied only if it still is.
    pub etag: u64,
    /// Occurrences that are skipped, from `expected` on.
    pub skipped: Vec<RecurringRun>,
    /// The occurrence that is fired: its nominal instant and its job.
    pub job: Option<FireJob>,
    /// The next occurrence from now on.
    pub next: Option<NextRun>,
}

impl Fire {
    /// Whether it still fits: the schedule is as it was seen, and not paused.
    pub fn fits(&self, schedule: &RecurringRecord, now: Timestamp) -> bool {
        schedule.etag == self.etag
            && !schedule.pause.as_ref().is_some_and(|pause| pause.holds(now))
            && schedule.next.is_some_and(|next| next.nominal_at == self.expected)
    }

    /// Notes in the schedule which occurrences it skips, and the next one.
    pub fn move_on(&self, schedule: &mut RecurringRecord, now: Timestamp) {
        let through = self.skipped.last().map(|range| range.through);
        schedule.skip_through(through, self.next, now);
    }
}

/// The job of an occurrence.
#[derive(Clone, Debug, PartialEq)]
pub struct FireJob {
    /// The instant that the schedule names.
    pub nominal_at: Timestamp,
    /// The job; its extras name the occurrence.
    pub job: NewRecord,
    /// What happens while an earlier one has not finished.
    pub overlap: Overlap,
}

/// The outcome of a fire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FireOutcome {
    /// The job was created; the schedule moved on.
    Fired(JobId),
    /// Recorded as skipped, for the reason named or because a job or key stood in the way; the schedule
    /// moved on.
    Skipped,
    /// Another was faster, or the schedule was changed, paused or removed: nothing changed.
    Stale,
    /// It cannot be carried out, for this reason: nothing changed.
    Failed(String),
    /// Blocked by a stranger's lock, of the schedule, its key or its last job: nothing changed, and the
    /// occurrence stays due.
    Busy,
}

/// The outcome of a trigger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TriggerOutcome {
    /// The job was created.
    Created(JobId),
    /// Its unique key is held by this job.
    Existing(JobId),
    /// There is no such schedule.
    NotFound,
    /// The job was refused.
    Refused(Refusal),
    /// Blocked by a stranger's lock; nothing changed.
    Busy,
}
