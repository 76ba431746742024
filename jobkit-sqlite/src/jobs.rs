//! `JobStore`.

pub(crate) mod alike;
mod edit;
pub(crate) mod purge;
pub(crate) mod submit;
pub(crate) mod transition;

use async_trait::async_trait;
use jobkit_core::edge::{Edge, Parent};
use jobkit_core::record::{
    AttemptError, EdgeStatus, JobDetails, JobRecord, Payload, Progress, retention_of_deleted,
};
use jobkit_core::refusal::Refusal;
use jobkit_core::state::{Reason, StateName};
use jobkit_core::state_machine::{Event, Forbidden};
use jobkit_core::storage::{
    Action, Change, ChangeOutcome, ChangeRequest, JobStore, Step, StepRequest, SubmitRequest,
    Submitted, check_items,
};
use jobkit_core::{BatchId, Error, JobId, OperationId, Result, Timestamp, bounds};
use rusqlite::params;

use self::submit::NewSubmission;
use self::transition::{Budget, Why};
use crate::codec::{
    Job, MORE, RESULT_ASIDE, args_aside, at, bytes16, json, on_at, payload, result_aside,
    select_job, small, uint,
};
use crate::connection::Db;
use crate::error::{Done, tell_of_damage};
use crate::storage::SqliteStorage;
use crate::writer::Flight;

#[async_trait]
impl JobStore for SqliteStorage {
    async fn submit(&self, request: SubmitRequest<'_>) -> Result<Vec<Submitted>> {
        check_items("submissions", request.submissions.len())?;
        let submissions: Vec<_> = request.submissions.iter().map(NewSubmission::new).collect();
        let now = request.now;
        // What is not plain may change jobs that run: parents, holders of keys, members of batches.
        let plain = submissions.iter().all(NewSubmission::is_plain);
        let is_lone = submissions.len() == 1;
        let work = move |flight: &mut Flight<'_, '_>| {
            let now = flight.now(now);
            flight.submit_each(&submissions, now)
        };
        match (plain, is_lone) {
            (true, true) => self.writer().call_lone("submit", work).await,
            (true, false) => self.writer().call_hot("submit", work).await,
            (false, _) => self.writer().call("submit", work).await,
        }
    }

    async fn job(&self, id: JobId) -> Result<Option<JobDetails>> {
        self.read("job", move |db| details(db, id)).await
    }

    async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Option<JobRecord>>> {
        let ids = ids.to_vec();
        self.read("jobs", move |db| ids.iter().map(|id| record(db, *id)).collect()).await
    }

    async fn change_state(&self, request: ChangeRequest<'_>) -> Result<Vec<ChangeOutcome>> {
        check_items("changes", request.changes.len())?;
        let changes = request.changes.to_vec();
        let actor = request.actor.map(str::to_owned);
        let now = request.now;
        self.writer()
            .call("change_state", move |flight| {
                let now = flight.now(now);
                let actor = actor.as_deref();
                changes.iter().map(|change| flight.change(change, actor, now)).collect()
            })
            .await
    }

    async fn purge_expired(&self, request: StepRequest) -> Result<Step> {
        self.writer().call("purge_expired", move |flight| flight.purge(request)).await
    }

    async fn sweep(&self, request: StepRequest) -> Result<Step> {
        self.writer().call("sweep", move |flight| flight.sweep(request)).await
    }
}

pub(crate) fn find(db: &Db<'_>, id: JobId) -> Done<Option<Job>> {
    let mut statement = db.prepare(select_job!("WHERE id = ?1"))?;
    let mut rows = statement.query([&id.as_bytes()[..]])?;
    rows.next()?.map(|row| Job::read(db, row)).transpose()
}

fn record(db: &Db<'_>, id: JobId) -> Done<Option<JobRecord>> {
    find(db, id)?.map(|job| job.record(db)).transpose()
}

/// What `jk_payload` holds.
pub(crate) fn aside(db: &Db<'_>, id: i64) -> Done<Option<Payload>> {
    Ok(db.one("SELECT body FROM jk_payload WHERE id = ?1", [id], |row| payload(row, 0))?.flatten())
}

pub(crate) fn details(db: &Db<'_>, id: JobId) -> Done<Option<JobDetails>> {
    let text = select_job!(", args, result", "WHERE id = ?1");
    Ok(read_details(db, text, [&id.as_bytes()[..]])?.map(|(details, _)| details))
}

