//! The rows of new jobs.

use std::sync::LazyLock;

use jobkit_core::Timestamp;
use jobkit_core::state::{Reason, State, StateName};
use jobkit_core::state_machine::{JobHead, new_head};
use rusqlite::params;

use super::prepared::{PreparedJob, id_bytes};
use crate::codec::job_row::{HAS_SIDE_ROWS, INLINE_BYTES, args_overflow_id};
use crate::codec::{rank_of, size, start_number};
use crate::error::SqlResult;
use crate::txn::Txn;

/// Rows that one statement inserts.
const ROWS: [usize; 2] = [8, 50];

/// Inserts jobs that differ only in sequence, id and arguments. Row by row, SQLite spends a third of an
/// insert on opening the indexes and clearing its registers. `OR FAIL`: an error rolls back more than
/// the statement anyway, so SQLite need not be able to undo the statement alone.
static INSERT: LazyLock<[String; 2]> = LazyLock::new(|| {
    ROWS.map(|rows| {
        let rows: Vec<_> = (0..rows)
            .map(|n| 13 + n * 4)
            .map(|n| format!("(?{n}, ?{}, ?{}, ?{})", n + 1, n + 2, n + 3))
            .collect();
        format!(
            "INSERT OR FAIL INTO jk_job (seq, id, digest, args, state, reason, queue, kind, rank, \
             entered_at, created_at, enqueued_at, run_at, start, start_by, extras, tags) \
             SELECT row.column1, row.column2, row.column3, row.column4, ?1, ?2, ?3, ?4, ?5, ?6, ?6, \
             ?7, ?8, ?9, ?10, ?11, ?12 FROM (VALUES {}) AS row WHERE true \
             ON CONFLICT (id) DO NOTHING",
            rows.join(", ")
        )
    })
});

/// The row of a new job.
pub(super) struct NewRow {
    pub(super) seq: i64,
    pub(super) state: StateName,
    pub(super) reason: Reason,
    /// `false` if there is a job with this id.
    pub(super) is_stored: bool,
}

/// Inserts jobs that need only a row, those with the same columns by one statement.
pub(crate) fn insert_simple(
    txn: &mut Txn<'_, '_>,
    jobs: &[&PreparedJob],
    submitted: Reason,
    now: Timestamp,
) -> SqlResult<Vec<NewRow>> {
    let mut rows = Vec::with_capacity(jobs.len());
    let mut left = jobs;
    while let Some(first) = left.first() {
        let head = new_head(first.record.start, 0, false, submitted, now);
        let count = left.iter().take(ROWS[1]).take_while(|job| job.same_columns(first)).count();
        let count = ROWS.into_iter().rev().find(|rows| *rows <= count).unwrap_or(1);
        let (group, later) = left.split_at(count);
        left = later;
        let from = rows.len();
        for _ in group {
            rows.push(NewRow {
                seq: txn.next_seq()?,
                state: head.state.name(),
                reason: head.reason,
                is_stored: true,
            });
        }
        let inserted = match group {
            [job] => usize::from(insert(txn, rows[from].seq, job, &head, now)?),
            group => insert_similar(txn, rows[from].seq, group, &head, now)?,
        };
        if inserted == 0 {
            rows[from..].iter_mut().for_each(|row| row.is_stored = false);
        } else if inserted < group.len() {
            for row in &mut rows[from..] {
                let stored =
                    txn.db.one("SELECT 1 FROM jk_job WHERE seq = ?1", [row.seq], |_| Ok(()))?;
                row.is_stored = stored.is_some();
            }
        }
    }
    Ok(rows)
}

