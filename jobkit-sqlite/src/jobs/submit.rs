//! Storing submissions: what is decided about them. Their rows are written in [`rows`].

mod members;
mod rows;

use std::collections::HashMap;

use jobkit_core::batch::NewBatch;
use jobkit_core::edge::{Decision, Edge, Finish, Parent};
use jobkit_core::ids::{IdAge, id_age};
use jobkit_core::record::NewRecord;
use jobkit_core::refusal::Refusal;
use jobkit_core::state::{Reason, Start, State, StateName};
use jobkit_core::state_machine::{Event, JobHead, new_head, new_unmeetable_head};
use jobkit_core::storage::{JobSubmitted, Submission, Submitted, check_start_by};
use jobkit_core::unique::OnConflict;
use jobkit_core::{JobId, Timestamp, bounds};
use rusqlite::params;

use super::state_of;
use super::transition::{Budget, Why};
use crate::codec::{CHILDREN, INLINE_BYTES, bytes16, on_number, size, state_at, to_json};
use crate::error::Done;
use crate::writer::{Flight, Push};

/// A submission with everything that can be computed before the writer has to wait for it.
#[derive(Debug)]
pub(crate) struct NewSubmission {
    batch: Option<NewBatch>,
    jobs: Vec<NewJob>,
    /// The places of the jobs, parents before their children.
    order: Vec<usize>,
    /// Nothing in it can be refused half-way but an id.
    plain: bool,
    refused: Option<Refusal>,
}

#[derive(Debug)]
pub(crate) struct NewJob {
    record: NewRecord,
    digest: [u8; 16],
    tags: Option<String>,
    unique: Option<String>,
    limits: Option<String>,
    extras: Option<String>,
}

impl NewSubmission {
    pub(crate) fn new(submission: &Submission) -> Self {
        let plain = submission.batch.is_none()
            && submission.jobs.iter().all(|job| {
                job.edges.is_empty()
                    // What has to start in time may be refused, as long as it is not stored.
                    && (job.start_by.is_none() || job.start == Start::Now)
                    && job.unique.is_none()
                    && job.limits.is_empty()
                    && job.batch.is_none()
            });
        Self {
            refused: submission.check().err().map(Refusal::from),
            batch: submission.batch.clone(),
            jobs: submission.jobs.iter().map(NewJob::new).collect(),
            // A circle is refused.
            order: submission.parents_first().unwrap_or_default(),
            plain,
        }
    }

    /// Whether it changes no job that exists.
    pub(crate) fn is_plain(&self) -> bool {
        self.plain
    }

    /// Its only job, if that needs nothing but a row.
    fn lone(&self) -> Option<&NewJob> {
        match (self.plain && self.refused.is_none(), self.jobs.as_slice()) {
            (true, [job]) => Some(job),
            _ => None,
        }
    }
}

impl NewJob {
    pub(crate) fn new(record: &NewRecord) -> Self {
        Self {
            digest: record.content_digest(),
            tags: (!record.tags.is_empty()).then(|| to_json(&record.tags)).flatten(),
            unique: record.unique.as_ref().and_then(to_json),
            limits: (!record.limits.is_empty()).then(|| to_json(&record.limits)).flatten(),
            extras: record.extras.as_ref().and_then(to_json),
            record: record.clone(),
        }
    }

    /// Whether both need nothing but a row, and the rows differ in place, id and arguments alone.
    fn is_like(&self, other: &Self) -> bool {
        let (mine, theirs) = (&self.record, &other.record);
        mine.kind == theirs.kind
            && mine.queue == theirs.queue
            && mine.priority == theirs.priority
            && mine.start == theirs.start
            && mine.start_by == theirs.start_by
            && self.extras == other.extras
            && self.tags == other.tags
            && mine.args.len() <= INLINE_BYTES
            && theirs.args.len() <= INLINE_BYTES
    }
}

/// What was decided about a new job before it is stored.
struct Plan {
    head: JobHead,
    /// Whether each edge is decided, in order, with the parent that it has in the end.
    edges: Vec<(Edge, bool)>,
}

