//! Storing submissions: what is decided about them. Their rows are written in [`rows`].

mod members;
pub(crate) mod prepared;
mod rows;

use std::collections::HashMap;

use jobkit_core::batch::NewBatch;
use jobkit_core::edge::{Decision, Edge, Finish, Parent};
use jobkit_core::ids::{IdAge, id_age};
use jobkit_core::record::NewRecord;
use jobkit_core::refusal::Refusal;
use jobkit_core::state::{Reason, State, StateName};
use jobkit_core::state_machine::{Event, JobHead, new_head, new_unmeetable_head};
use jobkit_core::storage::{JobSubmitted, Submission, Submitted, check_start_by};
use jobkit_core::unique::OnConflict;
use jobkit_core::{JobId, Timestamp, bounds};
use rusqlite::params;

use self::prepared::{PreparedJob, PreparedSubmission, id_bytes};
use super::finish::finish_step;
use super::read::{self, state_of};
use super::transition::{TransitionContext, transition};
use super::unique_keys;
use crate::batches::touched;
use crate::codec::job_row::CHILDREN;
use crate::codec::{bytes16, decided_number, on_number, parent_columns, size, state_at};
use crate::error::SqlResult;
use crate::limits::slots;
use crate::txn::marks::Budget;
use crate::txn::{Push, Txn};

/// What was decided about a new job before it is stored.
struct Evaluated {
    head: JobHead,
    /// Each edge in order, with its final parent and whether it is decided.
    edges: Vec<(Edge, bool)>,
}

/// What the unique keys of a submission mean for its jobs.
#[derive(Debug, Default)]
struct KeyOutcomes {
    /// Jobs that are not stored because another job holds their key, with that job.
    stand_ins: HashMap<JobId, JobId>,
    /// Holders of keys that are replaced.
    replaced: Vec<i64>,
}

pub(crate) fn submit(
    txn: &mut Txn<'_, '_>,
    submission: &PreparedSubmission,
    now: Timestamp,
) -> SqlResult<Submitted> {
    if let Some(refusal) = &submission.refused {
        return Ok(Submitted::Refused(refusal.clone()));
    }
    let stored = if submission.simple {
        submit_simple(txn, &submission.jobs, Reason::Submitted, now)?
    } else {
        // Names stay known after a rollback of this part, so they are stored before it.
        for job in &submission.jobs {
            txn.db.intern(&job.record.queue)?;
            txn.db.intern(&job.record.kind)?;
        }
        let savepoint = txn.savepoint()?;
        let stored = submit_all(
            txn,
            submission.batch.as_ref(),
            &submission.jobs,
            &submission.order,
            Reason::Submitted,
            now,
        )?;
        match &stored {
            Ok(_) => txn.release()?,
            Err(_) => txn.rollback_to(savepoint)?,
        }
        stored
    };
    Ok(match stored {
        Ok(jobs) => Submitted::Created(jobs),
        Err(refusal) => Submitted::Refused(refusal),
    })
}

/// Stores submissions, each on its own. Neighbours of one simple job each are inserted together.
pub(crate) fn submit_each(
    txn: &mut Txn<'_, '_>,
    submissions: &[PreparedSubmission],
    now: Timestamp,
) -> SqlResult<Vec<Submitted>> {
    let mut answers = Vec::with_capacity(submissions.len());
    let mut left = submissions;
    while let Some(first) = left.first() {
        let singles = left.iter().map_while(PreparedSubmission::single).collect::<Vec<_>>();
        if singles.len() < 2 {
            answers.push(submit(txn, first, now)?);
            left = &left[1..];
            continue;
        }
        left = &left[singles.len()..];
        submit_singles(txn, &singles, now, &mut answers)?;
    }
    Ok(answers)
}

