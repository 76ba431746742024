//! Storing submissions: planned without changing anything, so that a refusal leaves no trace, then
//! stored in one go.

use std::collections::{BTreeSet, HashMap, VecDeque};

use crate::model::batch::{BatchRecord, NewBatch, Starts};
use crate::model::bounds;
use crate::model::clock::Timestamp;
use crate::model::edge::{BatchCounts, Decision, Edge, Finish, Parent};
use crate::model::ids::{BatchId, IdAge, JobId, id_age};
use crate::model::record::{EdgeStatus, History, HistoryEntry, JobRecord, NewRecord};
use crate::model::refusal::Refusal;
use crate::model::state::{Reason, State, StateName};
use crate::model::state_machine::{JobHead, new_head, new_unmeetable_head};
use crate::model::unique::{KeyHash, OnConflict};
use crate::storage::{JobSubmitted, Submission, Submitted, check_start_by};

use super::limit_row::LimitRow;
use super::planted::Planted;
use super::state::{Batch, Job, Tables, Work, on_index};

/// What is to become of each job of a submission.
struct Plan {
    jobs: Vec<Planned>,
    opens_batch: bool,
    /// The batch around it is being filled.
    waits_for_parent: bool,
    /// Holders of keys that give way.
    replaced: Vec<JobId>,
}

enum Planned {
    Already,
    Existing(JobId),
    New(Box<New>),
}

struct New {
    head: JobHead,
    edges: Vec<EdgeStatus>,
    digest: [u8; 16],
    waits_for_batch: bool,
    takes_key: bool,
}

impl Tables {
    /// Stores one submission, or refuses it.
    pub(super) fn submit_one(
        &mut self,
        work: &mut Work,
        submission: &Submission,
        reason: Reason,
    ) -> Submitted {
        if self.is_submission_blocked(submission) {
            return Submitted::Busy;
        }
        match self.plan(work.now, submission, reason) {
            Ok(plan) => Submitted::Created(self.store(work, submission, plan)),
            Err(refusal) => Submitted::Refused(refusal),
        }
    }

    fn plan(
        &self,
        now: Timestamp,
        submission: &Submission,
        reason: Reason,
    ) -> Result<Plan, Refusal> {
        submission.check()?;
        let jobs = &submission.jobs;
        let opens = submission.batch.as_ref().filter(|new| !self.batches.contains_key(&new.id));
        let waits_for_parent = match opens.and_then(|new| new.parent) {
            Some(parent) => self.nestable(parent)?,
            None => false,
        };
        let places: HashMap<JobId, usize> =
            jobs.iter().enumerate().map(|(place, job)| (job.id, place)).collect();
        let mut planned: Vec<Option<Planned>> = jobs.iter().map(|_| None).collect();
        let mut keys: HashMap<KeyHash, JobId> = HashMap::new();
        let mut replaced = Vec::new();
        for i in submission.parents_first()? {
            let job = &jobs[i];
            let digest = job.content_digest();
            if let Some(place) = self.find(job.id) {
                let stored = self.job(place);
                if stored.digest != digest && !job.is_content_of(&stored.record.kind, &stored.args)
                {
                    return Err(Refusal::IdConflict { job: job.id });
                }
                planned[i] = Some(Planned::Already);
                continue;
            }
            if !self.any_id_age && !self.has(Planted::OldIdAcceptedAgain) {
                check_age(job.id, now)?;
            }
            let waits_for_batch = match job.batch {
                None => false,
                Some(id) => match opens.filter(|new| new.id == id) {
                    Some(new) => new.starts == Starts::WhenStarted || waits_for_parent,
                    None => self.attachable(id)?,
                },
            };
            let (edges, unmeetable) =
                self.plan_edges(job, &places, &planned, opens.map(|new| new.id))?;
            let open = edges.iter().filter(|edge| !edge.decided).count();
            let open = u32::try_from(open).unwrap_or(u32::MAX) + u32::from(waits_for_batch);
            let head = if unmeetable {
                new_unmeetable_head(job.start, now)
            } else {
                new_head(job.start, open, waits_for_batch, reason, now)
            };
            if let State::Scheduled { run_at } = head.state {
                check_start_by(job.start_by, run_at)?;
            }
            let unique = job.unique.as_ref().filter(|_| !unmeetable);
            if let Some(unique) = unique {
                let hash = unique.hash();
                if let Some(holder) =
                    keys.get(&hash).copied().or_else(|| self.keys.holder(&hash, now))
                {
                    match unique.on_conflict {
                        OnConflict::ReturnExisting => {
                            let new = keys.get(&hash).and_then(|holder| places.get(holder));
                            let other = new.map(|place| &jobs[*place]);
                            self.check_stand_in(job, holder, other, opens)?;
                            planned[i] = Some(Planned::Existing(holder));
                            continue;
                        }
                        OnConflict::Replace if !self.is_running(holder) => {
                            // One that held it for a period may be gone, and this be its id again.
                            let is_stored = keys.contains_key(&hash) || self.find(holder).is_some();
                            replaced.extend(is_stored.then_some(holder));
                        }
                        OnConflict::Reject | OnConflict::Replace => {
                            return Err(Refusal::UniqueConflict { holder });
                        }
                    }
                }
                keys.insert(hash, job.id);
            }
            let takes_key = unique.is_some();
            let new = New { head, edges, digest, waits_for_batch, takes_key };
            planned[i] = Some(Planned::New(Box::new(new)));
        }
        // Jobs are stored in another order than planned: of several with one key the last planned has
        // it, and the others gave way.
        for (job, planned) in jobs.iter().zip(&mut planned) {
            if let (Some(unique), Some(Planned::New(new))) = (&job.unique, planned) {
                new.takes_key &= keys.get(&unique.hash()) == Some(&job.id);
            }
        }
        let jobs = planned.into_iter().flatten().collect();
        Ok(Plan { jobs, opens_batch: opens.is_some(), waits_for_parent, replaced })
    }