/// A job at its place, and the last change that was applied to it.
pub(crate) fn details_at(db: &Db<'_>, seq: i64) -> Done<Option<(JobDetails, Option<OperationId>)>> {
    read_details(db, select_job!(", args, result", "WHERE seq = ?1"), [seq])
}

fn read_details(
    db: &Db<'_>,
    text: &'static str,
    params: impl rusqlite::Params,
) -> Done<Option<(JobDetails, Option<OperationId>)>> {
    let (job, args, result) = {
        let mut statement = db.prepare(text)?;
        let mut rows = statement.query(params)?;
        let Some(row) = rows.next()? else { return Ok(None) };
        (Job::read(db, row)?, payload(row, MORE)?, payload(row, MORE + 1)?)
    };
    let operation = job.last_op;
    let seq = job.seq;
    let args = match args {
        Some(args) => args,
        None => aside(db, args_aside(seq))?
            .ok_or_else(|| Error::corrupt("the arguments of a job are missing"))?,
    };
    let result = match job.has(RESULT_ASIDE) {
        true => aside(db, result_aside(seq))?,
        false => result,
    };
    let history = job.history(db)?;
    let errors = db
        .all(
            "SELECT fence, failures, at, detail FROM jk_error WHERE seq = ?1 ORDER BY fence",
            [seq],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get::<_, String>(3)?)),
        )?
        .into_iter()
        .map(|(fence, failures, instant, detail)| {
            Ok(AttemptError {
                fence: uint(fence),
                failures: small(failures),
                at: at(instant),
                detail: json(&detail)?,
            })
        })
        .collect::<Done<Vec<_>>>()?;
    let progress = db.all(
        "SELECT name, done, total, message FROM jk_progress WHERE seq = ?1 ORDER BY n",
        [seq],
        |row| {
            Ok(Progress {
                name: row.get(0)?,
                done: uint(row.get(1)?),
                total: uint(row.get(2)?),
                message: row.get(3)?,
            })
        },
    )?;
    let parents = parents(db, seq)?;
    let record = job.record(db)?;
    let details = JobDetails { record, args, result, history, errors, parents, progress };
    Ok(Some((details, operation)))
}

pub(crate) fn parents(db: &Db<'_>, child: i64) -> Done<Vec<EdgeStatus>> {
    Ok(db.all(
        "SELECT parent, batch, cond, decided FROM jk_edge WHERE child = ?1 ORDER BY n",
        [child],
        |row| {
            let id = bytes16(row.get_ref(0)?.as_blob()?);
            let parent = if row.get(1)? {
                Parent::Batch(BatchId::from_bytes(id))
            } else {
                Parent::Job(JobId::from_bytes(id))
            };
            let edge = Edge { parent, on: on_at(row.get(2)?) };
            Ok(EdgeStatus { edge, decided: row.get::<_, i64>(3)? == 1 })
        },
    )?)
}