/// What the jobs of a submission mean for each other.
#[derive(Debug, Default)]
struct Part {
    /// Jobs that are not stored, since another one holds their key.
    stand_ins: HashMap<JobId, JobId>,
    /// Holders of keys that give way.
    replaced: Vec<i64>,
}

impl Flight<'_, '_> {
    pub(crate) fn submit(&mut self, submission: &NewSubmission, now: Timestamp) -> Done<Submitted> {
        if let Some(refusal) = &submission.refused {
            return Ok(Submitted::Refused(refusal.clone()));
        }
        let stored = if submission.plain {
            self.submit_plain(&submission.jobs, Reason::Submitted, now)?
        } else {
            // Names are kept beyond a rollback of this part, so they are given before it.
            for job in &submission.jobs {
                self.db.intern(&job.record.queue)?;
                self.db.intern(&job.record.kind)?;
            }
            let saved = self.save()?;
            let stored = self.submit_all(
                submission.batch.as_ref(),
                &submission.jobs,
                &submission.order,
                Reason::Submitted,
                now,
            )?;
            match &stored {
                Ok(_) => self.release()?,
                Err(_) => self.restore(saved)?,
            }
            stored
        };
        Ok(match stored {
            Ok(jobs) => Submitted::Created(jobs),
            Err(refusal) => Submitted::Refused(refusal),
        })
    }

    /// Submissions, each on its own. Neighbours of one plain job each are inserted together.
    pub(crate) fn submit_each(
        &mut self,
        submissions: &[NewSubmission],
        now: Timestamp,
    ) -> Done<Vec<Submitted>> {
        let mut answers = Vec::with_capacity(submissions.len());
        let mut left = submissions;
        while let Some(first) = left.first() {
            let lone = left.iter().map_while(NewSubmission::lone).collect::<Vec<_>>();
            if lone.len() < 2 {
                answers.push(self.submit(first, now)?);
                left = &left[1..];
                continue;
            }
            left = &left[lone.len()..];
            self.submit_lone(&lone, now, &mut answers)?;
        }
        Ok(answers)
    }

    /// Plain jobs that know nothing of each other.
    fn submit_lone(
        &mut self,
        jobs: &[&NewJob],
        now: Timestamp,
        answers: &mut Vec<Submitted>,
    ) -> Done {
        let mut fresh = Vec::with_capacity(jobs.len());
        let mut refusals = Vec::with_capacity(jobs.len());
        for job in jobs {
            let refusal = self.refuse_age(&job.record, now)?;
            if refusal.is_none() {
                fresh.push(*job);
            }
            refusals.push(refusal);
        }
        let mut rows = self.insert_plain(&fresh, Reason::Submitted, now)?.into_iter();
        for (job, refusal) in jobs.iter().zip(refusals) {
            if let Some(refusal) = refusal {
                answers.push(Submitted::Refused(refusal));
                continue;
            }
            let Some(new) = rows.next() else { break };
            if new.is_stored {
                self.count_new(&job.record, new.state, new.reason, now);
                answers.push(Submitted::Created(vec![JobSubmitted::Created(new.state)]));
                continue;
            }
            let conflict = Refusal::IdConflict { job: job.record.id };
            answers.push(match self.already(job)?.unwrap_or(Err(conflict)) {
                Ok(already) => Submitted::Created(vec![already]),
                Err(refusal) => Submitted::Refused(refusal),
            });
        }
        Ok(())
    }

    /// A submission in a part that the caller may undo.
    pub(super) fn submit_inside(
        &mut self,
        submission: &NewSubmission,
        now: Timestamp,
    ) -> Done<Result<Vec<JobSubmitted>, Refusal>> {
        if let Some(refusal) = &submission.refused {
            return Ok(Err(refusal.clone()));
        }
        self.submit_all(
            submission.batch.as_ref(),
            &submission.jobs,
            &submission.order,
            Reason::Submitted,
            now,
        )
    }