    /// Whether a job attached to a stored batch has to wait for its start.
    fn attachable(&self, id: BatchId) -> Result<bool, Refusal> {
        let batch = self.batches.get(&id).ok_or(Refusal::BatchGone { batch: id })?;
        if self.is_cancelled(id) {
            return Err(Refusal::BatchCancelled { batch: id });
        }
        if batch.record.completed_at.is_some() {
            return Err(Refusal::BatchFinished { batch: id });
        }
        Ok(batch.record.started_at.is_none())
    }

    /// Refuses a holder of a new member's key for which its batch would not wait (SUB-17); `other` is
    /// the holder, where the submission brings it along.
    fn check_stand_in(
        &self,
        job: &NewRecord,
        holder: JobId,
        other: Option<&NewRecord>,
        opens: Option<&NewBatch>,
    ) -> Result<(), Refusal> {
        let Some(batch) = job.batch else { return Ok(()) };
        let of_holder = match (other, self.find(holder)) {
            (Some(new), _) => new.batch,
            // It held the key for a period, and its end is history: nothing is left to wait for.
            (None, None) => return Ok(()),
            (None, Some(place)) => {
                let record = &self.job(place).record;
                if record.state() == StateName::Succeeded {
                    return Ok(());
                }
                record.batch
            }
        };
        let waits = of_holder.is_some_and(|inner| {
            let opened = opens.filter(|new| new.id == inner);
            let stored = opened.map_or(Some(inner), |new| new.parent);
            let around = stored.into_iter().flat_map(|id| self.batches_around(id));
            inner == batch || BatchRecord::waits_for(batch, around)
        });
        if waits { Ok(()) } else { Err(Refusal::KeyHeldOutside { job: job.id, batch, holder }) }
    }

    /// Whether a batch opened inside a stored one has to wait for its start.
    fn nestable(&self, parent: BatchId) -> Result<bool, Refusal> {
        let waits = self.attachable(parent)?;
        if self.batches_around(parent).count() >= bounds::BATCH_NESTING {
            return Err(crate::model::batch::too_deep());
        }
        Ok(waits)
    }

