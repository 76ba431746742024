//! What the storage keeps: jobs by their place, and an index for each order they are looked for in.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use crate::model::batch::BatchRecord;
use crate::model::bounds;
use crate::model::clock::Timestamp;
use crate::model::edge::{Finish, On, Parent, Verdict};
use crate::model::ids::{BatchId, Incarnation, JobId, OperationId};
use crate::model::name::Name;
use crate::model::record::{
    AttemptError, EdgeStatus, History, JobRecord, Lease, Payload, Progress,
};
use crate::model::recurring::{Fired, Pause, RecurringRecord, RecurringRun};
use crate::model::state::{Reason, State, StateName};
use crate::storage::{LogLine, PauseTarget, ServerInfo, ServerOrder};

use super::keys::Keys;
use super::limit_row::{LimitRow, note_room_at};
use super::operations::OperatorState;
use super::planted::Planted;
use super::sleepers::Sleepers;
use super::statistics::Statistics;
use super::strangers::Strangers;

/// The sequence of a job: where its record is, and its locator.
pub(super) type Place = u64;
/// The order of claims in a queue: 9 − priority, then the sequence.
pub(super) type Rank = (u8, Place);

/// Everything, under the mutex.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// Ids are accepted whatever their time says.
    pub(super) any_id_age: bool,
    pub(super) planted: Option<Planted>,
    /// How many finished jobs of each state are kept.
    pub(super) max_finished: Option<u64>,
    /// Parents whose children are to be decided by the next call: a planted fault.
    pub(super) late: Vec<Ended>,
    /// The last sequence given.
    pub(super) sequence: u64,
    pub(super) ids: HashMap<JobId, Place>,
    pub(super) jobs: HashMap<Place, Box<Job>>,
    pub(super) queues: BTreeMap<Name, Queue>,
    pub(super) awaiting: BTreeSet<Place>,
    /// Scheduled jobs by instant.
    pub(super) due: BTreeSet<(Timestamp, Place)>,
    /// Leases by expiry.
    pub(super) held: BTreeSet<(Timestamp, Place)>,
    /// Leases by claim, as the list of Processing shows them.
    pub(super) processing: BTreeSet<(Timestamp, Place)>,
    /// Leases by life: claim, order within the claim, place.
    pub(super) leases: HashMap<Incarnation, BTreeSet<(u64, u32, Place)>>,
    /// Succeeded, Failed and Deleted jobs by the time they finished.
    pub(super) finished: [BTreeSet<(Timestamp, Place)>; 3],
    /// Finished jobs by expiry.
    pub(super) expires: BTreeSet<(Timestamp, Place)>,
    /// Those of each list that are beyond the number but had to stay.
    pub(super) passed: [Passed; 3],
    /// Scheduled jobs by when they became so: what lies ahead of the clock is set right.
    pub(super) scheduled: BTreeSet<(Timestamp, Place)>,
    pub(super) keys: Keys,
    pub(super) children: HashMap<Parent, Children>,
    pub(super) batches: BTreeMap<BatchId, Batch>,
    /// Batches that were not started, by their last attach.
    pub(super) open_batches: BTreeSet<(Timestamp, BatchId)>,
    /// Batches without members, by the time they may go.
    pub(super) empty_batches: BTreeSet<(Timestamp, BatchId)>,
    /// Batches whose members have expired before its continuations finished.
    pub(super) keeping_batches: BTreeSet<BatchId>,
    pub(super) limits: BTreeMap<String, LimitRow>,
    /// Limits at which jobs are parked.
    pub(super) full_limits: BTreeSet<String>,
    /// The limit behind which the next step of a sweep goes on.
    pub(super) swept_limit: Option<String>,
    /// The last instant of a start since waiters at rate limits were looked at, or of that look: an
    /// earlier one shows that the clock went back.
    pub(super) started_at: Option<Timestamp>,
    /// Rate limits at which jobs are parked, by the instant at which the first start is free again.
    pub(super) room_at: BTreeSet<(Timestamp, String)>,
    pub(super) marks: VecDeque<Mark>,
    pub(super) locks: HashMap<String, LockRow>,
    pub(super) servers: BTreeMap<Name, ServerRow>,
    pub(super) lives: HashMap<Incarnation, Name>,
    pub(super) pauses: BTreeMap<PauseTarget, Pause>,
    pub(super) schedules: BTreeMap<String, ScheduleRow>,
    /// The last nominal instants of schedules that were removed.
    pub(super) tombstones: HashMap<String, Tombstone>,
    /// The last etag given.
    pub(super) etag: u64,
    pub(super) stats: Statistics,
    pub(super) operator_state: OperatorState,
    /// Where claimers are told one by one: those who sleep.
    pub(super) sleepers: Option<Sleepers>,
    /// What strangers hold.
    pub(super) strangers: Strangers,
}

