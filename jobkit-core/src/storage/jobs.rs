//! `JobStore`: what clients need.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::model::batch::NewBatch;
use crate::model::bounds;
use crate::model::clock::Timestamp;
use crate::model::edge::Parent;
use crate::model::error::{Error, Result};
use crate::model::ids::{JobId, OperationId};
use crate::model::name::Name;
use crate::model::record::{JobDetails, JobRecord, NewRecord, check_instant, check_tags};
use crate::model::refusal::Refusal;
use crate::model::state::{Keep, StateName};
use crate::model::state_machine::JobHead;
use crate::storage::call::Call;

/// Storing, reading and changing jobs.
///
/// **Contract: `submit`**
/// - **SUB-1** When it returns [`Submitted::Created`], every job of the submission is stored, in one
///   state, and visible to every connection (G1).
/// - **SUB-2** An id that is stored already changes nothing and answers
///   [`JobSubmitted::Already`]; with other content the submission is refused with
///   [`IdConflict`](Refusal::IdConflict). Content is the kind, and what the arguments mean: the order of
///   fields does not count ([`is_content_of`](NewRecord::is_content_of)) (G2).
/// - **SUB-3** A new id whose time is over an hour old or ten minutes ahead of the storage's clock is
///   refused, naming both clocks (G2).
/// - **SUB-4** A submission becomes visible wholly or not at all, and has one outcome; several in one
///   call do not disturb each other (G3).
/// - **SUB-5** Jobs of one submission may name each other as parents in any order; a parent that is
///   neither stored nor in the submission is refused with
///   [`ParentGone`](Refusal::ParentGone); a circle is refused with field `parents` (G8, G20).
/// - **SUB-6** A child of a parent that has finished already is decided in the submit: claimable,
///   scheduled, or stored as Deleted where its condition can no longer be met (G8).
/// - **SUB-7** A job with a later [`Start`](crate::model::state::Start) is Scheduled; `After` counts from the
///   storage's clock.
/// - **SUB-8** A unique key is taken in the same step. Held keys answer as
///   [`OnConflict`](crate::model::unique::OnConflict) says: the existing job stands in the new one's place,
///   edges included; or the submission is refused; or the holder is deleted, unless it runs (G11).
/// - **SUB-9** A batch is opened in the same step as its first members; with
///   [`Starts::AtOnce`](crate::model::batch::Starts) they may run at once, otherwise they await
///   [`start_batch`](crate::storage::BatchStore::start_batch) (G9).
/// - **SUB-10** A job that names an open or started batch is attached to it and counted in the same
///   step; a completed batch answers [`BatchFinished`](Refusal::BatchFinished), a cancelled one
///   [`BatchCancelled`](Refusal::BatchCancelled), a missing one
///   [`BatchGone`](Refusal::BatchGone) (G9).
/// - **SUB-11** The first submit that names a limit defines it; later ones do not change it. What it
///   defined may stay even if the submission is refused (G13).
/// - **SUB-12** Jobs of one queue and priority keep the order in which they were submitted, within a
///   submission and between submissions that did not overlap (G14).
/// - **SUB-13** What exceeds a bound is refused, naming the field, and nothing is stored (G20).
/// - **SUB-14** A batch is opened inside another that is open or runs, and counted there as one member in
///   the same step; a completed, cancelled or missing one answers as for jobs, and deeper than
///   [`BATCH_NESTING`](bounds::BATCH_NESTING) is refused with field `batch` (G9).
/// - **SUB-15** A key that is taken for a [period](crate::model::unique::Until::Period) is held until that has
///   passed, whatever becomes of its job: finished, deleted, gone. Then it is free, at that instant by
///   the storage's clock. One that was taken more than a minute ahead of the clock was so while the clock
///   was wrong, and is free. An existing job that is answered may have finished, or be gone: then edges to
///   it are refused with [`ParentGone`](Refusal::ParentGone). A replaced holder that has finished stays
///   as it is and loses the key (G11).
/// - **SUB-16** A job whose [`Start`](crate::model::state::Start) makes it Scheduled for an instant that is not
///   before its `start_by` is refused with field `start_by`: it could only be deleted (G20).
/// - **SUB-17** An existing job stands in the place of a new member only where the member's batch waits for
///   it, as a member of its own or of a batch inside that has not completed, or where there is nothing to
///   wait for: it has Succeeded, or is gone. Otherwise the submission is refused with
///   [`KeyHeldOutside`](Refusal::KeyHeldOutside), since the batch would end without it (G9, G11).
/// - **SUB-18** A submission that meets what a stranger's transaction holds, such as a key, a parent or its
///   batch, answers [`Submitted::Busy`] after a short wait at most. Nothing of it is stored, and its
///   neighbours are stored.
///
/// **Contract: `job`, `jobs`**
/// - **GET-1** They answer what was last committed, in the order asked; `None` for what does not
///   exist or was removed.
/// - **GET-2** `job` gives the arguments byte for byte, the result, the history as transitions were
///   applied, errors and edges (G17).
///
/// **Contract: `change_state`**
/// - **CHG-1** A change is applied as the state machine allows, or refused, and nothing changes.
/// - **CHG-2** A change whose guard does not fit is refused with [`Changed`](Refusal::Changed).
/// - **CHG-3** Repeating an operation id that was the job's last change answers
///   [`ChangeOutcome::AlreadyApplied`].
/// - **CHG-4** Deleting a running job marks it and answers [`ChangeOutcome::Cancelling`]; lease, slot,
///   key and batch membership stay until settle or rescue; success wins, anything else becomes
///   Deleted.
/// - **CHG-5** Deleting a waiting or finished job makes it Deleted, frees its key, and decides edges to
///   its children in the same step (G7, G8).
/// - **CHG-6** Requeue makes a finished job Enqueued, or Scheduled, with run + 1, failures and crashes
///   zero, the fence kept, the expiry cleared; it takes the unique key or answers
///   [`UniqueConflict`](Refusal::UniqueConflict); it reopens no edge (G8, G11).
/// - **CHG-7** Requeue of a member changes its batch's counts; of a cancelled batch it is refused (G9).
/// - **CHG-8** Run now makes Awaiting and Scheduled jobs claimable; later decisions of its edges have
///   no effect.
/// - **CHG-9** Reschedule moves Scheduled and Enqueued jobs to another instant.
/// - **CHG-10** Move changes queue or priority of a waiting job, which keeps its sequence.
/// - **CHG-11** A change of a missing job answers [`JobGone`](Refusal::JobGone).
/// - **CHG-12** Requeue of a job whose key is held for a period keeps the key as long as it would have
///   held it; if the period has passed it takes the key for another (G11).
/// - **CHG-13** Retag gives a waiting job other tags, by which lists find it in the same step.
/// - **CHG-14** `start_by` is over with the first claim, and with a requeue, which gives the job a run of
///   its own. Until then run now and reschedule to an instant that is not before it are refused with
///   field `start_by`, since the job would be deleted instead ([`Action::check_start_by`]).
/// - **CHG-15** A change of a job that a stranger's transaction holds answers [`ChangeOutcome::Busy`] after a
///   short wait at most and changes nothing; its neighbours are changed.
///
/// **Contract: `purge_expired`**
/// - **PUR-1** It removes finished jobs whose expiry has passed, with all that belongs to them, and
///   nothing else, at most `max` at a time (G19). Their sequences are not given again (G14).
/// - **PUR-2** A removed parent's open edges are decided as unmeetable, in the same step (G8).
/// - **PUR-3** Members are kept until the continuations of their batch have finished; the batch goes
///   after its last member, and what is nested before what is around it (G9). However many are kept,
///   in a bounded number of steps everything else goes (G19).
/// - **PUR-4** Before a Failed member goes, its batch cannot succeed any more, nor can those around it up
///   to one that has succeeded before: what waits for that is decided, and so is what is added later
///   (G8, G9).
/// - **PUR-5** It removes keys whose period has passed, in bounded steps, and says if there are more; a
///   job's record does not take the key with it (G11, G19).
/// - **PUR-6** Where [`max_finished`](crate::storage::Capabilities::max_finished) is a number, that
///   many jobs of each finished state stay, the newest: Succeeded, Failed and Deleted are counted apart, so that
///   successes never push out failures. Those that finished before them are removed, the oldest first,
///   as if they had expired, whatever their retention says: PUR-1 to PUR-4 hold for them. What a batch
///   still needs stays, pushes out nobody else, and is looked at again within a minute (G2, G19).
/// - **PUR-7** It leaves what a stranger's transaction holds, and removes what is beside it.
///
/// **Contract: `sweep`**
/// - **SWP-1** It completes durable marks in bounded steps, exactly once, also when two sweep at the
///   same time or one dies between two steps (G7).
/// - **SWP-2** It finds what slipped through: an open edge of a parent that has finished, a waiting job
///   at a limit that has room, however many limits there are (G8, G13, G21).
/// - **SWP-3** It discards a batch that was not started within an hour of the last attach to it or inside
///   it, with all its members (G9).
/// - **SWP-4** Without work it costs no scan, and says that nothing is left; waiters that nobody serves
///   are no work.
/// - **SWP-5** It folds what calls have counted and nobody has added up: statistics, which reads add up
///   themselves until then, and error groups, which reads may miss until then (MON-10). A storage may fold
///   at other times as well. Nothing is counted twice or lost on the way (G18).
/// - **SWP-6** It leaves a mark that meets what a stranger's transaction holds, and says that more is left.
#[async_trait]
pub trait JobStore {
    /// Stores submissions; one outcome each, in order.
    ///
    /// Core keeps one call within [`MAX_STEP_ITEMS`](bounds::MAX_STEP_ITEMS) submissions, fewer where
    /// [`step_items`](crate::storage::Capabilities::step_items) says so, and never splits one; submissions with unique keys come in calls of their own, so that a key held by a
    /// stranger's transaction delays nobody else.
    ///
    /// # Errors
    /// The whole call failed; see [`Error::applied`]. Repeating it makes no second job.
    async fn submit(&self, call: &Call, request: SubmitRequest<'_>) -> Result<Vec<Submitted>>;

    /// Everything known of one job.
    async fn job(&self, id: JobId) -> Result<Option<JobDetails>>;

    /// The records of several jobs, in the order asked.
    async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Option<JobRecord>>>;

    /// Changes jobs by the hand of a client or person; one outcome each, in order.
    async fn change_state(
        &self,
        call: &Call,
        request: ChangeRequest<'_>,
    ) -> Result<Vec<ChangeOutcome>>;

    /// Removes what has expired, in a bounded step.
    async fn purge_expired(&self, call: &Call, request: StepRequest) -> Result<Step>;

    /// Completes marks, in a bounded step.
    async fn sweep(&self, call: &Call, request: StepRequest) -> Result<Step>;
}

/// Submissions that share a round trip.
#[derive(Clone, Copy, Debug)]
pub struct SubmitRequest<'a> {
    /// Each is atomic by itself.
    pub submissions: &'a [Submission],
}

