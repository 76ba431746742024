//! Rows that change in the same way are written by one statement.
//!
//! A statement that updates one row of `jk_job` opens a dozen indexes, and clears a hundred registers
//! when it ends: as much work as the change itself. The claims of a transaction differ only in the job,
//! and its finishes in little more. So they are buffered while the state machine decides them one by
//! one, and written together before anything else reads their rows.

use std::collections::HashSet;
use std::sync::LazyLock;

use jobkit_core::state::Hold;
use rusqlite::params;

use crate::codec::job_row::{CHILDREN, ENDED, Job, STARTED, TIMED};
use crate::codec::sql_text::sql;
use crate::codec::{int, micros, size};
use crate::connection::Db;
use crate::error::SqlResult;

/// Rows of a statement that names each.
const ROWS: [usize; 3] = [1, 8, 64];

/// A run is at least this many neighbours, which one statement changes without naming each.
const RUN: usize = 4;

/// What ten digits hold of a duration in microseconds: 2.7 hours. Longer ones are named row by row.
const TEN_DIGITS: std::ops::Range<i64> = 0..10_000_000_000;

// `OR FAIL`: an error rolls back more than the statement anyway, so SQLite need not be able to undo the
// statement alone. A number below zero is corrupt, and counts as zero here as where it is read.
macro_rules! claim {
    ($rows:literal) => {
        sql!(concat!(
            "UPDATE OR FAIL jk_job SET state = {processing}, was = reason, reason = ?1, \
             fence = fence * (fence > 0) + 1, version = version * (version > 0) + 1, \
             entered_at = ?2, claimed_at = ?2, server = ?3, incarnation = ?4, claim_seq = ?5, \
             lease_until = ?6, cancel = NULL, flags = flags & ?7 | ?8 WHERE ",
            $rows
        ))
    };
}

macro_rules! finish {
    ($duration:literal, $rows:literal) => {
        concat!(
            "UPDATE OR FAIL jk_job SET state = ?1, reason = ?2, \
             version = version * (version > 0) + 1, entered_at = ?3, settled_fence = fence, \
             settled_by = ?4, expires_at = ?5, flags = ?6, duration = ",
            $duration,
            $rows
        )
    };
}

static CLAIM: LazyLock<[String; 3]> = LazyLock::new(|| {
    ROWS.map(|rows| {
        let rows: Vec<_> = (9..9 + rows).map(|n| format!("?{n}")).collect();
        format!("{}seq IN ({})", claim!(""), rows.join(", "))
    })
});

pub(crate) static CLAIM_RUN: &str = claim!("seq BETWEEN ?9 AND ?10");

static FINISH: LazyLock<[String; 3]> = LazyLock::new(|| {
    ROWS.map(|rows| {
        let rows: Vec<_> =
            (0..rows).map(|n| 7 + n * 2).map(|n| format!("(?{n}, ?{})", n + 1)).collect();
        format!(
            finish!("row.column2", " FROM (VALUES {}) AS row WHERE seq = row.column1"),
            rows.join(", ")
        )
    })
});

/// The durations are one row of digits, in the order of the sequences. They are bytes, since SQLite
/// counts the characters of a text from its beginning; so they are digits only in a UTF-8 database.
pub(crate) static FINISH_RUN: &str =
    finish!("CAST(substr(?9, (seq - ?7) * 10 + 1, 10) AS INTEGER)", " WHERE seq BETWEEN ?7 AND ?8");

/// Changes of rows that are not written yet.
#[derive(Debug, Default)]
pub(crate) struct PendingRows {
    /// Whether the next change may be buffered.
    buffering: bool,
    claim: Option<[i64; 8]>,
    claims: Vec<i64>,
    finishes: Vec<FinishGroup>,
    /// The jobs whose rows are out of date.
    jobs: HashSet<i64>,
}

/// Finishes that differ only in their jobs and durations.
#[derive(Debug)]
struct FinishGroup {
    shared: [Option<i64>; 6],
    rows: Vec<(i64, Option<i64>)>,
}

/// What a job was before a transition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before {
    fence: u64,
    version: u64,
    failures: u32,
    crashes: u32,
}

impl Before {
    pub(crate) fn of(job: &Job) -> Self {
        let head = &job.head;
        Self {
            fence: head.fence,
            version: head.version,
            failures: head.failures,
            crashes: head.crashes,
        }
    }
}

/// Whether a claim or the finish of the job changes only its own row, its errors and log lines, and the
/// statistics.
pub(crate) fn is_self_contained(job: &Job) -> bool {
    job.limits.is_none() && job.unique.is_none() && job.batch.is_none() && !job.has(CHILDREN)
}

impl PendingRows {
    /// Whether everything is written.
    pub(crate) fn is_empty(&self) -> bool {
        self.claims.is_empty() && self.finishes.is_empty()
    }

    /// Prepares for a change of the job: buffers it if it is self-contained, and flushes otherwise.
    pub(crate) fn begin(&mut self, db: &Db<'_>, job: &Job) -> SqlResult {
        self.buffering = is_self_contained(job);
        if self.buffering { Ok(()) } else { self.flush(db) }
    }

    /// Whether the row of a job is out of date.
    pub(crate) fn contains(&self, seq: i64) -> bool {
        self.jobs.contains(&seq)
    }