impl Flight<'_, '_> {
    fn change(
        &mut self,
        change: &Change,
        actor: Option<&str>,
        now: Timestamp,
    ) -> Done<ChangeOutcome> {
        let Some(mut job) = self.find(change.job)? else {
            return Ok(ChangeOutcome::Refused(Refusal::JobGone { job: change.job }));
        };
        if job.last_op == Some(change.operation) {
            return Ok(ChangeOutcome::AlreadyApplied);
        }
        if let Err(refusal) = change.guard.check(&job.head) {
            return Ok(ChangeOutcome::Refused(refusal));
        }
        let state = job.state();
        if let Err(refusal) = change.action.check_start_by(&job.head, job.start_by, now) {
            return Ok(ChangeOutcome::Refused(refusal));
        }
        if let Err(refusal) = change.action.check() {
            return Ok(ChangeOutcome::Refused(refusal));
        }

        let mut retention = None;
        let event = match &change.action {
            Action::Requeue { run_at } => Event::Requeue { run_at: *run_at },
            Action::Delete { keep } => {
                let extras = job.extras().ok().flatten();
                retention = Some(retention_of_deleted(extras.as_deref(), *keep));
                let running = state == StateName::Processing;
                Event::Delete(if running { Reason::Cancelled } else { Reason::Deleted })
            }
            Action::Reschedule { run_at } => Event::Reschedule { run_at: *run_at },
            Action::RunNow => Event::RunNow,
            Action::Move { .. } | Action::Retag { .. } => Event::Move,
        };
        let why = Why { actor, retention, ..Why::at(now) };
        let key = match (&event, job.unique()?) {
            (Event::Requeue { .. }, Some(unique)) if state.is_finished() => {
                match self.key_holder(&unique.hash().0, now)? {
                    Some((_, holder)) if holder != job.id => {
                        return Ok(ChangeOutcome::Refused(Refusal::UniqueConflict { holder }));
                    }
                    // It holds it for a period: as long as before.
                    Some(_) => None,
                    None => Some(unique),
                }
            }
            _ => None,
        };
        let step = match self.plan(&job, &event, &why)? {
            Ok(step) => step,
            Err(forbidden) => return Ok(ChangeOutcome::Refused(refusal(forbidden, &job))),
        };
        if let Some(key) = key.filter(|_| step.effects.takes_key) {
            self.take_key(&key, job.seq, job.id, now)?;
        }
        if matches!(change.action, Action::Requeue { .. }) {
            self.db.run("DELETE FROM jk_checkpoint WHERE seq = ?1", [job.seq])?;
            self.db.run("DELETE FROM jk_memo WHERE seq = ?1", [job.seq])?;
            self.db.run("DELETE FROM jk_payload WHERE id = ?1 * 2 + 1", [job.seq])?;
            self.db.run(
                "UPDATE jk_job SET result = NULL WHERE seq = ?1 AND result IS NOT NULL",
                [job.seq],
            )?;
            job.set(RESULT_ASIDE, false);
        }
        if let Action::Move { queue, priority } = &change.action {
            if let Some(queue) = queue {
                let (from, kind) = self.lane(job.queue, job.kind)?;
                self.delta(now).count_moved(&from, queue, &kind, state);
                job.queue = self.db.intern(queue)?;
            }
            job.priority = priority.unwrap_or(job.priority);
        }
        if let Action::Retag { tags } = &change.action {
            let tags = if tags.is_empty() { None } else { Some(serde_json::to_string(tags)?) };
            self.db.run("UPDATE jk_job SET tags = ?2 WHERE seq = ?1", params![job.seq, tags])?;
        }
        job.last_op = Some(change.operation);
        self.enact(&mut job, &step, &why)?;
        self.cascade(now, &mut Budget(bounds::CHILDREN_IN_SETTLE))?;
        Ok(match (&change.action, job.state()) {
            (Action::Delete { .. }, StateName::Processing) => ChangeOutcome::Cancelling,
            (_, state) => ChangeOutcome::Changed { state, version: job.head.version },
        })
    }
}

pub(crate) fn refusal(forbidden: Forbidden, job: &Job) -> Refusal {
    match forbidden {
        Forbidden::BatchCancelled => match job.batch {
            Some(batch) => Refusal::BatchCancelled { batch },
            None => Refusal::State { state: job.state() },
        },
        Forbidden::AlreadyCancelling => Refusal::AlreadyCancelling,
        _ => Refusal::State { state: job.state() },
    }
}

/// Reads the rows of a `select_job!` statement: of one that cannot be read, its sequence. It must not
/// keep others from what they wait for.
pub(crate) fn read_jobs(
    db: &Db<'_>,
    text: &'static str,
    params: impl rusqlite::Params,
) -> Done<Vec<std::result::Result<Job, i64>>> {
    let mut statement = db.prepare(text)?;
    let mut rows = statement.query(params)?;
    let mut jobs = Vec::new();
    while let Some(row) = rows.next()? {
        jobs.push(match Job::read(db, row) {
            Err(fault) if fault.is_damage() => {
                let seq = row.get(0)?;
                tell_of_damage(seq, &fault);
                Err(seq)
            }
            read => Ok(read?),
        });
    }
    Ok(jobs)
}

/// The state of a job, if it is stored.
pub(crate) fn state_of(db: &Db<'_>, id: JobId) -> Done<Option<StateName>> {
    db.one("SELECT state FROM jk_job WHERE id = ?1", params![&id.as_bytes()[..]], |row| {
        row.get::<_, i64>(0)
    })?
    .map(crate::codec::state_at)
    .transpose()
}