/// Stores simple jobs that are independent of each other.
fn submit_singles(
    txn: &mut Txn<'_, '_>,
    jobs: &[&PreparedJob],
    now: Timestamp,
    answers: &mut Vec<Submitted>,
) -> SqlResult {
    let mut fresh = Vec::with_capacity(jobs.len());
    let mut refusals = Vec::with_capacity(jobs.len());
    for job in jobs {
        let refusal = refuse_age(txn, &job.record, now)?;
        if refusal.is_none() {
            fresh.push(*job);
        }
        refusals.push(refusal);
    }
    let mut rows = rows::insert_simple(txn, &fresh, Reason::Submitted, now)?.into_iter();
    for (job, refusal) in jobs.iter().zip(refusals) {
        if let Some(refusal) = refusal {
            answers.push(Submitted::Refused(refusal));
            continue;
        }
        let Some(new) = rows.next() else { break };
        if new.is_stored {
            count_new(txn, &job.record, new.state, new.reason, now);
            answers.push(Submitted::Created(vec![JobSubmitted::Created(new.state)]));
            continue;
        }
        let conflict = Refusal::IdConflict { job: job.record.id };
        answers.push(match already(txn, job)?.unwrap_or(Err(conflict)) {
            Ok(already) => Submitted::Created(vec![already]),
            Err(refusal) => Submitted::Refused(refusal),
        });
    }
    Ok(())
}

/// Stores a submission in a part that the caller may undo.
pub(crate) fn submit_nested(
    txn: &mut Txn<'_, '_>,
    submission: &PreparedSubmission,
    now: Timestamp,
) -> SqlResult<Result<Vec<JobSubmitted>, Refusal>> {
    if let Some(refusal) = &submission.refused {
        return Ok(Err(refusal.clone()));
    }
    submit_all(
        txn,
        submission.batch.as_ref(),
        &submission.jobs,
        &submission.order,
        Reason::Submitted,
        now,
    )
}

/// Stores one job of a schedule.
pub(crate) fn submit_one(
    txn: &mut Txn<'_, '_>,
    job: &NewRecord,
    now: Timestamp,
) -> SqlResult<Result<JobSubmitted, Refusal>> {
    if let Err(error) = Submission::one(job.clone()).check() {
        return Ok(Err(error.into()));
    }
    txn.db.intern(&job.queue)?;
    txn.db.intern(&job.kind)?;
    let savepoint = txn.savepoint()?;
    let stored = submit_all(txn, None, &[PreparedJob::new(job)], &[0], Reason::Recurring, now)?;
    Ok(match stored {
        Ok(jobs) => {
            txn.release()?;
            Ok(jobs[0])
        }
        Err(refusal) => {
            txn.rollback_to(savepoint)?;
            Err(refusal)
        }
    })
}

/// Stores jobs that need only a row each: no savepoint, and no query before the insert.
fn submit_simple(
    txn: &mut Txn<'_, '_>,
    jobs: &[PreparedJob],
    submitted: Reason,
    now: Timestamp,
) -> SqlResult<Result<Vec<JobSubmitted>, Refusal>> {
    for job in jobs {
        if let Some(refusal) = refuse_age(txn, &job.record, now)? {
            return Ok(Err(refusal));
        }
    }
    let inserted = rows::insert_simple(txn, &jobs.iter().collect::<Vec<_>>(), submitted, now)?;
    let mut answers = Vec::with_capacity(jobs.len());
    for (job, new) in jobs.iter().zip(&inserted) {
        if new.is_stored {
            answers.push(JobSubmitted::Created(new.state));
            continue;
        }
        match already(txn, job)? {
            Some(Ok(already)) => answers.push(already),
            other => {
                // The id has other content: remove what was stored of this submission.
                for new in inserted.iter().filter(|new| new.is_stored) {
                    rows::remove(txn, new.seq)?;
                }
                let conflict = Refusal::IdConflict { job: job.record.id };
                return Ok(Err(other.and_then(Result::err).unwrap_or(conflict)));
            }
        }
    }
    for (job, new) in jobs.iter().zip(&inserted).filter(|(_, new)| new.is_stored) {
        count_new(txn, &job.record, new.state, new.reason, now);
    }
    Ok(Ok(answers))
}

/// Counts a job that was stored, and notes its push.
fn count_new(
    txn: &mut Txn<'_, '_>,
    job: &NewRecord,
    state: StateName,
    reason: Reason,
    now: Timestamp,
) {
    txn.counters.delta(now).count(&job.queue, &job.kind, None, state, reason);
    match state {
        StateName::Enqueued => txn.work = true,
        StateName::Scheduled => {
            let at = job.start.run_at(now).unwrap_or(now);
            // Jobs of one call share a push for the earliest.
            match txn.pushes.last_mut() {
                Some(Push::Due(earlier)) => *earlier = at.min(*earlier),
                _ => txn.pushes.push(Push::Due(at)),
            }
        }
        _ => {}
    }
}