    /// Buffers what a claim of a plainly enqueued job changes, or writes it.
    pub(crate) fn buffer_claim(
        &mut self,
        db: &Db<'_>,
        job: &Job,
        hold: &Hold,
        before: Before,
    ) -> SqlResult {
        let head = &job.head;
        // A number at the limit, in a corrupt row, is written as it was computed.
        let sane = |number: u64| number < u64::from(u32::MAX);
        let regular = head.fence == before.fence + 1
            && head.version == before.version + 1
            && sane(before.version)
            && (1..u64::from(u32::MAX)).contains(&head.fence);
        let (true, true, Some(server)) = (self.buffering, regular, job.server) else {
            return job.write_claim(db, hold);
        };
        let claim = [
            size(head.reason.index()),
            head.entered_at.as_micros(),
            server,
            hold.incarnation.as_i64(),
            int(hold.claim_sequence),
            hold.expires_at.as_micros(),
            !(STARTED | ENDED | TIMED),
            job.flags & STARTED,
        ];
        if !self.finishes.is_empty() || self.claim.is_some_and(|other| other != claim) {
            self.flush(db)?;
            self.buffering = true;
        }
        self.claim = Some(claim);
        self.claims.push(job.seq);
        self.jobs.insert(job.seq);
        Ok(())
    }

    /// Buffers what the end of such a claim changes when the job is finished by it, or writes it.
    pub(crate) fn buffer_finish(&mut self, db: &Db<'_>, job: &Job, before: Before) -> SqlResult {
        let head = &job.head;
        let regular = head.version == before.version + 1
            && head.failures == before.failures
            && head.crashes == before.crashes;
        let by = match head.settled {
            Some((fence, by)) if regular && self.buffering && fence == head.fence => by,
            _ => return job.write_finish(db),
        };
        if !self.claims.is_empty() {
            self.flush(db)?;
            self.buffering = true;
        }
        let shared = [
            Some(size(head.state.name().index())),
            Some(size(head.reason.index())),
            Some(head.entered_at.as_micros()),
            Some(by.as_i64()),
            job.expires_at.map(|at| at.as_micros()),
            Some(job.flags),
        ];
        let row = (job.seq, job.duration.map(micros));
        match self.finishes.iter_mut().find(|group| group.shared == shared) {
            Some(group) => group.rows.push(row),
            None => self.finishes.push(FinishGroup { shared, rows: vec![row] }),
        }
        self.jobs.insert(job.seq);
        Ok(())
    }

    /// Writes what is buffered.
    pub(crate) fn flush(&mut self, db: &Db<'_>) -> SqlResult {
        self.buffering = false;
        if self.jobs.is_empty() {
            return Ok(());
        }
        let rows = std::mem::take(self);
        if let Some(claim) = rows.claim {
            write_claims(db, claim, rows.claims)?;
        }
        rows.finishes.into_iter().try_for_each(|group| write_finishes(db, group))
    }
}

fn write_claims(db: &Db<'_>, claim: [i64; 8], mut seqs: Vec<i64>) -> SqlResult {
    seqs.sort_unstable();
    let mut scattered = Vec::new();
    for run in seqs.chunk_by(|one, next| one + 1 == *next) {
        if let [first, .., last] = run
            && run.len() >= RUN
        {
            let mut values = claim.to_vec();
            values.extend([first, last]);
            db.run(CLAIM_RUN, rusqlite::params_from_iter(values))?;
        } else {
            scattered.extend(run.iter().map(|seq| [Some(*seq)]));
        }
    }
    write(db, &CLAIM, &claim.map(Some), &scattered)
}

fn write_finishes(db: &Db<'_>, group: FinishGroup) -> SqlResult {
    let FinishGroup { shared, mut rows } = group;
    rows.sort_unstable();
    let mut scattered = Vec::new();
    let fits = |row: &(i64, Option<i64>)| row.1.is_some_and(|it| TEN_DIGITS.contains(&it));
    for run in rows.chunk_by(|one, next| one.0 + 1 == next.0 && fits(one) == fits(next)) {
        if let [first, .., (last, _)] = run
            && run.len() >= RUN
            && fits(first)
            && db.is_utf8()?
        {
            let digits: String = run
                .iter()
                .map(|(_, duration)| format!("{:010}", duration.unwrap_or_default()))
                .collect();
            let [state, reason, at, by, expires_at, flags] = shared;
            db.run(
                FINISH_RUN,
                params![state, reason, at, by, expires_at, flags, first.0, last, digits.as_bytes()],
            )?;
        } else {
            scattered.extend(run.iter().map(|(seq, duration)| [Some(*seq), *duration]));
        }
    }
    write(db, &FINISH, &shared, &scattered)
}

/// Runs the statement of the best size as often as needed. Rows that are left over are NULL, which matches
/// nothing.
fn write<const N: usize>(
    db: &Db<'_>,
    texts: &'static [String; 3],
    shared: &[Option<i64>],
    mut rows: &[[Option<i64>; N]],
) -> SqlResult {
    while !rows.is_empty() {
        let fits = ROWS.iter().position(|size| *size >= rows.len()).unwrap_or(ROWS.len() - 1);
        let (now, later) = rows.split_at(rows.len().min(ROWS[fits]));
        let mut statement = db.prepare(&texts[fits])?;
        let values = shared.iter().chain(now.iter().flatten());
        let mut place = 0;
        for value in values {
            place += 1;
            statement.raw_bind_parameter(place, value)?;
        }
        for place in place + 1..=shared.len() + ROWS[fits] * N {
            statement.raw_bind_parameter(place, None::<i64>)?;
        }
        statement.raw_execute()?;
        rows = later;
    }
    Ok(())
}