/// What becomes visible wholly or not at all: one job, a flow, a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Submission {
    /// The batch it opens.
    pub batch: Option<NewBatch>,
    /// The jobs. Members name the batch; continuations of the batch have an edge from it.
    pub jobs: Vec<NewRecord>,
}

impl Submission {
    /// One job.
    pub fn one(job: NewRecord) -> Self {
        Self { batch: None, jobs: vec![job] }
    }

    /// Several jobs, atomically.
    pub fn flow(jobs: Vec<NewRecord>) -> Self {
        Self { batch: None, jobs }
    }

    /// Whether it takes unique keys, so that it needs a call of its own kind.
    pub fn has_keys(&self) -> bool {
        self.jobs.iter().any(|job| job.unique.is_some())
    }

    /// Checks every bound, and that the jobs inside name each other without circles (G20).
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput), with the field and the reason.
    pub fn check(&self) -> Result<()> {
        if self.jobs.len() > bounds::SUBMISSION_JOBS {
            return Err(Error::invalid(
                "jobs",
                format_args!(
                    "has {} entries, where at most {} can be submitted atomically; use enqueue_many, or a batch",
                    self.jobs.len(),
                    bounds::SUBMISSION_JOBS
                ),
            ));
        }
        let size: usize = self.jobs.iter().map(NewRecord::size).sum();
        if size > bounds::SUBMISSION_BYTES {
            return Err(Error::invalid(
                "jobs",
                format_args!(
                    "hold {size} bytes, where at most {} can be submitted atomically; use enqueue_many, or a batch",
                    bounds::SUBMISSION_BYTES
                ),
            ));
        }
        let edges: usize = self.jobs.iter().map(|job| job.edges.len()).sum();
        if edges > bounds::SUBMISSION_EDGES {
            return Err(Error::invalid(
                "parents",
                format_args!(
                    "are named {edges} times, where at most {} are allowed in one submission; put the parents \
                     into a batch, and let the jobs wait for the batch",
                    bounds::SUBMISSION_EDGES
                ),
            ));
        }
        if self.jobs.is_empty() && self.batch.is_none() {
            return Err(Error::invalid("jobs", "is empty"));
        }
        if let Some(batch) = &self.batch {
            batch.check()?;
        }
        for job in &self.jobs {
            job.check()?;
        }
        if let [job] = &self.jobs[..] {
            return match job.edges.iter().any(|edge| edge.parent == Parent::Job(job.id)) {
                true => Err(Error::invalid("parents", "contain the job itself")),
                false => Ok(()),
            };
        }
        let mut ids = HashSet::with_capacity(self.jobs.len());
        if let Some(twice) = self.jobs.iter().find(|job| !ids.insert(job.id)) {
            return Err(Error::invalid("jobs", format_args!("contain the id {} twice", twice.id)));
        }
        self.parents_first().map(drop)
    }

    /// The places of the jobs, such that parents come before their children, and otherwise in the order
    /// given.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) with field `parents`, for a circle.
    pub fn parents_first(&self) -> Result<Vec<usize>> {
        let jobs = &self.jobs;
        if jobs.iter().all(|job| job.edges.is_empty()) {
            return Ok((0..jobs.len()).collect());
        }
        let places: HashMap<JobId, usize> =
            jobs.iter().enumerate().map(|(place, job)| (job.id, place)).collect();
        let mut open = vec![0_usize; jobs.len()];
        let mut children = vec![Vec::new(); jobs.len()];
        for (child, job) in jobs.iter().enumerate() {
            for edge in &job.edges {
                if let Parent::Job(parent) = edge.parent
                    && let Some(parent) = places.get(&parent)
                {
                    open[child] += 1;
                    children[*parent].push(child);
                }
            }
        }
        let mut free: BinaryHeap<Reverse<usize>> =
            (0..jobs.len()).filter(|job| open[*job] == 0).map(Reverse).collect();
        let mut order = Vec::with_capacity(jobs.len());
        while let Some(Reverse(job)) = free.pop() {
            order.push(job);
            for child in &children[job] {
                open[*child] -= 1;
                if open[*child] == 0 {
                    free.push(Reverse(*child));
                }
            }
        }
        if order.len() < jobs.len() {
            return Err(Error::invalid(
                "parents",
                "form a circle, so that none of its jobs could ever run",
            ));
        }
        Ok(order)
    }
}