/// A new id must be of this hour; a stored one may be older.
fn refuse_age(txn: &Txn<'_, '_>, job: &NewRecord, now: Timestamp) -> SqlResult<Option<Refusal>> {
    let created_at = job.id.created_at();
    let age = id_age(created_at, now);
    let (Some(created_at), false) = (created_at, age == IdAge::Fine) else { return Ok(None) };
    let stored =
        txn.db.one("SELECT 1 FROM jk_job WHERE id = ?1", [id_bytes(&job.id)], |_| Ok(()))?;
    Ok(match (stored, age) {
        (Some(()), _) => None,
        (None, IdAge::TooFarAhead) => {
            Some(Refusal::IdTooFarAhead { job: job.id, created_at, storage_now: now })
        }
        (None, _) => Some(Refusal::IdTooOld { job: job.id, created_at, storage_now: now }),
    })
}

/// What is stored under the id of a new job.
fn already(
    txn: &Txn<'_, '_>,
    job: &PreparedJob,
) -> SqlResult<Option<Result<JobSubmitted, Refusal>>> {
    let stored = txn.db.one(
        "SELECT state, digest FROM jk_job WHERE id = ?1",
        [id_bytes(&job.record.id)],
        |row| Ok((row.get::<_, i64>(0)?, bytes16(row.get_ref(1)?.as_blob()?))),
    )?;
    let Some((state, digest)) = stored else { return Ok(None) };
    if digest == job.digest || is_same_content(txn, &job.record)? {
        return Ok(Some(Ok(JobSubmitted::Already(state_at(state)?))));
    }
    Ok(Some(Err(Refusal::IdConflict { job: job.record.id })))
}

/// Whether the stored job has the same content, written in another way. A job that cannot be read has
/// not.
fn is_same_content(txn: &Txn<'_, '_>, new: &NewRecord) -> SqlResult<bool> {
    match read::details(txn.db, new.id) {
        Ok(Some(stored)) => Ok(new.is_content_of(&stored.record.kind, &stored.args)),
        Ok(None) => Ok(false),
        Err(fault) if fault.is_corrupt_row() => Ok(false),
        Err(fault) => Err(fault),
    }
}

