//! A job as it is kept: one JSON document, and the keys that lead to it.
//!
//! Serde describes core's own types from outside (`remote`): a field that core adds is an error of the
//! compiler here, and not one that is lost in silence.

use std::collections::BTreeSet;
use std::time::Duration;

use jobkit_core::edge::Edge;
use jobkit_core::failure::ErrorDetail;
use jobkit_core::limit::Limit;
use jobkit_core::record::{AttemptError, EdgeStatus, Extras, History, JobRecord, Progress};
use jobkit_core::state::{Hold, Reason, Start, State, StateName};
use jobkit_core::state_machine::JobHead;
use jobkit_core::unique::Unique;
use jobkit_core::{BatchId, Incarnation, JobId, Name, OperationId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::keys::{self, Key, table};

/// All that is kept of a job in one place.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    #[serde(with = "RecordDocument")]
    pub(crate) record: JobRecord,
    /// Of the content, by which a repeated submit is told from a conflict.
    pub(crate) digest: [u8; 16],
    pub(crate) history: History,
    pub(crate) parents: Vec<Condition>,
    pub(crate) progress: Vec<Progress>,
    /// The last change that was applied.
    pub(crate) operation: Option<OperationId>,
    /// Its order within the claim that holds it.
    pub(crate) ordinal: u32,
    /// How a limit let it go, until it is claimed.
    pub(crate) admitted: Option<Admitted>,
    /// It waits for its batch to start.
    pub(crate) waits_for_batch: bool,
    /// Its expiry has passed, but its batch still needs it.
    pub(crate) kept: bool,
    /// What is kept beside it could not be decoded.
    #[serde(skip)]
    pub(crate) unreadable: bool,
}

/// An edge to a parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Condition {
    pub(crate) edge: Edge,
    pub(crate) decided: bool,
}

impl From<&Condition> for EdgeStatus {
    fn from(condition: &Condition) -> Self {
        Self { edge: condition.edge, decided: condition.decided }
    }
}

/// A failed attempt, under the fence beside its job.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeptError {
    pub(crate) fence: u64,
    pub(crate) failures: u32,
    pub(crate) at: Timestamp,
    pub(crate) detail: ErrorDetail,
}

impl From<KeptError> for AttemptError {
    fn from(kept: KeptError) -> Self {
        let KeptError { fence, failures, at, detail } = kept;
        Self { fence, failures, at, detail }
    }
}

/// What let a job go that was parked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Admitted {
    pub(crate) limit: String,
    pub(crate) at: Timestamp,
    /// A live server would take it, so it takes room from others.
    pub(crate) live: bool,
}

// [guide: indexes]
impl Job {
    /// The keys under which a job in this state is found. Saving a job compares them with those of its
    /// last record, so that no index can disagree with the job.
    pub(crate) fn indexes(&self) -> BTreeSet<Key> {
        let record = &self.record;
        let place = record.sequence;
        let lane = |table: Key| table.lane(&record.queue, &record.kind).rank(record);
        let mut keys = BTreeSet::new();
        if let Some(batch) = record.batch {
            keys.insert(table("member").id(batch.as_bytes()).number(place));
        }
        match (&record.head.state, &record.parked_at, record.batch) {
            (State::Awaiting { .. }, _, Some(batch)) if self.waits_for_batch => {
                keys.insert(table("unreleased").id(batch.as_bytes()).number(place));
            }
            (State::Awaiting { .. }, ..) => {}
            (State::Scheduled { run_at }, ..) => {
                keys.insert(table("due").at(*run_at).number(place));
                keys.insert(table("scheduled").at(record.head.entered_at).number(place));
            }
            (State::Enqueued, Some(limit), _) => {
                keys.insert(lane(table("waiting").text(limit)));
            }
            (State::Enqueued, None, _) => {
                keys.insert(lane(table("ready")));
                keys.extend(self.admitted.iter().map(|it| lane(table("let-go").text(&it.limit))));
            }
            (State::Processing(hold), ..) => {
                keys.insert(table("held").at(hold.expires_at).number(place));
                let claim = table("lease").life(hold.incarnation).number(hold.claim_sequence);
                keys.insert(claim.number(u64::from(self.ordinal)).number(place));
                for limit in &record.limits {
                    let slots = table("slot").text(&limit.name);
                    keys.insert(slots.at(hold.claimed_at).number(place));
                }
            }
            (_, _, Some(batch)) if self.kept => {
                // Failed ones first: they end the wait for the success of their batch.
                let later = u8::from(record.state() != StateName::Failed);
                keys.insert(table("kept").id(batch.as_bytes()).byte(later).number(place));
            }
            (State::Succeeded | State::Failed | State::Deleted, ..) => {
                keys.extend(record.expires_at.map(|at| table("expires").at(at).number(place)));
            }
        }
        keys
    }
}
// [end]

impl Job {
    pub(crate) fn key(&self) -> Key {
        keys::job(self.record.sequence)
    }
}

/// [`JobRecord`], without what is kept beside it.
#[derive(Serialize, Deserialize)]
#[serde(remote = "JobRecord")]
struct RecordDocument {
    id: JobId,
    sequence: u64,
    kind: Name,
    queue: Name,
    priority: u8,
    #[serde(with = "HeadDocument")]
    head: JobHead,
    created_at: Timestamp,
    enqueued_at: Option<Timestamp>,
    claimed_at: Option<Timestamp>,
    duration: Option<Duration>,
    expires_at: Option<Timestamp>,
    start_by: Option<Timestamp>,
    parked_at: Option<String>,
    tags: Vec<String>,
    unique: Option<Unique>,
    limits: Vec<Limit>,
    batch: Option<BatchId>,
    parents: u32,
    #[serde(skip)]
    extras: Option<Box<Extras>>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "JobHead")]
struct HeadDocument {
    #[serde(with = "StateDocument")]
    state: State,
    reason: Reason,
    entered_at: Timestamp,
    fence: u64,
    failures: u32,
    crashes: u32,
    run: u32,
    version: u64,
    settled: Option<(u64, Incarnation)>,
    start: Start,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "State", rename_all = "snake_case")]
enum StateDocument {
    Awaiting { open: u32 },
    Scheduled { run_at: Timestamp },
    Enqueued,
    Processing(#[serde(with = "HoldDocument")] Hold),
    Succeeded,
    Failed,
    Deleted,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Hold")]
struct HoldDocument {
    server: Name,
    incarnation: Incarnation,
    claim_sequence: u64,
    claimed_at: Timestamp,
    expires_at: Timestamp,
    started: bool,
    cancel: Option<Reason>,
}