/// The outcome of a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// It holds; one entry per job, in order.
    Created(Vec<JobSubmitted>),
    /// Nothing of it was stored.
    Refused(Refusal),
    /// Blocked by a stranger's lock; nothing of it was stored. Try it again alone.
    Busy,
}

/// The outcome of one job of a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobSubmitted {
    /// Stored now, in this state.
    Created(StateName),
    /// Stored before, with the same content.
    Already(StateName),
    /// Its unique key is held; that job stands in its place.
    Existing(JobId),
}

/// Changes that share a round trip.
#[derive(Clone, Copy, Debug)]
pub struct ChangeRequest<'a> {
    /// The changes.
    pub changes: &'a [Change],
    /// Who wants them, for the history and the audit; `None` for the application itself.
    pub actor: Option<&'a str>,
}

/// One change of one job.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// By which its repetition is recognised.
    pub operation: OperationId,
    /// The job.
    pub job: JobId,
    /// Only if the job is as it was seen.
    pub guard: Guard,
    /// What is wanted.
    pub action: Action,
}

/// How a job must be for a change to apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guard {
    /// However it is.
    #[default]
    None,
    /// In this state.
    State(StateName),
    /// In this version.
    Version(u64),
}

impl Guard {
    /// Whether a job is as it was seen.
    ///
    /// # Errors
    /// [`Changed`](Refusal::Changed), with its state and version now.
    pub fn check(self, head: &JobHead) -> Result<(), Refusal> {
        let (state, version) = (head.state.name(), head.version);
        let fits = match self {
            Self::None => true,
            Self::State(seen) => seen == state,
            Self::Version(seen) => seen == version,
        };
        if fits { Ok(()) } else { Err(Refusal::Changed { state, version }) }
    }
}