/// Stores any submission. The caller must undo what it has done when it is refused.
fn submit_all(
    txn: &mut Txn<'_, '_>,
    batch: Option<&NewBatch>,
    jobs: &[PreparedJob],
    order: &[usize],
    submitted: Reason,
    now: Timestamp,
) -> SqlResult<Result<Vec<JobSubmitted>, Refusal>> {
    if let Some(new) = batch {
        // A batch that exists was opened by the same submission, whose answer was lost.
        if touched::batch(txn, new.id)?.is_none() {
            if let Some(parent) = new.parent
                && let Some(refusal) = members::refuse_nested(txn, parent)?
            {
                return Ok(Err(refusal));
            }
            touched::open(txn, new, now)?;
        }
    }
    let mut answers = vec![None; jobs.len()];
    let mut keys = KeyOutcomes::default();
    // Sequences follow the given order, whatever order the parents demand.
    let seqs = jobs.iter().map(|_| txn.next_seq()).collect::<SqlResult<Vec<i64>>>()?;
    for &place in order {
        let job = &jobs[place];
        let answer = match submit_job(txn, seqs[place], job, &mut keys, submitted, now)? {
            Ok(answer) => answer,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if let JobSubmitted::Existing(holder) = answer {
            keys.stand_ins.insert(job.record.id, holder);
        }
        answers[place] = Some(answer);
    }
    // Only now, so that no edge from a replaced job is missed.
    for holder in keys.replaced {
        if let Some(mut holder) = read::load(txn.db, holder)?
            && !holder.state().is_finished()
        {
            // The state machine allows it for every waiting job.
            let _ = transition(
                txn,
                &mut holder,
                &Event::Delete(Reason::Replaced),
                &TransitionContext::at(now),
            )?;
        }
    }
    finish_step(txn, now, &mut Budget(bounds::CHILDREN_IN_SETTLE))?;
    let mut answers: Vec<JobSubmitted> = answers.into_iter().flatten().collect();
    // The end of the batch, or a key that was taken over, may have changed their states.
    for (job, answer) in jobs.iter().zip(&mut answers) {
        if let JobSubmitted::Created(state) | JobSubmitted::Already(state) = answer {
            *state = state_of(txn.db, job.record.id)?.unwrap_or(*state);
        }
    }
    Ok(Ok(answers))
}

fn submit_job(
    txn: &mut Txn<'_, '_>,
    seq: i64,
    job: &PreparedJob,
    keys: &mut KeyOutcomes,
    submitted: Reason,
    now: Timestamp,
) -> SqlResult<Result<JobSubmitted, Refusal>> {
    let record = &job.record;
    if let Some(already) = already(txn, job)? {
        return Ok(already);
    }
    if let Some(refusal) = refuse_age(txn, record, now)? {
        return Ok(Err(refusal));
    }
    if let Some(batch) = record.batch
        && let Some(refusal) = members::refuse_batch(txn, batch)?
    {
        return Ok(Err(refusal));
    }
    let evaluated = match evaluate_new(txn, record, &keys.stand_ins, submitted, now)? {
        Ok(evaluated) => evaluated,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let unmeetable = evaluated.head.state == State::Deleted;
    if let (Some(unique), false) = (&record.unique, unmeetable)
        && let Some((holder_seq, holder)) = unique_keys::holder(txn, &unique.hash().0, now)?
    {
        match unique.on_conflict {
            OnConflict::ReturnExisting => {
                return Ok(match members::refuse_stand_in(txn, record, holder)? {
                    Some(refusal) => Err(refusal),
                    None => Ok(JobSubmitted::Existing(holder)),
                });
            }
            OnConflict::Replace if state_of(txn.db, holder)? != Some(StateName::Processing) => {
                keys.replaced.push(holder_seq);
            }
            _ => return Ok(Err(Refusal::UniqueConflict { holder })),
        }
    }

    let (state, reason) = (evaluated.head.state.name(), evaluated.head.reason);
    if !rows::insert(txn, seq, job, &evaluated.head, now)? {
        return Ok(Err(Refusal::IdConflict { job: record.id }));
    }
    for (n, (edge, decided)) in evaluated.edges.iter().enumerate() {
        let (parent, batch) = parent_columns(&edge.parent);
        txn.db.run(
            "INSERT INTO jk_edge (child, n, parent, batch, cond, decided) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                seq,
                size(n),
                &parent[..],
                batch,
                on_number(edge.on),
                decided_number(*decided, unmeetable)
            ],
        )?;
        if let Parent::Job(parent) = edge.parent {
            txn.db.run(
                "UPDATE jk_job SET flags = flags | ?2 WHERE id = ?1 AND flags & ?2 = 0",
                params![id_bytes(&parent), CHILDREN],
            )?;
        }
    }
    if let (Some(unique), false) = (&record.unique, unmeetable) {
        unique_keys::take(txn, unique, seq, record.id, now)?;
    }
    for limit in &record.limits {
        slots::define_default(txn, limit)?;
    }
    if let Some(batch) = record.batch {
        touched::attach(txn, batch, Finish::of(state), now)?;
    }
    count_new(txn, record, state, reason, now);
    if unmeetable {
        txn.pushes.push(Push::Finished(record.id));
    }
    Ok(Ok(JobSubmitted::Created(state)))
}

/// How a new job begins: what its parents and its batch mean for it.
fn evaluate_new(
    txn: &mut Txn<'_, '_>,
    record: &NewRecord,
    stand_ins: &HashMap<JobId, JobId>,
    submitted: Reason,
    now: Timestamp,
) -> SqlResult<Result<Evaluated, Refusal>> {
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
            Parent::Job(id) => txn
                .db
                .one("SELECT state FROM jk_job WHERE id = ?1", [id_bytes(&id)], |row| {
                    row.get::<_, i64>(0)
                })?
                .map(state_at)
                .transpose()?
                .map(|state| Finish::of(state).map_or(Decision::Open, |f| edge.on.decide(f))),
            Parent::Batch(id) => touched::batch(txn, id)?.map(|batch| {
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
            touched::batch(txn, batch)?.is_some_and(|batch| batch.record.started_at.is_none())
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
    Ok(Ok(Evaluated { head, edges }))
}
