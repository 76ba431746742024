//! Reading jobs, with all that belongs to them.

use jobkit_core::edge::{Edge, Parent};
use jobkit_core::record::{AttemptError, EdgeStatus, JobDetails, JobRecord, Payload, Progress};
use jobkit_core::state::StateName;
use jobkit_core::{BatchId, Error, JobId, OperationId};
use rusqlite::params;

use crate::codec::job_row::{
    Job, RESULT_OVERFLOWS, args_overflow_id, column, result_overflow_id, select_job,
};
use crate::codec::{at, bytes16, json, on_at, payload, small, state_at, uint};
use crate::connection::Db;
use crate::error::{SqlResult, warn_corrupt_row};

/// A job by its id.
pub(crate) fn find(db: &Db<'_>, id: JobId) -> SqlResult<Option<Job>> {
    let mut statement = db.prepare(select_job!("WHERE id = ?1"))?;
    let mut rows = statement.query([&id.as_bytes()[..]])?;
    rows.next()?.map(|row| Job::read(db, row)).transpose()
}

/// A job by its sequence.
pub(crate) fn load(db: &Db<'_>, seq: i64) -> SqlResult<Option<Job>> {
    let mut statement = db.prepare(select_job!("WHERE seq = ?1"))?;
    let mut rows = statement.query([seq])?;
    rows.next()?.map(|row| Job::read(db, row)).transpose()
}

pub(crate) fn record(db: &Db<'_>, id: JobId) -> SqlResult<Option<JobRecord>> {
    find(db, id)?.map(|job| job.record(db)).transpose()
}

/// What `jk_payload` holds under an id.
pub(crate) fn overflow(db: &Db<'_>, id: i64) -> SqlResult<Option<Payload>> {
    Ok(db.one("SELECT body FROM jk_payload WHERE id = ?1", [id], |row| payload(row, 0))?.flatten())
}

pub(crate) fn details(db: &Db<'_>, id: JobId) -> SqlResult<Option<JobDetails>> {
    let text = select_job!(", args, result", "WHERE id = ?1");
    Ok(read_details(db, text, [&id.as_bytes()[..]])?.map(|(details, _)| details))
}

/// A job by its sequence, and the last change that was applied to it.
pub(crate) fn details_at(
    db: &Db<'_>,
    seq: i64,
) -> SqlResult<Option<(JobDetails, Option<OperationId>)>> {
    read_details(db, select_job!(", args, result", "WHERE seq = ?1"), [seq])
}

fn read_details(
    db: &Db<'_>,
    text: &'static str,
    params: impl rusqlite::Params,
) -> SqlResult<Option<(JobDetails, Option<OperationId>)>> {
    let (job, args, result) = {
        let mut statement = db.prepare(text)?;
        let mut rows = statement.query(params)?;
        let Some(row) = rows.next()? else { return Ok(None) };
        (Job::read(db, row)?, payload(row, column::COUNT)?, payload(row, column::COUNT + 1)?)
    };
    let operation = job.last_op;
    let seq = job.seq;
    let args = match args {
        Some(args) => args,
        None => overflow(db, args_overflow_id(seq))?
            .ok_or_else(|| Error::corrupt("the arguments of a job are missing"))?,
    };
    let result = match job.has(RESULT_OVERFLOWS) {
        true => overflow(db, result_overflow_id(seq))?,
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
        .collect::<SqlResult<Vec<_>>>()?;
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

pub(crate) fn parents(db: &Db<'_>, child: i64) -> SqlResult<Vec<EdgeStatus>> {
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

/// Reads the rows of a `select_job!` statement. For a row that cannot be read it returns the sequence,
/// so that the row does not hold up others.
pub(crate) fn read_jobs(
    db: &Db<'_>,
    text: &'static str,
    params: impl rusqlite::Params,
) -> SqlResult<Vec<std::result::Result<Job, i64>>> {
    let mut statement = db.prepare(text)?;
    let mut rows = statement.query(params)?;
    let mut jobs = Vec::new();
    while let Some(row) = rows.next()? {
        jobs.push(match Job::read(db, row) {
            Err(fault) if fault.is_corrupt_row() => {
                let seq = row.get(column::SEQ)?;
                warn_corrupt_row(seq, &fault);
                Err(seq)
            }
            read => Ok(read?),
        });
    }
    Ok(jobs)
}

/// The state of a job, if it is stored.
pub(crate) fn state_of(db: &Db<'_>, id: JobId) -> SqlResult<Option<StateName>> {
    db.one("SELECT state FROM jk_job WHERE id = ?1", params![&id.as_bytes()[..]], |row| {
        row.get::<_, i64>(0)
    })?
    .map(state_at)
    .transpose()
}