/// A stored job.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) record: JobRecord,
    pub(super) args: Payload,
    pub(super) digest: [u8; 16],
    pub(super) result: Option<Payload>,
    pub(super) history: History,
    pub(super) errors: VecDeque<AttemptError>,
    pub(super) edges: Vec<EdgeStatus>,
    pub(super) progress: Vec<Progress>,
    /// The last change that was applied.
    pub(super) operation: Option<OperationId>,
    /// How it was let go by a limit, until it is claimed.
    pub(super) admitted: Option<Admitted>,
    /// Its order within the claim that holds it.
    pub(super) ordinal: u32,
    /// Memos of the present run.
    pub(super) memos: HashMap<String, Payload>,
    pub(super) checkpoint: Option<Payload>,
    pub(super) logs: BTreeMap<u64, AttemptLog>,
    pub(super) unreadable: bool,
}

/// What let a job go that was parked.
#[derive(Clone, Debug)]
pub(super) struct Admitted {
    pub(super) limit: String,
    pub(super) at: Timestamp,
    /// Its lane was served, so that it takes room from others.
    pub(super) live: bool,
}

impl Job {
    pub(super) fn rank(&self) -> Rank {
        (bounds::MAX_PRIORITY - self.record.priority, self.record.sequence)
    }
}

/// The lines of one attempt.
#[derive(Debug, Default)]
pub(super) struct AttemptLog {
    pub(super) lines: VecDeque<LogLine>,
    /// Lines that were appended and are not kept any more.
    pub(super) evicted: u64,
    /// Lines that the server dropped before it sent them.
    pub(super) dropped: u64,
}

/// A queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// What can be claimed, by kind, so that nothing is walked that a claimer does not serve.
    pub(super) lanes: HashMap<Name, BTreeSet<Rank>>,
    /// All Enqueued jobs, those that are parked too.
    pub(super) enqueued: BTreeSet<Rank>,
    pub(super) scheduled: u64,
    pub(super) processing: u64,
}

/// The children of a job or batch.
#[derive(Debug, Default)]
pub(super) struct Children {
    /// All edges: the child, and which of its edges it is.
    pub(super) all: BTreeSet<(Place, usize)>,
    /// Undecided edges, by [`On`].
    pub(super) open: [BTreeSet<Place>; 3],
    /// Marks that are to decide some of them.
    pub(super) marks: usize,
}

impl Children {
    pub(super) fn is_open(&self) -> bool {
        self.open.iter().any(|edges| !edges.is_empty())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty() && self.marks == 0
    }
}

/// A batch.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) record: BatchRecord,
    pub(super) members: BTreeSet<Place>,
    /// The batches inside it.
    pub(super) nested: BTreeSet<BatchId>,
    /// How the batch around it counts it.
    pub(super) counted: Option<Finish>,
    /// It is filled, and waits for the batch around it to be started.
    pub(super) starts_with_parent: bool,
    /// Members that wait for the start.
    pub(super) unreleased: BTreeSet<Place>,
    /// Members whose expiry has passed, but which the batch still needs; Failed ones first, since they
    /// end the wait for its success.
    pub(super) kept: BTreeSet<(bool, Place)>,
}

/// The oldest finished jobs of a state, as far as each was beyond the number and had to stay.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Passed {
    pub(super) count: u64,
    /// The last of them.
    pub(super) last: (Timestamp, Place),
    /// When the first of them was passed: a minute later they are looked at again.
    pub(super) since: Timestamp,
}

/// Work that a step left to sweeps.
#[derive(Debug)]
pub(super) enum Mark {
    /// Edges to decide.
    Decide(Ended),
    /// Members to release, since their batch was started.
    Release(BatchId),
    /// Members to delete or to cancel, after this one.
    Cancel { batch: BatchId, reason: Reason, after: Place },
    /// Batches inside this one to start, after the one named.
    StartNested { batch: BatchId, after: Option<BatchId> },
    /// Batches inside this one to cancel, after the one named.
    CancelNested { batch: BatchId, reason: Reason, after: Option<BatchId> },
}