    fn is_running(&self, id: JobId) -> bool {
        self.find(id).is_some_and(|place| self.job(place).record.state() == StateName::Processing)
    }

    /// The edges of a new job with what is decided already, and whether one can never be met.
    fn plan_edges(
        &self,
        job: &NewRecord,
        places: &HashMap<JobId, usize>,
        planned: &[Option<Planned>],
        opens: Option<BatchId>,
    ) -> Result<(Vec<EdgeStatus>, bool), Refusal> {
        let within = |id: JobId| places.get(&id).and_then(|place| planned[*place].as_ref());
        let mut edges: Vec<EdgeStatus> = Vec::with_capacity(job.edges.len());
        let mut unmeetable = false;
        for Edge { parent, on } in &job.edges {
            let parent = match *parent {
                Parent::Job(id) => match within(id) {
                    // The holder of its key stands in its place.
                    Some(Planned::Existing(holder)) => Parent::Job(*holder),
                    _ => *parent,
                },
                Parent::Batch(_) => *parent,
            };
            let edge = Edge { parent, on: *on };
            if edges.iter().any(|other| other.edge == edge) {
                continue;
            }
            let decision = match parent {
                Parent::Job(id) => match within(id) {
                    Some(Planned::New(new)) => on.decide_now(new.head.state.name()),
                    _ => match self.find(id) {
                        Some(place) => on.decide_now(self.job(place).record.state()),
                        None => return Err(Refusal::ParentGone { parent }),
                    },
                },
                // Its members are counted first; then it decides like any other.
                Parent::Batch(id) if opens == Some(id) => Decision::Open,
                Parent::Batch(id) => match self.batches.get(&id) {
                    Some(batch) => {
                        let completed = batch.record.completed_at.is_some();
                        on.decide_batch(completed, &batch.record.counts)
                    }
                    None => return Err(Refusal::ParentGone { parent }),
                },
            };
            let stored = matches!(parent, Parent::Job(id) if within(id).is_none());
            let decision = match self.has(Planted::ChildOfAFinishedParentStaysOpen) && stored {
                true => Decision::Open,
                false => decision,
            };
            unmeetable |= decision == Decision::Unmeetable;
            edges.push(EdgeStatus { edge, decided: decision != Decision::Open });
        }
        Ok((edges, unmeetable))
    }

    fn store(&mut self, work: &mut Work, submission: &Submission, plan: Plan) -> Vec<JobSubmitted> {
        work.budget = bounds::CHILDREN_IN_SETTLE;
        if let Some(new) = submission.batch.as_ref().filter(|_| plan.opens_batch) {
            let at_once = new.starts == Starts::AtOnce;
            let started_at = (at_once && !plan.waits_for_parent).then_some(work.now);
            if !at_once {
                self.open_batches.insert((work.now, new.id));
            }
            let record = BatchRecord {
                id: new.id,
                name: new.name.clone(),
                parent: new.parent,
                counts: BatchCounts::default(),
                created_at: work.now,
                attached_at: work.now,
                started_at,
                completed_at: None,
                succeeded_at: None,
                cancelled_at: None,
            };
            let batch = Batch {
                record,
                members: BTreeSet::new(),
                nested: BTreeSet::new(),
                counted: None,
                starts_with_parent: at_once && plan.waits_for_parent,
                unreleased: BTreeSet::new(),
                kept: BTreeSet::new(),
            };
            self.batches.insert(new.id, batch);
            work.batches.insert(new.id);
            if let Some(parent) = new.parent {
                let around = self.batch_mut(parent);
                around.nested.insert(new.id);
                around.record.counts.total += 1;
                self.touch_batches(work.now, parent);
            }
        }
        let mut answers = Vec::with_capacity(plan.jobs.len());
        for (job, planned) in submission.jobs.iter().zip(plan.jobs) {
            answers.push(match planned {
                Planned::Already => JobSubmitted::Already(StateName::Enqueued),
                Planned::Existing(holder) => JobSubmitted::Existing(holder),
                Planned::New(new) => {
                    self.insert(work, job, *new);
                    JobSubmitted::Created(StateName::Enqueued)
                }
            });
        }
        for holder in plan.replaced {
            if let Some(place) = self.find(holder) {
                self.give_up(work, place, Reason::Replaced);
            }
        }
        self.settle_down(work);
        for (job, answer) in submission.jobs.iter().zip(&mut answers) {
            if let JobSubmitted::Created(state) | JobSubmitted::Already(state) = answer
                && let Some(place) = self.find(job.id)
            {
                *state = self.job(place).record.state();
            }
        }
        answers
    }