    /// One job of a schedule.
    pub(crate) fn submit_one(
        &mut self,
        job: &NewRecord,
        now: Timestamp,
    ) -> Done<Result<JobSubmitted, Refusal>> {
        if let Err(error) = Submission::one(job.clone()).check() {
            return Ok(Err(error.into()));
        }
        self.db.intern(&job.queue)?;
        self.db.intern(&job.kind)?;
        let saved = self.save()?;
        let stored = self.submit_all(None, &[NewJob::new(job)], &[0], Reason::Recurring, now)?;
        Ok(match stored {
            Ok(jobs) => {
                self.release()?;
                Ok(jobs[0])
            }
            Err(refusal) => {
                self.restore(saved)?;
                Err(refusal)
            }
        })
    }

    /// Jobs that need nothing but a row each: no savepoint, no look before the insert.
    fn submit_plain(
        &mut self,
        jobs: &[NewJob],
        submitted: Reason,
        now: Timestamp,
    ) -> Done<Result<Vec<JobSubmitted>, Refusal>> {
        for job in jobs {
            if let Some(refusal) = self.refuse_age(&job.record, now)? {
                return Ok(Err(refusal));
            }
        }
        let inserted = self.insert_plain(&jobs.iter().collect::<Vec<_>>(), submitted, now)?;
        let mut answers = Vec::with_capacity(jobs.len());
        for (job, new) in jobs.iter().zip(&inserted) {
            if new.is_stored {
                answers.push(JobSubmitted::Created(new.state));
                continue;
            }
            match self.already(job)? {
                Some(Ok(already)) => answers.push(already),
                other => {
                    // The id has other content: take back what was stored of this submission.
                    for new in inserted.iter().filter(|new| new.is_stored) {
                        self.remove_new(new.seq)?;
                    }
                    let conflict = Refusal::IdConflict { job: job.record.id };
                    return Ok(Err(other.and_then(Result::err).unwrap_or(conflict)));
                }
            }
        }
        for (job, new) in jobs.iter().zip(&inserted).filter(|(_, new)| new.is_stored) {
            self.count_new(&job.record, new.state, new.reason, now);
        }
        Ok(Ok(answers))
    }

    /// Statistics and pushes of a job that was stored.
    fn count_new(&mut self, job: &NewRecord, state: StateName, reason: Reason, now: Timestamp) {
        self.delta(now).count(&job.queue, &job.kind, None, state, reason);
        match state {
            StateName::Enqueued => self.work = true,
            StateName::Scheduled => {
                let at = job.start.run_at(now).unwrap_or(now);
                // Many of one call are told of by their earliest.
                match self.pushes.last_mut() {
                    Some(Push::Due(earlier)) => *earlier = at.min(*earlier),
                    _ => self.pushes.push(Push::Due(at)),
                }
            }
            _ => {}
        }
    }

    /// A new id must be of this hour; a stored one may be older.
    fn refuse_age(&self, job: &NewRecord, now: Timestamp) -> Done<Option<Refusal>> {
        let created_at = job.id.created_at();
        let age = id_age(created_at, now);
        let (Some(created_at), false) = (created_at, age == IdAge::Fine) else { return Ok(None) };
        let stored =
            self.db.one("SELECT 1 FROM jk_job WHERE id = ?1", [id_bytes(&job.id)], |_| Ok(()))?;
        Ok(match (stored, age) {
            (Some(()), _) => None,
            (None, IdAge::TooFarAhead) => {
                Some(Refusal::IdTooFarAhead { job: job.id, created_at, storage_now: now })
            }
            (None, _) => Some(Refusal::IdTooOld { job: job.id, created_at, storage_now: now }),
        })
    }

    /// What is stored under the id of a new job.
    fn already(&self, job: &NewJob) -> Done<Option<Result<JobSubmitted, Refusal>>> {
        let stored = self.db.one(
            "SELECT state, digest FROM jk_job WHERE id = ?1",
            [id_bytes(&job.record.id)],
            |row| Ok((row.get::<_, i64>(0)?, bytes16(row.get_ref(1)?.as_blob()?))),
        )?;
        let Some((state, digest)) = stored else { return Ok(None) };
        if digest == job.digest || self.is_same_content(&job.record)? {
            return Ok(Some(Ok(JobSubmitted::Already(state_at(state)?))));
        }
        Ok(Some(Err(Refusal::IdConflict { job: job.record.id })))
    }

