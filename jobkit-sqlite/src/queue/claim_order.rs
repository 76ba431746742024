//! The lines of a queue, one for each kind, walked together in the order of claims.
//!
//! The index begins with queue and kind, so a claim seeks to what it serves and walks nothing else,
//! neither what is of other kinds nor what is parked.

use jobkit_core::record::Payload;
use rusqlite::params;
use rusqlite::types::Value;

use crate::codec::job_row::{Job, column, select_job};
use crate::codec::sql_text::sql;
use crate::codec::{payload, size};
use crate::connection::Db;
use crate::error::SqlResult;

/// The kinds of which something is claimable in a queue. One seek for each.
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
        // What is no number is damaged, and nobody's lane.
        if let Value::Integer(kind) = last {
            kinds.push(kind);
        }
    }
}

/// A job in line, as far as it can be read.
pub(crate) struct Candidate {
    pub(crate) rank: i64,
    pub(crate) seq: i64,
    pub(crate) job: SqlResult<(Job, Option<Payload>)>,
}

/// Several lines, merged by priority and sequence. Each is read in pages, so what is claimed or
/// parked meanwhile does not disturb the walk.
pub(crate) struct Lanes {
    queue: i64,
    lanes: Vec<Lane>,
    page: usize,
}

struct Lane {
    kind: i64,
    /// What was read and not given out, last first.
    read: Vec<Candidate>,
    /// The place after which the next page begins; `None` when there is none.
    after: Option<(i64, i64)>,
}

impl Lanes {
    /// The lines of these kinds, to take about `expected` jobs from them.
    pub(crate) fn new(queue: i64, kinds: &[i64], expected: usize) -> Self {
        let lane = |kind: &i64| Lane { kind: *kind, read: Vec::new(), after: Some((i64::MIN, 0)) };
        let page = match kinds.len() {
            0 | 1 => expected,
            // More than their share, since lines are rarely alike.
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

impl Lane {
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
