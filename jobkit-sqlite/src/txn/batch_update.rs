//! Rows that change alike, written by one statement.
//!
//! A statement that updates one row of `jk_job` opens a dozen indexes, and clears a hundred registers
//! when it ends: as much work as the change itself. The claims of a flight differ in nothing but the
//! job, its ends in little more, so they are gathered while the state machine judges them one by one,
//! and written together before anything else looks at their rows.

use std::collections::HashSet;
use std::sync::LazyLock;

use jobkit_core::state::Hold;
use rusqlite::params;

use crate::codec::{ENDED, Job, STARTED, TIMED, int, micros, size};
use crate::connection::Db;
use crate::error::Done;

/// Rows of a statement that names each.
const ROWS: [usize; 3] = [1, 8, 64];

/// So many neighbours make a run, which one statement changes without naming each.
const RUN: usize = 4;

/// What ten digits hold of a duration in microseconds: 2.7 hours. Longer ones are named row by row.
const TEN_DIGITS: std::ops::Range<i64> = 0..10_000_000_000;

// An error rolls back more than the statement anyway, so SQLite need not be able to undo it alone. A
// number below zero is a damaged one, and counts as zero here as where it is read.
macro_rules! claim {
    ($rows:literal) => {
        concat!(
            "UPDATE OR FAIL jk_job SET state = 3, was = reason, reason = ?1, \
             fence = fence * (fence > 0) + 1, version = version * (version > 0) + 1, \
             entered_at = ?2, claimed_at = ?2, server = ?3, incarnation = ?4, claim_seq = ?5, \
             lease_until = ?6, cancel = NULL, flags = flags & ?7 | ?8 WHERE ",
            $rows
        )
    };
}

macro_rules! end {
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
        format!(claim!("seq IN ({})"), rows.join(", "))
    })
});

pub(crate) static CLAIM_RUN: &str = claim!("seq BETWEEN ?9 AND ?10");

static END: LazyLock<[String; 3]> = LazyLock::new(|| {
    ROWS.map(|rows| {
        let rows: Vec<_> =
            (0..rows).map(|n| 7 + n * 2).map(|n| format!("(?{n}, ?{})", n + 1)).collect();
        format!(
            end!("row.column2", " FROM (VALUES {}) AS row WHERE seq = row.column1"),
            rows.join(", ")
        )
    })
});

/// The durations stand in a row of digits, in the order of the sequences. (In bytes: of a text SQLite
/// counts the characters from its beginning. So they are digits in a database of UTF-8 alone.)
pub(crate) static END_RUN: &str =
    end!("CAST(substr(?9, (seq - ?7) * 10 + 1, 10) AS INTEGER)", " WHERE seq BETWEEN ?7 AND ?8");

/// What was gathered.
#[derive(Debug, Default)]
pub(crate) struct PendingRows {
    /// Whether what comes now may be gathered.
    on: bool,
    claim: Option<[i64; 8]>,
    claims: Vec<i64>,
    ends: Vec<Ends>,
    /// The jobs whose rows are not what they will be.
    jobs: HashSet<i64>,
}

/// Ends that differ in their jobs and durations alone.
#[derive(Debug)]
struct Ends {
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

/// Whether nothing but its own row, the statistics and its errors and lines change when the job is
/// claimed or ends.
pub(crate) fn stands_alone(job: &Job) -> bool {
    job.limits.is_none()
        && job.unique.is_none()
        && job.batch.is_none()
        && !job.has(crate::codec::CHILDREN)
}

impl PendingRows {
    /// Begins to gather, if the job may be; otherwise writes what was gathered so far.
    pub(crate) fn begin(&mut self, db: &Db<'_>, job: &Job) -> Done {
        self.on = stands_alone(job);
        if self.on { Ok(()) } else { self.flush(db) }
    }

    /// Whether the row of a job is not yet what it will be.
    pub(crate) fn contains(&self, seq: i64) -> bool {
        self.jobs.contains(&seq)
    }

    /// Writes what a claim of a plainly enqueued job changes.
    pub(crate) fn buffer_claim(
        &mut self,
        db: &Db<'_>,
        job: &Job,
        hold: &Hold,
        before: Before,
    ) -> Done {
        let head = &job.head;
        // A number at the edge, of a damaged row, is written as it was computed.
        let sane = |number: u64| number < u64::from(u32::MAX);
        let regular = head.fence == before.fence + 1
            && head.version == before.version + 1
            && sane(before.version)
            && (1..u64::from(u32::MAX)).contains(&head.fence);
        let (true, true, Some(server)) = (self.on, regular, job.server) else {
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
        if !self.ends.is_empty() || self.claim.is_some_and(|other| other != claim) {
            self.flush(db)?;
            self.on = true;
        }
        self.claim = Some(claim);
        self.claims.push(job.seq);
        self.jobs.insert(job.seq);
        Ok(())
    }

    /// Writes what the end of such a claim changes, when the job is finished then.
    pub(crate) fn buffer_end(&mut self, db: &Db<'_>, job: &Job, before: Before) -> Done {
        let head = &job.head;
        let regular = head.version == before.version + 1
            && head.failures == before.failures
            && head.crashes == before.crashes;
        let by = match head.settled {
            Some((fence, by)) if regular && self.on && fence == head.fence => by,
            _ => return job.write_end(db),
        };
        if !self.claims.is_empty() {
            self.flush(db)?;
            self.on = true;
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
        match self.ends.iter_mut().find(|ends| ends.shared == shared) {
            Some(ends) => ends.rows.push(row),
            None => self.ends.push(Ends { shared, rows: vec![row] }),
        }
        self.jobs.insert(job.seq);
        Ok(())
    }

    /// Writes what was gathered.
    pub(crate) fn flush(&mut self, db: &Db<'_>) -> Done {
        self.on = false;
        if self.jobs.is_empty() {
            return Ok(());
        }
        let alike = std::mem::take(self);
        if let Some(claim) = alike.claim {
            write_claims(db, claim, alike.claims)?;
        }
        alike.ends.into_iter().try_for_each(|ends| write_ends(db, ends))
    }
}

fn write_claims(db: &Db<'_>, claim: [i64; 8], mut seqs: Vec<i64>) -> Done {
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

fn write_ends(db: &Db<'_>, ends: Ends) -> Done {
    let Ends { shared, mut rows } = ends;
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
                END_RUN,
                params![state, reason, at, by, expires_at, flags, first.0, last, digits.as_bytes()],
            )?;
        } else {
            scattered.extend(run.iter().map(|(seq, duration)| [Some(*seq), *duration]));
        }
    }
    write(db, &END, &shared, &scattered)
}

/// Runs the statement of the fitting size as often as needed; rows that are left over are NULL, and match
/// nothing.
fn write<const N: usize>(
    db: &Db<'_>,
    texts: &'static [String; 3],
    shared: &[Option<i64>],
    mut rows: &[[Option<i64>; N]],
) -> Done {
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