/// Stores the rows of new jobs with the same columns, from `seq` on; returns how many of their ids were
/// new.
fn insert_similar(
    txn: &Txn<'_, '_>,
    seq: i64,
    jobs: &[&PreparedJob],
    head: &JobHead,
    now: Timestamp,
) -> SqlResult<usize> {
    let record = &jobs[0].record;
    let (mut run_at, mut enqueued_at) = (None, None);
    match &head.state {
        State::Scheduled { run_at: at } => run_at = Some(at.as_micros()),
        State::Enqueued => enqueued_at = Some(now.as_micros()),
        _ => {}
    }
    let fits = usize::from(jobs.len() > ROWS[0]);
    let mut statement = txn.db.prepare(&INSERT[fits])?;
    let shared = params![
        size(head.state.name().index()),
        size(head.reason.index()),
        txn.db.intern(&record.queue)?,
        txn.db.intern(&record.kind)?,
        rank_of(record.priority),
        now.as_micros(),
        enqueued_at,
        run_at,
        start_number(record.start),
        record.start_by.map(Timestamp::as_micros),
        jobs[0].extras,
        jobs[0].tags,
    ];
    let mut place = 0;
    for value in shared {
        place += 1;
        statement.raw_bind_parameter(place, value)?;
    }
    for (seq, job) in (seq..).zip(jobs) {
        statement.raw_bind_parameter(place + 1, seq)?;
        statement.raw_bind_parameter(place + 2, id_bytes(&job.record.id))?;
        statement.raw_bind_parameter(place + 3, &job.digest[..])?;
        statement.raw_bind_parameter(place + 4, job.record.args.as_bytes())?;
        place += 4;
    }
    Ok(statement.raw_execute()?)
}

/// Stores the row of a new job; `false` if its id is stored already.
pub(crate) fn insert(
    txn: &Txn<'_, '_>,
    seq: i64,
    job: &PreparedJob,
    head: &JobHead,
    now: Timestamp,
) -> SqlResult<bool> {
    let record = &job.record;
    let (mut run_at, mut open, mut enqueued_at) = (None, None, None);
    match &head.state {
        State::Awaiting { open: n } => open = Some(*n),
        State::Scheduled { run_at: at } => run_at = Some(at.as_micros()),
        State::Enqueued => enqueued_at = Some(now.as_micros()),
        _ => {}
    }
    let expires_at = match &head.state {
        State::Deleted => record.retention().deleted.expires_at(now),
        _ => None,
    };
    let overflows = record.args.len() > INLINE_BYTES;
    let flags = if overflows { HAS_SIDE_ROWS } else { 0 };
    let args = (!overflows).then(|| record.args.as_bytes());
    let inserted = txn.db.run(
        "INSERT INTO jk_job (seq, id, state, reason, queue, kind, rank, flags, entered_at, created_at, \
         enqueued_at, run_at, expires_at, start, start_by, open, batch, digest, parents, tags, uniq, \
         limits, extras, args) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, \
         ?19, ?20, ?21, ?22, ?23) ON CONFLICT (id) DO NOTHING",
        params![
            seq,
            id_bytes(&record.id),
            size(head.state.name().index()),
            size(head.reason.index()),
            txn.db.intern(&record.queue)?,
            txn.db.intern(&record.kind)?,
            rank_of(record.priority),
            flags,
            now.as_micros(),
            enqueued_at,
            run_at,
            expires_at.map(Timestamp::as_micros),
            start_number(record.start),
            record.start_by.map(Timestamp::as_micros),
            open,
            record.batch.as_ref().map(|batch| &batch.as_bytes()[..]),
            &job.digest[..],
            size(record.edges.len()),
            job.tags,
            job.unique,
            job.limits,
            job.extras,
            args,
        ],
    )?;
    if inserted == 0 {
        return Ok(false);
    }
    if overflows {
        txn.db.run(
            "INSERT INTO jk_payload (id, body) VALUES (?1, ?2)",
            params![args_overflow_id(seq), record.args.as_bytes()],
        )?;
    }
    Ok(true)
}

pub(crate) fn remove(txn: &Txn<'_, '_>, seq: i64) -> SqlResult {
    txn.db.run("DELETE FROM jk_job WHERE seq = ?1", [seq])?;
    txn.db.run("DELETE FROM jk_payload WHERE id = ?1", [args_overflow_id(seq)])?;
    Ok(())
}
