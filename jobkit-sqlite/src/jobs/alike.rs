//! Rows that change alike, written by one statement.
//!
//! A statement that updates one row of `jk_job` opens a dozen indexes, and clears a hundred registers
//! when it ends: as much work as the change itself. The claims of a flight differ in nothing but the
//! job, its ends in little more, so they are gathered while the state machine judges them one by one,
//! and written together before anything else looks at their rows.

use std::collections::HashSet;
use std::sync::LazyLock;

use jobkit_core::state::Hold;

use crate::codec::{ENDED, Job, STARTED, TIMED, int, micros, size};
use crate::connection::Db;
use crate::error::Done;
use crate::writer::Flight;

/// Rows of a statement.
const ROWS: [usize; 3] = [1, 8, 64];

/// An error rolls back more than the statement anyway, so SQLite need not be able to undo it alone.
static CLAIM: LazyLock<[String; 3]> = LazyLock::new(|| {
    ROWS.map(|rows| {
        let rows: Vec<_> = (9..9 + rows).map(|n| format!("?{n}")).collect();
        format!(
            "UPDATE OR FAIL jk_job SET state = 3, was = reason, reason = ?1, fence = fence + 1, \
             version = version + 1, entered_at = ?2, claimed_at = ?2, server = ?3, incarnation = ?4, \
             claim_seq = ?5, lease_until = ?6, cancel = NULL, flags = flags & ?7 | ?8 \
             WHERE seq IN ({})",
            rows.join(", ")
        )
    })
});

static END: LazyLock<[String; 3]> = LazyLock::new(|| {
    ROWS.map(|rows| {
        let rows: Vec<_> = (0..rows)
            .map(|n| 6 + n * 3)
            .map(|n| format!("(?{n}, ?{}, ?{})", n + 1, n + 2))
            .collect();
        format!(
            "UPDATE OR FAIL jk_job SET state = ?1, reason = ?2, version = version + 1, \
             entered_at = ?3, settled_fence = fence, settled_by = ?4, expires_at = ?5, \
             duration = row.column2, flags = row.column3 \
             FROM (VALUES {}) AS row WHERE seq = row.column1",
            rows.join(", ")
        )
    })
});

/// What was gathered.
#[derive(Debug, Default)]
pub(crate) struct Alike {
    /// Whether what comes now may be gathered.
    on: bool,
    claim: Option<[i64; 8]>,
    claims: Vec<i64>,
    end: Option<[Option<i64>; 5]>,
    ends: Vec<[Option<i64>; 3]>,
    /// The jobs whose rows are not what they will be.
    jobs: HashSet<i64>,
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

impl Flight<'_, '_> {
    /// Begins to gather, if the job may be; otherwise writes what was gathered so far.
    pub(crate) fn gather(&mut self, job: &Job) -> Done {
        self.alike.on = stands_alone(job);
        if self.alike.on { Ok(()) } else { self.write_gathered() }
    }

    /// Whether the row of a job is not yet what it will be.
    pub(crate) fn is_gathered(&self, seq: i64) -> bool {
        self.alike.jobs.contains(&seq)
    }

    /// Writes what a claim of a plainly enqueued job changes.
    pub(crate) fn write_claim(&mut self, job: &Job, hold: &Hold, before: Before) -> Done {
        let head = &job.head;
        // A number at the edge, of a damaged row, is written as it was computed.
        let sane = |number: u64| number < u64::from(u32::MAX);
        let regular = head.fence == before.fence + 1
            && head.version == before.version + 1
            && sane(before.version)
            && (1..u64::from(u32::MAX)).contains(&head.fence);
        let (true, true, Some(server)) = (self.alike.on, regular, job.server) else {
            return job.write_claim(self.db, hold);
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
        if !self.alike.ends.is_empty() || self.alike.claim.is_some_and(|other| other != claim) {
            self.write_gathered()?;
            self.alike.on = true;
        }
        self.alike.claim = Some(claim);
        self.alike.claims.push(job.seq);
        self.alike.jobs.insert(job.seq);
        Ok(())
    }

    /// Writes what the end of such a claim changes, when the job is finished then.
    pub(crate) fn write_end(&mut self, job: &Job, before: Before) -> Done {
        let head = &job.head;
        let regular = head.version == before.version + 1
            && head.failures == before.failures
            && head.crashes == before.crashes;
        let by = match head.settled {
            Some((fence, by)) if regular && self.alike.on && fence == head.fence => by,
            _ => return job.write_end(self.db),
        };
        let end = [
            Some(size(head.state.name().index())),
            Some(size(head.reason.index())),
            Some(head.entered_at.as_micros()),
            Some(by.as_i64()),
            job.expires_at.map(|at| at.as_micros()),
        ];
        if !self.alike.claims.is_empty() || self.alike.end.is_some_and(|other| other != end) {
            self.write_gathered()?;
            self.alike.on = true;
        }
        self.alike.end = Some(end);
        self.alike.ends.push([Some(job.seq), job.duration.map(micros), Some(job.flags)]);
        self.alike.jobs.insert(job.seq);
        Ok(())
    }

    /// Writes what was gathered.
    pub(crate) fn write_gathered(&mut self) -> Done {
        self.alike.on = false;
        if self.alike.jobs.is_empty() {
            return Ok(());
        }
        let alike = std::mem::take(&mut self.alike);
        if let Some(claim) = alike.claim {
            let rows: Vec<_> = alike.claims.iter().map(|seq| [Some(*seq)]).collect();
            write(self.db, &CLAIM, &claim.map(Some), &rows)?;
        }
        if let Some(end) = alike.end {
            write(self.db, &END, &end, &alike.ends)?;
        }
        Ok(())
    }
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