/// What a client or person wants of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Run it again, not before an instant.
    Requeue {
        /// At once if `None`.
        #[serde(default)]
        run_at: Option<Timestamp>,
    },
    /// Give it up; a running one is cancelled.
    Delete {
        /// How long it is kept, unless the job itself says otherwise.
        #[serde(default)]
        keep: Option<Keep>,
    },
    /// Run it at another instant.
    Reschedule {
        /// The instant.
        run_at: Timestamp,
    },
    /// Run it now.
    RunNow,
    /// Another queue or priority.
    Move {
        /// The queue, if it changes.
        #[serde(default)]
        queue: Option<Name>,
        /// The priority, if it changes.
        #[serde(default)]
        priority: Option<u8>,
    },
    /// Other tags.
    Retag {
        /// All of them.
        tags: Vec<String>,
    },
}

impl Action {
    /// Whether what it holds is within its bounds. Storages ask it once the guard fits.
    ///
    /// # Errors
    /// [`Invalid`](Refusal::Invalid), with the field.
    pub fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Requeue { run_at } => Ok(check_instant("run_at", *run_at)?),
            Self::Reschedule { run_at } => Ok(check_instant("run_at", Some(*run_at))?),
            Self::Retag { tags } => Ok(check_tags(tags)?),
            Self::Move { priority: Some(priority), .. } if *priority > bounds::MAX_PRIORITY => {
                Err(Refusal::Invalid {
                    field: "priority",
                    reason: format!(
                        "is {priority}, where 0 to {} are allowed",
                        bounds::MAX_PRIORITY
                    ),
                })
            }
            Self::Move { .. } | Self::Delete { .. } | Self::RunNow => Ok(()),
        }
    }

    /// Refuses to run a job at an instant at which it would be deleted instead, since it had to be
    /// started before (CHG-14). Storages ask it once the guard fits.
    ///
    /// # Errors
    /// [`Invalid`](Refusal::Invalid), with field `start_by`.
    pub fn check_start_by(
        &self,
        head: &JobHead,
        start_by: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        use StateName::{Awaiting, Enqueued, Scheduled};
        let run_at = match (self, head.state.name()) {
            (Self::RunNow, Awaiting | Scheduled) => now,
            (Self::Reschedule { run_at }, Scheduled | Enqueued) => (*run_at).max(now),
            _ => return Ok(()),
        };
        check_start_by(head.must_start_by(start_by), run_at)
    }
}

