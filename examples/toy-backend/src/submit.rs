//! Storing submissions: planned without writing anything, so that a refusal leaves no trace, then stored
//! in one go.

use std::collections::HashMap;

use jobkit_core::edge::Finish;
use jobkit_core::ids::{IdAge, id_age};
use jobkit_core::record::{History, HistoryEntry, JobRecord, NewRecord};
use jobkit_core::refusal::Refusal;
use jobkit_core::state::{Reason, State, StateName};
use jobkit_core::state_machine::{JobHead, new_head, new_unmeetable_head};
use jobkit_core::storage::{JobSubmitted, Submission, Submitted, check_start_by};
use jobkit_core::{JobId, Result, bounds};

use crate::fault::Fault;
use crate::keys::{self, beside};
use crate::record::{Condition, Job};
use crate::txn::Txn;
use crate::unique::PlannedKeys;

/// Refused, or what is to become of a thing; an error is another matter.
pub(crate) type Planned<T> = Result<std::result::Result<T, Refusal>>;

/// Goes on with what was planned, or ends with the refusal.
macro_rules! planned {
    ($plan:expr) => {
        match $plan? {
            Ok(planned) => planned,
            Err(refusal) => return Ok(Err(refusal)),
        }
    };
}
pub(crate) use planned;

/// What is to become of each job of a submission.
pub(crate) struct Plan {
    jobs: Vec<PlannedJob>,
    pub(crate) opens_batch: bool,
    /// The batch around it is being filled.
    pub(crate) waits_for_parent: bool,
    keys: PlannedKeys,
}

pub(crate) enum PlannedJob {
    Already,
    /// The holder of its key stands in its place.
    Existing(JobId),
    New(Box<New>),
}

pub(crate) struct New {
    pub(crate) head: JobHead,
    parents: Vec<Condition>,
    waits_for_batch: bool,
}