    fn insert(&mut self, work: &mut Work, job: &NewRecord, new: New) {
        let New { head, edges, digest, waits_for_batch, takes_key } = new;
        let now = work.now;
        self.sequence += 1;
        let place = self.sequence;
        let state = head.state.name();
        let finish = Finish::of(state);
        for (n, status) in edges.iter().enumerate() {
            let children = self.children.entry(status.edge.parent).or_default();
            children.all.insert((place, n));
            if !status.decided && finish.is_none() {
                children.open[on_index(status.edge.on)].insert(place);
            }
        }
        if let Some(unique) = job.unique.as_ref().filter(|_| takes_key) {
            self.keys.take(unique, job.id, now);
        }
        for limit in &job.limits {
            if !self.limits.contains_key(&limit.name) {
                self.limits.insert(limit.name.clone(), LimitRow::new(limit, false));
            }
        }
        self.stats.tail(now).count(&job.queue, &job.kind, None, state, head.reason);
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
        let keep = job.retention().deleted;
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
            expires_at: finish.and_then(|_| keep.expires_at(now)),
            start_by: job.start_by,
            parked_at: None,
            tags: job.tags.clone(),
            unique: job.unique.clone(),
            limits: {
                let mut limits = job.limits.clone();
                // In the order in which slots are taken.
                limits.sort();
                limits
            },
            batch: job.batch,
            parents: u32::try_from(job.edges.len()).unwrap_or(u32::MAX),
            extras: job.extras.clone(),
        };
        let stored = Job {
            record,
            args: job.args.clone(),
            digest,
            result: None,
            history,
            errors: VecDeque::new(),
            edges,
            progress: Vec::new(),
            operation: None,
            admitted: None,
            ordinal: 0,
            memos: HashMap::new(),
            checkpoint: None,
            logs: std::collections::BTreeMap::new(),
            unreadable: false,
        };
        self.ids.insert(job.id, place);
        self.jobs.insert(place, Box::new(stored));
        self.index(place);
        if state == StateName::Enqueued {
            work.claimable(place);
        }
        if let Some(run_at) = run_at {
            work.due = Some(work.due.map_or(run_at, |due| due.min(run_at)));
        }
        if let Some(id) = job.batch {
            self.attach(work, place, id, waits_for_batch && state == StateName::Awaiting, finish);
        }
        if finish.is_some() {
            work.finished.push(job.id);
        }
    }

    fn attach(
        &mut self,
        work: &mut Work,
        place: u64,
        id: BatchId,
        waits: bool,
        finish: Option<Finish>,
    ) {
        let batch = self.batch_mut(id);
        batch.members.insert(place);
        if waits {
            batch.unreleased.insert(place);
        }
        batch.record.counts.total += 1;
        if let Some(finish) = finish {
            batch.record.counts.count(finish, 1);
        }
        self.touch_batches(work.now, id);
        work.batches.insert(id);
    }
}

fn check_age(job: JobId, storage_now: Timestamp) -> Result<(), Refusal> {
    let created_at = job.created_at();
    match (id_age(created_at, storage_now), created_at) {
        (IdAge::TooOld, Some(created_at)) => {
            Err(Refusal::IdTooOld { job, created_at, storage_now })
        }
        (IdAge::TooFarAhead, Some(created_at)) => {
            Err(Refusal::IdTooFarAhead { job, created_at, storage_now })
        }
        _ => Ok(()),
    }
}