/// Refuses a start at an instant at which the job would be deleted instead (SUB-16, CHG-14).
///
/// # Errors
/// [`Invalid`](Refusal::Invalid), with field `start_by`.
pub fn check_start_by(start_by: Option<Timestamp>, run_at: Timestamp) -> Result<(), Refusal> {
    match start_by.filter(|by| *by <= run_at) {
        None => Ok(()),
        Some(by) => Err(Refusal::Invalid {
            field: "start_by",
            reason: format!(
                "is {by}, and the job would not start before {run_at}, so it would be deleted instead; \
                 choose an earlier start or a later `start_by`, or requeue the job once it is deleted"
            ),
        }),
    }
}

/// The outcome of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeOutcome {
    /// Applied: the state and version now.
    Changed {
        /// The state.
        state: StateName,
        /// The version.
        version: u64,
    },
    /// The job runs; its cancellation was requested.
    Cancelling,
    /// This operation was the job's last change.
    AlreadyApplied,
    /// Nothing changed.
    Refused(Refusal),
    /// Blocked by a stranger's lock; nothing changed. Try it again alone.
    Busy,
}

/// A bounded step of work that runs by itself.
#[derive(Clone, Copy, Debug)]
pub struct StepRequest {
    /// At most this many items; storages may do fewer.
    pub max: usize,
}