/// The end of a parent, as far as its edges were not decided in its step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) parent: Parent,
    pub(super) verdict: Verdict,
    /// The last sequence when it ended: children that came later wait for a later end.
    pub(super) through: Place,
}

/// A lock.
#[derive(Debug, Default)]
pub(super) struct LockRow {
    pub(super) generation: u64,
    pub(super) holder: Option<(Incarnation, Timestamp)>,
}

/// A server.
#[derive(Debug)]
pub(super) struct ServerRow {
    pub(super) info: ServerInfo,
    pub(super) heartbeat_at: Timestamp,
    pub(super) busy: u32,
    pub(super) last_claim: u64,
    pub(super) order: Option<ServerOrder>,
}

/// What is remembered of a schedule that was removed.
#[derive(Debug, Default)]
pub(super) struct Tombstone {
    pub(super) last_nominal_at: Option<Timestamp>,
    pub(super) fired: Fired,
    /// What was due when it was removed.
    pub(super) runs: VecDeque<RecurringRun>,
}

/// A schedule.
#[derive(Debug)]
pub(super) struct ScheduleRow {
    pub(super) record: RecurringRecord,
    /// Newest first.
    pub(super) runs: VecDeque<RecurringRun>,
}

/// The conditions, in the order of [`on_index`].
pub(super) const CONDITIONS: [On; 3] = [On::Any, On::Success, On::Failed];

/// What one call does beside its answer.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) now: Timestamp,
    /// Children that may still be decided in this step.
    pub(super) budget: usize,
    /// Parents whose edges are to be decided.
    pub(super) ended: VecDeque<Ended>,
    /// Batches whose counts changed.
    pub(super) batches: BTreeSet<BatchId>,
    /// Limits that may have room for those who wait at them.
    pub(super) limits: BTreeSet<String>,
    /// When sweeps are to look at limits again, since room that was given will not have been used.
    pub(super) look_again: Option<Timestamp>,
    /// Whether jobs became claimable.
    pub(super) claimable: bool,
    /// Which, where sleepers are told one by one.
    pub(super) places: Vec<Place>,
    /// Whether sweeps have something to do that they do not know of.
    pub(super) marks: bool,
    /// Whether it is a sweep itself.
    pub(super) sweeps: bool,
    pub(super) due: Option<Timestamp>,
    pub(super) finished: Vec<JobId>,
    pub(super) cancelled: Vec<JobId>,
}

impl Work {
    /// A job became claimable.
    pub(super) fn claimable(&mut self, place: Place) {
        self.claimable = true;
        self.places.push(place);
    }

    /// Something is to be done at an instant.
    pub(super) fn due_at(&mut self, at: Timestamp) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    pub(super) fn at(now: Timestamp) -> Self {
        Self {
            now,
            budget: bounds::CHILDREN_IN_SETTLE,
            ended: VecDeque::new(),
            batches: BTreeSet::new(),
            limits: BTreeSet::new(),
            look_again: None,
            claimable: false,
            places: Vec::new(),
            marks: false,
            sweeps: false,
            due: None,
            finished: Vec::new(),
            cancelled: Vec::new(),
        }
    }
}

impl Tables {
    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    pub(super) fn find(&self, id: JobId) -> Option<Place> {
        self.ids.get(&id).copied()
    }

    /// The place of a leased job: where the locator points, if that is the job.
    pub(super) fn find_leased(&self, lease: &Lease) -> Option<Place> {
        match self.jobs.get(&lease.locator.0) {
            Some(job) if job.record.id == lease.job => Some(lease.locator.0),
            _ => self.find(lease.job),
        }
    }

    /// The place of a job whose holder this is.
    pub(super) fn find_held(&self, lease: &Lease) -> Option<Place> {
        let place = self.find_leased(lease)?;
        self.job(place).record.head.is_held_by(lease.fence, lease.incarnation).then_some(place)
    }

    /// The job at a place that an index names.
    pub(super) fn job(&self, place: Place) -> &Job {
        &self.jobs[&place]
    }

    pub(super) fn job_mut(&mut self, place: Place) -> &mut Job {
        self.jobs.get_mut(&place).expect("an index names a stored job")
    }

    pub(super) fn batch_mut(&mut self, id: BatchId) -> &mut Batch {
        self.batches.get_mut(&id).expect("a batch is kept as long as its members")
    }

