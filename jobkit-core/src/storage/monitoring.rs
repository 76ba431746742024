//! `Monitoring`: what a dashboard reads. None of it counts the jobs.

use async_trait::async_trait;

use crate::model::clock::Timestamp;
use crate::model::edge::{On, Parent};
use crate::model::error::{Error, Result};
use crate::model::error_group::ErrorGroup;
use crate::model::failure::Fingerprint;
use crate::model::ids::{BatchId, JobId};
use crate::model::name::Name;
use crate::model::record::JobRecord;
use crate::model::recurring::Pause;
use crate::model::state::StateName;
use crate::model::stats::{Histogram, Scope, Step, Tally};
use crate::storage::call::Call;

/// Counts, lists and details.
///
/// **Contract**
/// - **MON-1** `snapshot` equals the jobs' states as of its commit: by state, by queue and state, and
///   costs no scan of the jobs (G18).
/// - **MON-2** `counters` never decrease; each transition is counted once, at the latest when its claim
///   ends (G18). A read adds what is not folded yet (SWP-5).
/// - **MON-3** `series` and `histogram` add up to the counters over their range (G18).
/// - **MON-4** `list` pages by key: finished jobs by the time they finished, newest first; Enqueued by
///   queue, priority and sequence; Scheduled by instant; Awaiting and Processing by sequence or claim;
///   every job that stays in the list while it is paged is seen exactly once. Jobs that finished at one
///   instant, and Processing as a whole, come in any order that stays the same from page to page. With
///   every filter a page may hold fewer jobs than `limit`, even none, and name a next place: the list ends
///   where no next place is named.
/// - **MON-5** Filters combine by "and"; one that the storage cannot serve is
///   [`Unsupported`](crate::ErrorKind::Unsupported).
/// - **MON-6** `relations` tells parents and children with their state, in pages: parents in the order in
///   which the job names them, then each edge of a child, those of one child in the order in which it
///   names them.
/// - **MON-7** `lanes` names every queue and kind with Enqueued jobs that are not parked, with since when
///   the first in line has been claimable, and costs a look for each, not for each job.
/// - **MON-8** `count` tells how many jobs `list` would page from the query's place on: exactly, or that
///   there are at least this many, where that is more than `most`, or more than a bounded look finds.
/// - **MON-9** `jobs_before` tells how many claimable jobs of the same queue run before an Enqueued one,
///   up to `most`; `None` for a job that is not Enqueued.
/// - **MON-10** Every attempt that was settled with an error and [failed](crate::model::state_machine::Ending::has_failed)
///   is counted once in its group, whether it is repeated or not, with the instants of the first and the last and the counts by the hour; a repeated settle
///   is not counted again. It may be counted as late as by the next sweep (SWP-5). A group is kept for 30 days
///   after its last failure, and at most 1,000 are (G18).
/// - **MON-11** An attempt whose job became Deleted is in no group: a cancellation was asked for, of the job or
///   of its batch, or a filter gave it up. Neither is one that asked to run later. The error is kept with the
///   job all the same.
#[async_trait]
#[allow(unused_variables, reason = "default bodies")]
pub trait Monitoring {
    /// Counts, queues, servers: one page's worth.
    async fn snapshot(&self, call: &Call) -> Result<Snapshot> {
        Err(Error::unsupported("monitoring"))
    }

    /// All transitions since the beginning.
    async fn counters(&self, scope: &Scope) -> Result<Tally> {
        Err(Error::unsupported("monitoring"))
    }

    /// Transitions by time.
    async fn series(&self, query: &SeriesQuery) -> Result<Vec<SeriesPoint>> {
        Err(Error::unsupported("monitoring"))
    }

    /// Durations by hour, added up over a range.
    async fn histogram(&self, query: &HistogramQuery) -> Result<Histogram> {
        Err(Error::unsupported("monitoring"))
    }

    /// A page of jobs.
    async fn list(&self, query: &JobQuery) -> Result<JobPage> {
        Err(Error::unsupported("monitoring"))
    }

    /// Every queue and kind with jobs that wait for a worker, those parked at a limit left out; by queue
    /// and kind, at most `limit`.
    async fn lanes(&self, limit: usize) -> Result<Vec<Lane>> {
        Err(Error::unsupported("monitoring"))
    }

    /// A page of parents and children of a job.
    async fn relations(
        &self,
        id: JobId,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<RelationPage> {
        Err(Error::unsupported("monitoring"))
    }

    /// How many jobs match, from the query's place on; its `limit` does not count.
    async fn count(&self, query: &JobQuery, most: u64) -> Result<Count> {
        Err(Error::unsupported("monitoring"))
    }

    /// How many claimable jobs of its queue run before an Enqueued one.
    async fn jobs_before(&self, id: JobId, most: u64) -> Result<Option<Count>> {
        Err(Error::unsupported("monitoring"))
    }

    /// Failures by fingerprint, the one seen last first.
    async fn error_groups(&self, query: &ErrorQuery) -> Result<Vec<ErrorGroup>> {
        Err(Error::unsupported("error groups"))
    }
}

/// What there is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The storage's clock.
    pub now: Timestamp,
    /// Jobs in each state of [`StateName::ALL`].
    pub by_state: [u64; 7],
    /// Every queue with waiting or running jobs, a pause, or a server, by name in the order of bytes.
    pub queues: Vec<QueueSnapshot>,
    /// Servers that are announced.
    pub servers: u32,
    /// Schedules that are not paused.
    pub recurring: u32,
    /// Jobs parked at a limit; they are among the Enqueued.
    pub parked: u64,
}