impl Txn<'_> {
    // [guide: submit]
    /// Stores one submission, or refuses it.
    pub(crate) fn submit_one(
        &mut self,
        submission: &Submission,
        reason: Reason,
    ) -> Result<Submitted> {
        match self.plan(submission, reason)? {
            Ok(plan) => self.store(submission, plan).map(Submitted::Created),
            Err(refusal) => Ok(Submitted::Refused(refusal)),
        }
    }
    // [end]

    fn plan(&mut self, submission: &Submission, reason: Reason) -> Planned<Plan> {
        if let Err(error) = submission.check()
            && !self.has(Fault::BoundsAreNotChecked)
        {
            return Ok(Err(error.into()));
        }
        if let Some(what) = not_offered(submission) {
            return Ok(Err(Refusal::Unsupported { what }));
        }
        let jobs = &submission.jobs;
        let (opens_batch, waits_for_parent) = planned!(self.plan_batch(submission));
        let opened = submission.batch.as_ref().filter(|_| opens_batch);
        let places: HashMap<JobId, usize> =
            jobs.iter().enumerate().map(|(place, job)| (job.id, place)).collect();
        let mut planned: Vec<Option<PlannedJob>> = jobs.iter().map(|_| None).collect();
        let mut keys = PlannedKeys::default();
        let order = match submission.parents_first() {
            Ok(order) => order,
            Err(error) => return Ok(Err(error.into())),
        };
        for i in order {
            let job = &jobs[i];
            if let Some(stored) = self.job_by_id(job.id)?
                && !self.has(Fault::SubmitOverwrites)
            {
                let args = self.tx.get(&beside(stored.record.sequence, "args")).unwrap_or_default();
                if stored.digest != job.content_digest()
                    && !job.is_content_of(&stored.record.kind, args)
                {
                    return Ok(Err(Refusal::IdConflict { job: job.id }));
                }
                planned[i] = Some(PlannedJob::Already);
                continue;
            }
            if let Err(refusal) = self.check_age(job.id) {
                return Ok(Err(refusal));
            }
            let waits_for_batch = planned!(self.waits_for_batch(job, opened, waits_for_parent));
            let within = |id: JobId| places.get(&id).and_then(|place| planned[*place].as_ref());
            let opens = opened.map(|batch| batch.id);
            let (parents, unmeetable) = planned!(self.plan_edges(job, &within, opens));
            let open = parents.iter().filter(|parent| !parent.decided).count();
            let open = u32::try_from(open).unwrap_or(u32::MAX) + u32::from(waits_for_batch);
            let head = if unmeetable {
                new_unmeetable_head(job.start, self.now)
            } else {
                new_head(job.start, open, waits_for_batch, reason, self.now)
            };
            if let State::Scheduled { run_at } = head.state
                && let Err(refusal) = check_start_by(job.start_by, run_at)
            {
                return Ok(Err(refusal));
            }
            if !unmeetable && let Some(holder) = planned!(self.plan_key(job, &mut keys)) {
                let new = |place: &&usize| matches!(planned[**place], Some(PlannedJob::New(_)));
                let other = places.get(&holder).filter(new).map(|place| &jobs[*place]);
                planned!(self.check_stand_in(job, holder, other, opened));
                planned[i] = Some(PlannedJob::Existing(holder));
                continue;
            }
            planned[i] = Some(PlannedJob::New(Box::new(New { head, parents, waits_for_batch })));
            if self.has(Fault::RefusedSubmissionLeavesJobs) && jobs.len() > 1 {
                let head = new_head(job.start, 0, false, reason, self.now);
                let new = New { head, parents: Vec::new(), waits_for_batch: false };
                self.insert(job, new, &keys)?;
            }
        }
        let jobs = planned.into_iter().flatten().collect();
        Ok(Ok(Plan { jobs, opens_batch, waits_for_parent, keys }))
    }

    // [guide: id-age]
    /// Ids are remembered for an hour after their job has finished: an older one may have been used.
    fn check_age(&self, job: JobId) -> std::result::Result<(), Refusal> {
        let (created_at, storage_now) = (job.created_at(), self.now);
        match (id_age(created_at, storage_now), created_at) {
            (IdAge::TooOld, Some(_)) if self.has(Fault::OldIdIsAccepted) => Ok(()),
            (IdAge::TooOld, Some(created_at)) => {
                Err(Refusal::IdTooOld { job, created_at, storage_now })
            }
            (IdAge::TooFarAhead, Some(_)) if self.has(Fault::FarIdIsAccepted) => Ok(()),
            (IdAge::TooFarAhead, Some(created_at)) => {
                Err(Refusal::IdTooFarAhead { job, created_at, storage_now })
            }
            _ => Ok(()),
        }
    }
    // [end]

    fn store(&mut self, submission: &Submission, plan: Plan) -> Result<Vec<JobSubmitted>> {
        self.budget = bounds::CHILDREN_IN_SETTLE;
        self.open_batch(submission, &plan)?;
        let mut answers = Vec::with_capacity(plan.jobs.len());
        for (job, planned) in submission.jobs.iter().zip(plan.jobs) {
            answers.push(match planned {
                PlannedJob::Already => JobSubmitted::Already(StateName::Enqueued),
                PlannedJob::Existing(holder) => JobSubmitted::Existing(holder),
                PlannedJob::New(new) => {
                    self.insert(job, *new, &plan.keys)?;
                    JobSubmitted::Created(StateName::Enqueued)
                }
            });
        }
        for holder in plan.keys.replaced() {
            if let Some(place) = self.find(holder) {
                self.give_up(place, Reason::Replaced)?;
            }
        }
        self.settle_down()?;
        // As they are now: decisions within the submission are made.
        for (job, answer) in submission.jobs.iter().zip(&mut answers) {
            if let JobSubmitted::Created(state) | JobSubmitted::Already(state) = answer
                && let Some(stored) = self.job_by_id(job.id)?
            {
                *state = stored.record.state();
            }
        }
        Ok(answers)
    }

    // [guide: insert]
    /// Writes a new job: its record, what is kept beside it, and all that leads to it.
    fn insert(&mut self, job: &NewRecord, new: New, keys: &PlannedKeys) -> Result<()> {
        let New { head, parents, waits_for_batch } = new;
        let now = self.now;
        let place = self.next("sequence");
        let state = head.state.name();
        let finish = Finish::of(state);
        let run_at = match head.state {
            State::Scheduled { run_at } => Some(run_at),
            _ => None,
        };
        let mut history = History::default();
        history.push(HistoryEntry {
            state,
            reason: head.reason,
            at: now,
            fence: None,
            server: None,
            duration: None,
            run_at,
            actor: None,
        });
        let mut limits = job.limits.clone();
        // In the order in which slots are taken.
        limits.sort();
        let record = JobRecord {
            id: job.id,
            sequence: place,
            kind: job.kind.clone(),
            queue: job.queue.clone(),
            priority: job.priority,
            head,
            created_at: now,
            enqueued_at: (state == StateName::Enqueued).then_some(now),
            claimed_at: None,
            duration: None,
            expires_at: finish.and_then(|_| job.retention().deleted.expires_at(now)),
            start_by: job.start_by,
            parked_at: None,
            tags: job.tags.clone(),
            unique: job.unique.clone(),
            limits,
            batch: job.batch,
            parents: u32::try_from(job.edges.len()).unwrap_or(u32::MAX),
            extras: job.extras.clone(),
        };
        let stored = Job {
            record,
            digest: job.content_digest(),
            history,
            parents,
            progress: Vec::new(),
            operation: None,
            ordinal: 0,
            admitted: None,
            waits_for_batch,
            kept: false,
            unreadable: false,
        };
        self.tx.put(keys::id(job.id), place.to_be_bytes());
        self.tx.put(beside(place, "args"), job.args.as_bytes());
        if let Some(extras) = &job.extras {
            self.put(beside(place, "extras"), extras)?;
        }
        self.save(&stored)?;
        self.add_edges(&stored);
        self.take_planned_key(job, keys)?;
        self.define_limits(job)?;
        self.attach(&stored)?;
        self.told.work |= state == StateName::Enqueued;
        if let Some(run_at) = run_at {
            self.due_at(run_at);
        }
        self.told.finished.extend(finish.map(|_| job.id));
        Ok(())
    }
    // [end]
}

/// What a submission asks for that this step of the guide does not offer yet.
fn not_offered(submission: &Submission) -> Option<&'static str> {
    let any = |asks: fn(&NewRecord) -> bool| submission.jobs.iter().any(asks);
    let batch = submission.batch.is_some() || any(|job| job.batch.is_some());
    [
        (cfg!(feature = "step-6"), any(|job| !job.edges.is_empty()), "edges"),
        (cfg!(feature = "step-7"), any(|job| job.unique.is_some()), "unique keys"),
        (cfg!(feature = "step-7"), any(|job| !job.limits.is_empty()), "limits"),
        (cfg!(feature = "step-8"), batch, "batches"),
    ]
    .into_iter()
    .find_map(|(offered, asked, what)| (asked && !offered).then_some(what))
}