    pub(super) fn is_paused(&self, queue: &Name, kind: &Name, now: Timestamp) -> bool {
        let holds = |target| self.pauses.get(&target).is_some_and(|pause| pause.holds(now));
        !self.pauses.is_empty()
            && (holds(PauseTarget::Queue(queue.clone())) || holds(PauseTarget::Kind(kind.clone())))
    }

    /// Whether an announced server would claim what stands in a lane.
    pub(super) fn is_live(&self, queue: &Name, kind: &Name, now: Timestamp) -> bool {
        let serves =
            |row: &ServerRow| row.info.queues.contains(queue) && row.info.kinds.contains(kind);
        !self.is_paused(queue, kind, now) && self.servers.values().any(serves)
    }

    /// Enters a job into the indexes of its state.
    pub(super) fn index(&mut self, place: Place) {
        self.reindex(place, true);
    }

    /// Takes a job out of the indexes of its state.
    pub(super) fn unindex(&mut self, place: Place) {
        self.reindex(place, false);
    }

    fn reindex(&mut self, place: Place, enter: bool) {
        let Self { jobs, queues, batches, .. } = self;
        let job = &jobs[&place];
        let record = &job.record;
        let state = record.head.state.name();
        if !queues.contains_key(&record.queue) {
            queues.insert(record.queue.clone(), Queue::default());
        }
        let queue = queues.get_mut(&record.queue).expect("just made");
        match &record.head.state {
            State::Awaiting { .. } => set(&mut self.awaiting, place, enter),
            State::Scheduled { run_at } => {
                set(&mut self.due, (*run_at, place), enter);
                set(&mut self.scheduled, (record.head.entered_at, place), enter);
                step(&mut queue.scheduled, enter);
            }
            State::Enqueued => {
                set(&mut queue.enqueued, job.rank(), enter);
                match &record.parked_at {
                    Some(name) => {
                        let row = self.limits.get_mut(name).expect("jobs are parked at limits");
                        row.waiting.set(&record.queue, &record.kind, job.rank(), enter);
                        if row.waiting.is_empty() {
                            self.full_limits.remove(name);
                        } else if enter {
                            self.full_limits.insert(name.clone());
                        }
                        note_room_at(&mut self.room_at, name, row);
                    }
                    None => {
                        if let Some(row) =
                            job.admitted.as_ref().and_then(|it| self.limits.get_mut(&it.limit))
                        {
                            row.admitted.set(&record.queue, &record.kind, job.rank(), enter);
                        }
                        match queue.lanes.get_mut(&record.kind) {
                            Some(lane) => set(lane, job.rank(), enter),
                            None => {
                                let lane = BTreeSet::from([job.rank()]);
                                queue.lanes.insert(record.kind.clone(), lane);
                            }
                        }
                    }
                }
            }
            State::Processing(hold) => {
                set(&mut self.held, (hold.expires_at, place), enter);
                set(&mut self.processing, (hold.claimed_at, place), enter);
                step(&mut queue.processing, enter);
                let leases = self.leases.entry(hold.incarnation).or_default();
                set(leases, (hold.claim_sequence, job.ordinal, place), enter);
                if leases.is_empty() {
                    self.leases.remove(&hold.incarnation);
                }
            }
            State::Succeeded | State::Failed | State::Deleted => {
                let list = &mut self.finished[finished_list(state)];
                set(list, (record.head.entered_at, place), enter);
                if let Some(at) = record.expires_at {
                    set(&mut self.expires, (at, place), enter);
                }
                if !enter && let Some(batch) = record.batch.and_then(|id| batches.get_mut(&id)) {
                    batch.kept.remove(&(state != StateName::Failed, place));
                }
            }
        }
    }
}

/// The position of a finished state among the lists of finished jobs.
pub(super) fn finished_list(state: StateName) -> usize {
    state.index() - StateName::Succeeded.index()
}

/// The position of a condition among the open edges.
pub(super) fn on_index(on: On) -> usize {
    match on {
        On::Any => 0,
        On::Success => 1,
        On::Failed => 2,
    }
}

fn set<T: Ord>(index: &mut BTreeSet<T>, key: T, enter: bool) {
    if enter {
        index.insert(key);
    } else {
        index.remove(&key);
    }
}

fn step(count: &mut u64, enter: bool) {
    *count = if enter { *count + 1 } else { count.saturating_sub(1) };
}