    /// Whether what is stored under an id means the same, though it is written in another way. What cannot
    /// be read does not.
    fn is_same_content(&self, new: &NewRecord) -> Done<bool> {
        match crate::jobs::details(self.db, new.id) {
            Ok(Some(stored)) => Ok(new.is_content_of(&stored.record.kind, &stored.args)),
            Ok(None) => Ok(false),
            Err(fault) if fault.is_damage() => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Any submission. What it has done when it is refused must be undone by the caller.
    fn submit_all(
        &mut self,
        batch: Option<&NewBatch>,
        jobs: &[NewJob],
        order: &[usize],
        submitted: Reason,
        now: Timestamp,
    ) -> Done<Result<Vec<JobSubmitted>, Refusal>> {
        if let Some(new) = batch {
            // One that exists was opened by the same submission, whose answer was lost.
            if self.batch(new.id)?.is_none() {
                if let Some(parent) = new.parent
                    && let Some(refusal) = self.refuse_nested(parent)?
                {
                    return Ok(Err(refusal));
                }
                self.open_batch(new, now)?;
            }
        }
        let mut answers = vec![None; jobs.len()];
        let mut part = Part::default();
        // Places in line follow the order given, whatever the order in which parents demand it.
        let seqs = jobs.iter().map(|_| self.next_seq()).collect::<Done<Vec<i64>>>()?;
        for &place in order {
            let job = &jobs[place];
            let answer = match self.submit_job(seqs[place], job, &mut part, submitted, now)? {
                Ok(answer) => answer,
                Err(refusal) => return Ok(Err(refusal)),
            };
            if let JobSubmitted::Existing(holder) = answer {
                part.stand_ins.insert(job.record.id, holder);
            }
            answers[place] = Some(answer);
        }
        // Only now, so that no edge from one of them is missed.
        for holder in part.replaced {
            if let Some(mut holder) = self.load(holder)?
                && !holder.state().is_finished()
            {
                // The state machine allows it for every waiting job.
                let _ = self.step(&mut holder, &Event::Delete(Reason::Replaced), &Why::at(now))?;
            }
        }
        self.cascade(now, &mut Budget(bounds::CHILDREN_IN_SETTLE))?;
        let mut answers: Vec<JobSubmitted> = answers.into_iter().flatten().collect();
        // The end of the batch, or a key that was taken over, may have moved them on.
        for (job, answer) in jobs.iter().zip(&mut answers) {
            if let JobSubmitted::Created(state) | JobSubmitted::Already(state) = answer {
                *state = state_of(self.db, job.record.id)?.unwrap_or(*state);
            }
        }
        Ok(Ok(answers))
    }

    fn submit_job(
        &mut self,
        seq: i64,
        job: &NewJob,
        part: &mut Part,
        submitted: Reason,
        now: Timestamp,
    ) -> Done<Result<JobSubmitted, Refusal>> {
        let record = &job.record;
        if let Some(already) = self.already(job)? {
            return Ok(already);
        }
        if let Some(refusal) = self.refuse_age(record, now)? {
            return Ok(Err(refusal));
        }
        if let Some(batch) = record.batch
            && let Some(refusal) = self.refuse_batch(batch)?
        {
            return Ok(Err(refusal));
        }
        let plan = match self.plan_new(record, &part.stand_ins, submitted, now)? {
            Ok(plan) => plan,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let unmeetable = plan.head.state == State::Deleted;
        if let (Some(unique), false) = (&record.unique, unmeetable)
            && let Some((holder_seq, holder)) = self.key_holder(&unique.hash().0, now)?
        {
            match unique.on_conflict {
                OnConflict::ReturnExisting => {
                    return Ok(match self.refuse_stand_in(record, holder)? {
                        Some(refusal) => Err(refusal),
                        None => Ok(JobSubmitted::Existing(holder)),
                    });
                }
                OnConflict::Replace
                    if state_of(self.db, holder)? != Some(StateName::Processing) =>
                {
                    part.replaced.push(holder_seq);
                }
                _ => return Ok(Err(Refusal::UniqueConflict { holder })),
            }
        }

        let (state, reason) = (plan.head.state.name(), plan.head.reason);
        if !self.insert(seq, job, &plan.head, now)? {
            return Ok(Err(Refusal::IdConflict { job: record.id }));
        }
        for (n, (edge, decided)) in plan.edges.iter().enumerate() {
            let (parent, batch) = match &edge.parent {
                Parent::Job(id) => (id.as_bytes(), 0),
                Parent::Batch(id) => (id.as_bytes(), 1),
            };
            self.db.run(
                "INSERT INTO jk_edge (child, n, parent, batch, cond, decided) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    seq,
                    size(n),
                    &parent[..],
                    batch,
                    on_number(edge.on),
                    match (decided, unmeetable) {
                        (true, _) => 1,
                        (false, false) => 0,
                        // The job is given up, whatever becomes of this parent.
                        (false, true) => 2,
                    }
                ],
            )?;
            if let Parent::Job(parent) = edge.parent {
                self.db.run(
                    "UPDATE jk_job SET flags = flags | ?2 WHERE id = ?1 AND flags & ?2 = 0",
                    params![id_bytes(&parent), CHILDREN],
                )?;
            }
        }
        if let (Some(unique), false) = (&record.unique, unmeetable) {
            self.take_key(unique, seq, record.id, now)?;
        }
        for limit in &record.limits {
            self.define_default(limit)?;
        }
        if let Some(batch) = record.batch {
            self.attach(batch, Finish::of(state), now)?;
        }
        self.count_new(record, state, reason, now);
        if unmeetable {
            self.pushes.push(Push::Finished(record.id));
        }
        Ok(Ok(JobSubmitted::Created(state)))
    }

    /// How a new job begins: what its parents and its batch mean for it.
    fn plan_new(
        &mut self,
        record: &NewRecord,
        stand_ins: &HashMap<JobId, JobId>,
        submitted: Reason,
        now: Timestamp,
    ) -> Done<Result<Plan, Refusal>> {
        let mut edges = Vec::with_capacity(record.edges.len());
        let (mut open, mut unmeetable) = (0_u32, false);
        for edge in &record.edges {
            let parent = match edge.parent {
                Parent::Job(id) => Parent::Job(*stand_ins.get(&id).unwrap_or(&id)),
                batch @ Parent::Batch(_) => batch,
            };
            let edge = Edge { parent, on: edge.on };
            // Two jobs may have the same stand-in.
            if edges.iter().any(|(other, _)| *other == edge) {
                continue;
            }
            let decision = match parent {
                Parent::Job(id) => self
                    .db
                    .one("SELECT state FROM jk_job WHERE id = ?1", [id_bytes(&id)], |row| {
                        row.get::<_, i64>(0)
                    })?
                    .map(state_at)
                    .transpose()?
                    .map(|state| Finish::of(state).map_or(Decision::Open, |f| edge.on.decide(f))),
                Parent::Batch(id) => self.batch(id)?.map(|batch| {
                    edge.on.decide_batch(batch.record.completed_at.is_some(), &batch.record.counts)
                }),
            };
            match decision {
                None => return Ok(Err(Refusal::ParentGone { parent })),
                Some(Decision::Open) => open += 1,
                Some(Decision::Met) => {}
                Some(Decision::Unmeetable) => unmeetable = true,
            }
            edges.push((edge, decision != Some(Decision::Open)));
        }
        let waits_for_batch = match record.batch {
            Some(batch) => {
                self.batch(batch)?.is_some_and(|batch| batch.record.started_at.is_none())
            }
            None => false,
        };
        let head = if unmeetable {
            new_unmeetable_head(record.start, now)
        } else {
            let open = open + u32::from(waits_for_batch);
            new_head(record.start, open, waits_for_batch, submitted, now)
        };
        if let State::Scheduled { run_at } = head.state
            && let Err(refusal) = check_start_by(record.start_by, run_at)
        {
            return Ok(Err(refusal));
        }
        Ok(Ok(Plan { head, edges }))
    }
}

fn id_bytes(id: &JobId) -> &[u8] {
    &id.as_bytes()[..]
}
