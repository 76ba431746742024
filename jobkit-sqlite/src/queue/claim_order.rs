//! The order of claims: the lanes of a queue, one for each kind, are merged.
//!
//! The index begins with queue and kind. A claim seeks to what it serves and reads nothing else,
//! neither other kinds nor parked jobs.

use jobkit_core::record::Payload;
use rusqlite::params;
use rusqlite::types::Value;

use crate::codec::job_row::{Job, column, select_job};
use crate::codec::sql_text::sql;
use crate::codec::{payload, size};
use crate::connection::Db;
use crate::error::SqlResult;

/// The kinds with claimable jobs in a queue, by one seek each.
pub(crate) fn lanes_of(db: &Db<'_>, queue: i64) -> SqlResult<Vec<i64>> {
    let mut statement = db.prepare(
        sql!("SELECT kind FROM jk_job INDEXED BY jk_ready \
         WHERE state = {enqueued} AND parked IS NULL AND queue = ?1 AND kind > ?2 ORDER BY kind LIMIT 1"),
    )?;
    let (mut kinds, mut last) = (Vec::new(), Value::Integer(i64::MIN));
    loop {
        let mut rows = statement.query(params![queue, last])?;
        let Some(row) = rows.next()? else { return Ok(kinds) };
        last = row.get(0)?;
        // A value that is no number is corrupt, and no lane.
        if let Value::Integer(kind) = last {
            kinds.push(kind);
        }
    }
}

/// A claimable job, as far as it can be read.
pub(crate) struct Candidate {
    pub(crate) rank: i64,
    pub(crate) seq: i64,
    pub(crate) job: SqlResult<(Job, Option<Payload>)>,
}

/// Several lanes, merged by priority and sequence. Each is read in pages, so that jobs that are claimed
/// or parked meanwhile do not disturb the walk.
pub(crate) struct MergedLanes {
    queue: i64,
    lanes: Vec<LaneCursor>,
    page: usize,
}

struct LaneCursor {
    kind: i64,
    /// What was read and not returned yet, last first.
    read: Vec<Candidate>,
    /// The rank and sequence after which the next page begins; `None` when there is none.
    after: Option<(i64, i64)>,
}

impl MergedLanes {
    /// The lanes of these kinds, to take about `expected` jobs from them.
    pub(crate) fn new(queue: i64, kinds: &[i64], expected: usize) -> Self {
        let lane =
            |kind: &i64| LaneCursor { kind: *kind, read: Vec::new(), after: Some((i64::MIN, 0)) };
        let page = match kinds.len() {
            0 | 1 => expected,
            // More than their share, since lanes rarely have the same length.
            kinds => expected * 3 / (2 * kinds) + 2,
        };
        Self { queue, lanes: kinds.iter().map(lane).collect(), page: page.clamp(1, 500) }
    }

    /// The next job in the order of claims.
    pub(crate) fn next(&mut self, db: &Db<'_>) -> SqlResult<Option<Candidate>> {
        let mut best: Option<(i64, i64, usize)> = None;
        for index in 0..self.lanes.len() {
            self.fill(index, db)?;
            if let Some(head) = self.lanes[index].read.last()
                && best.is_none_or(|(rank, seq, _)| (head.rank, head.seq) < (rank, seq))
            {
                best = Some((head.rank, head.seq, index));
            }
        }
        Ok(best.and_then(|(_, _, index)| self.lanes[index].read.pop()))
    }

    fn fill(&mut self, index: usize, db: &Db<'_>) -> SqlResult {
        let (queue, page) = (self.queue, self.page);
        let lane = &mut self.lanes[index];
        let kind = lane.kind;
        let Some((rank, seq)) = lane.after.filter(|_| lane.read.is_empty()) else { return Ok(()) };
        // Two statements, since SQLite walks from the beginning of the rank for `(rank, seq) > …`
        // where one of the columns is the rowid.
        if rank != i64::MIN {
            lane.read_page(
                db,
                select_job!(
                    ", args",
                    "INDEXED BY jk_ready WHERE state = {enqueued} AND parked IS NULL AND queue = ?1 \
                     AND kind = ?2 AND rank = ?3 AND seq > ?4 ORDER BY seq LIMIT ?5"
                ),
                params![queue, kind, rank, seq, size(page)],
            )?;
        }
        let left = page.saturating_sub(lane.read.len());
        if left > 0 {
            lane.read_page(
                db,
                select_job!(
                    ", args",
                    "INDEXED BY jk_ready WHERE state = {enqueued} AND parked IS NULL AND queue = ?1 \
                     AND kind = ?2 AND rank > ?3 ORDER BY rank, seq LIMIT ?4"
                ),
                params![queue, kind, rank, size(left)],
            )?;
        }
        lane.after = match lane.read.last() {
            Some(last) if lane.read.len() == page => Some((last.rank, last.seq)),
            _ => None,
        };
        lane.read.reverse();
        Ok(())
    }
}

impl LaneCursor {
    fn read_page(
        &mut self,
        db: &Db<'_>,
        text: &'static str,
        params: impl rusqlite::Params,
    ) -> SqlResult {
        let mut statement = db.prepare(text)?;
        let mut rows = statement.query(params)?;
        while let Some(row) = rows.next()? {
            let (rank, seq) = (row.get(column::RANK)?, row.get(column::SEQ)?);
            let job = Job::read(db, row).and_then(|job| Ok((job, payload(row, column::COUNT)?)));
            self.read.push(Candidate { rank, seq, job });
        }
        Ok(())
    }
}