impl Snapshot {
    /// Jobs in a state.
    pub fn count(&self, state: StateName) -> u64 {
        self.by_state[state.index()]
    }
}

/// A queue now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSnapshot {
    /// Its name.
    pub name: Name,
    /// Jobs that wait for a worker.
    pub enqueued: u64,
    /// Jobs that run.
    pub processing: u64,
    /// Jobs that wait for an instant.
    pub scheduled: u64,
    /// Since when the first job in line has been claimable.
    pub oldest_at: Option<Timestamp>,
    /// Its pause.
    pub pause: Option<Pause>,
}

/// The line of one kind in one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    /// The queue.
    pub queue: Name,
    /// The kind.
    pub kind: Name,
    /// Since when the first in line has been claimable.
    pub first_at: Option<Timestamp>,
}

/// A range of buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeriesQuery {
    /// Of what.
    pub scope: Scope,
    /// By which span; minutes for the total and queues alone.
    pub step: Step,
    /// The first instant.
    pub from: Timestamp,
    /// The instant after the last.
    pub to: Timestamp,
}

/// One bucket; empty ones are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeriesPoint {
    /// Its start.
    pub at: Timestamp,
    /// What was counted.
    pub tally: Tally,
}

/// A range of a histogram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistogramQuery {
    /// Of what.
    pub scope: Scope,
    /// Which durations.
    pub measure: Measure,
    /// The first instant; rounded down to the hour.
    pub from: Timestamp,
    /// The instant after the last; rounded up to the hour.
    pub to: Timestamp,
}

/// What a histogram measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// From claimable to claimed.
    Wait,
    /// The handler's run.
    Run,
}

/// A place in a list, in the storage's own terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub String);

/// Which jobs, and which page of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobQuery {
    /// In this state. Lists are by state, since each state has its own order.
    pub state: StateName,
    /// In this queue.
    pub queue: Option<Name>,
    /// Of this kind.
    pub kind: Option<Name>,
    /// With this tag.
    pub tag: Option<String>,
    /// Of this batch.
    pub batch: Option<BatchId>,
    /// Finished, or due, or submitted at or after.
    pub from: Option<Timestamp>,
    /// And before.
    pub to: Option<Timestamp>,
    /// Whose arguments or display name contain this; searched in a window, see
    /// [`JobPage::searched`].
    pub text: Option<String>,
    /// Whose last failure is of this group.
    pub error_group: Option<Fingerprint>,
    /// After this place.
    pub after: Option<Cursor>,
    /// At most this many, 1 to 200.
    pub limit: usize,
}

impl JobQuery {
    /// The first 50 in a state.
    pub fn new(state: StateName) -> Self {
        Self {
            state,
            queue: None,
            kind: None,
            tag: None,
            batch: None,
            from: None,
            to: None,
            text: None,
            error_group: None,
            after: None,
            limit: 50,
        }
    }
}

/// A page of jobs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobPage {
    /// The jobs; with a filter perhaps fewer than asked for, or none, though there is a next page.
    pub jobs: Vec<JobRecord>,
    /// Where the next page begins; `None` on the last.
    pub next: Option<Cursor>,
    /// How many match in all.
    pub count: Count,
    /// How many rows were looked at, where the search was bounded before the end.
    pub searched: Option<u64>,
}

/// A number, and how sure it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Count {
    /// Not counted.
    #[default]
    Unknown,
    /// Exactly.
    Exact(u64),
    /// This many and perhaps more.
    AtLeast(u64),
    /// About.
    About(u64),
}

/// A page of a job's relations.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RelationPage {
    /// Parents first, then children.
    pub relations: Vec<Relation>,
    /// Where the next page begins.
    pub next: Option<Cursor>,
}

/// An edge of a job, seen from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relation {
    /// What it waits or waited for.
    Parent {
        /// The parent.
        parent: Parent,
        /// On what.
        on: On,
        /// Whether the edge is decided.
        decided: bool,
        /// The parent's state, where it is a job that still exists.
        state: Option<StateName>,
    },
    /// What waits or waited for it.
    Child {
        /// The child.
        child: JobId,
        /// On what.
        on: On,
        /// Whether the edge is decided.
        decided: bool,
        /// The child's state, where it still exists.
        state: Option<StateName>,
    },
}

/// Which error groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorQuery {
    /// Seen at or after.
    pub since: Option<Timestamp>,
    /// Of jobs of this kind.
    pub kind: Option<Name>,
    /// This one alone.
    pub fingerprint: Option<Fingerprint>,
}

impl ErrorQuery {
    /// Whether it asks for this group.
    pub fn matches(&self, group: &ErrorGroup) -> bool {
        self.since.is_none_or(|since| group.last_seen_at >= since)
            && self.kind.as_ref().is_none_or(|kind| *kind == group.kind)
            && self.fingerprint.is_none_or(|it| it == group.fingerprint)
    }
}