impl Default for StepRequest {
    /// 500 items.
    fn default() -> Self {
        Self { max: bounds::MAX_STEP_ITEMS }
    }
}

/// What a bounded step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// How many items it completed.
    pub done: usize,
    /// Whether more is waiting, so that the next step should follow at once.
    pub more: bool,
    /// When there is more to do at the earliest, where the storage knows.
    pub next_in: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::edge::{Edge, On};

    fn job() -> NewRecord {
        NewRecord::new(JobId::new(), Name::from_stored("k"), *b"{}")
    }

    fn after(parent: &NewRecord) -> Edge {
        Edge { parent: Parent::Job(parent.id), on: On::Success }
    }

    #[test]
    fn circles_are_refused_and_long_chains_are_not() {
        let mut jobs: Vec<_> = (0..bounds::SUBMISSION_JOBS).map(|_| job()).collect();
        for i in 1..jobs.len() {
            jobs[i].edges = vec![after(&jobs[i - 1])];
        }
        let mut flow = Submission::flow(jobs);
        flow.check().expect("a chain is fine");
        let last = after(&flow.jobs[999]);
        flow.jobs[0].edges.push(last);
        assert!(
            flow.check().expect_err("a circle").to_string().starts_with("parents: form a circle")
        );
    }

    #[test]
    fn a_submission_has_a_bound_of_edges() {
        let parents: Vec<_> = (0..bounds::PARENTS).map(|_| job()).collect();
        let mut child = job();
        child.edges = parents.iter().map(after).collect();
        let most = bounds::SUBMISSION_EDGES / bounds::PARENTS;
        let children = (0..most).map(|_| NewRecord { id: JobId::new(), ..child.clone() });
        let mut flow = Submission::flow(children.chain(parents.clone()).collect());
        flow.check().expect("as many as are allowed");
        flow.jobs.push(NewRecord { edges: vec![after(&parents[0])], ..job() });
        let error = flow.check().expect_err("one more");
        assert_eq!(error.field(), Some("parents"));
        assert!(error.to_string().contains("are named 5001 times"), "{error}");
    }

    #[test]
    fn parents_come_first_and_otherwise_the_order_given_stays() {
        let mut jobs: Vec<_> = (0..6).map(|_| job()).collect();
        let stranger = job();
        jobs[0].edges = vec![after(&jobs[4]), after(&jobs[2])];
        jobs[1].edges = vec![after(&stranger)];
        jobs[2].edges = vec![after(&jobs[3])];
        let order = Submission::flow(jobs.clone()).parents_first().expect("no circle");
        assert_eq!(order, [1, 3, 2, 4, 0, 5]);
        jobs[3].edges = vec![after(&jobs[0])];
        let error = Submission::flow(jobs).parents_first().expect_err("a circle");
        assert_eq!(error.field(), Some("parents"));
        assert_eq!(Submission::flow(vec![job(), job()]).parents_first().expect("none"), [0, 1]);
    }

    #[test]
    fn an_action_out_of_bounds_is_refused_with_its_field() {
        let far = Timestamp::from_micros(i64::MAX);
        for (action, field) in [
            (Action::Requeue { run_at: Some(far) }, "run_at"),
            (Action::Reschedule { run_at: far }, "run_at"),
            (Action::Retag { tags: vec![String::new()] }, "tags"),
            (Action::Move { queue: None, priority: Some(10) }, "priority"),
        ] {
            let refusal = action.check().expect_err("out of bounds");
            assert!(
                matches!(&refusal, Refusal::Invalid { field: of, .. } if *of == field),
                "{refusal:?}"
            );
        }
        Action::Move { queue: None, priority: Some(9) }.check().expect("within");
        Action::Requeue { run_at: None }.check().expect("within");
    }

    #[test]
    fn a_job_cannot_wait_for_itself_and_an_id_appears_once() {
        let mut one = job();
        one.edges = vec![after(&one)];
        assert!(Submission::one(one).check().is_err());
        let one = job();
        assert!(Submission::flow(vec![one.clone(), one]).check().is_err());
        assert!(Submission::default().check().is_err());
    }
}
