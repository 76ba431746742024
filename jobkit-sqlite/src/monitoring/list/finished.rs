//! Lists of finished jobs: one index holds those of each lane in order, and the lanes are merged.

use std::collections::BinaryHeap;

use jobkit_core::Timestamp;
use rusqlite::params;
use rusqlite::types::Value;

use super::filter::Filter;
use super::rows::{CHUNK, ListKey, ListRow, rows};
use crate::codec::job_row::select_job;
use crate::codec::size;
use crate::codec::sql_text::sql;
use crate::connection::Db;
use crate::error::SqlResult;

/// The next finished jobs, newest first.
pub(super) fn chunk(
    db: &Db<'_>,
    filter: &Filter<'_>,
    after: Option<ListKey>,
    most: usize,
) -> SqlResult<Vec<ListRow>> {
    let state = size(filter.query.state.index());
    let after = after.unwrap_or((i64::MAX, i64::MAX));
    // Rows newer than the query asks for need not be read.
    let after = match filter.query.to {
        Some(to) if to.as_micros() < after.0 => (to.as_micros(), 0),
        _ => after,
    };
    let from = filter.query.from.map_or(i64::MIN, Timestamp::as_micros);
    let lanes = lanes_of_finished(db, filter.queue, filter.kind)?;
    // More than their share, since lanes rarely have the same length.
    let at_first = (most * 3 / (2 * lanes.len().max(1)) + 2).min(most);
    let lane = |(queue, kind)| FinishedLane {
        queue,
        kind,
        places: Vec::new(),
        after: Some(after),
        at_once: at_first,
    };
    let mut lanes: Vec<_> = lanes.into_iter().map(lane).collect();
    let mut heads = BinaryHeap::new();
    for (index, lane) in lanes.iter_mut().enumerate() {
        heads.extend(lane.next(db, state, from)?.map(|place| (place, index)));
    }
    let mut all = Vec::with_capacity(most);
    while all.len() < most
        && let Some((place, index)) = heads.pop()
    {
        all.extend(rows(db, select_job!(", args", "WHERE seq = ?1"), [place.1], |_| Ok(place.0))?);
        heads.extend(lanes[index].next(db, state, from)?.map(|place| (place, index)));
    }
    Ok(all)
}

/// The lanes in which anything has finished, of a queue and a kind if they are given. A seek for each.
pub(crate) fn lanes_of_finished(
    db: &Db<'_>,
    queue: Option<i64>,
    kind: Option<i64>,
) -> SqlResult<Vec<(i64, i64)>> {
    if let (Some(queue), Some(kind)) = (queue, kind) {
        return Ok(vec![(queue, kind)]);
    }
    let mut lanes = Vec::new();
    let mut last = (Value::Integer(queue.unwrap_or(i64::MIN)), Value::Integer(i64::MIN));
    while let Some(there) = db.one(
        sql!("SELECT queue, kind FROM jk_job INDEXED BY jk_done_lane \
         WHERE state >= {finished} AND (queue, kind) > (?1, ?2) AND queue <= ?3 ORDER BY queue, kind LIMIT 1"),
        params![last.0, last.1, queue.unwrap_or(i64::MAX)],
        |row| Ok((row.get::<_, Value>(0)?, row.get::<_, Value>(1)?)),
    )? {
        // A value that is no integer is corrupt, and no lane.
        if let (Value::Integer(queue), Value::Integer(kind_there)) = there
            && kind.is_none_or(|kind| kind == kind_there)
        {
            lanes.push((queue, kind_there));
        }
        last = there;
    }
    Ok(lanes)
}

struct FinishedLane {
    queue: i64,
    kind: i64,
    /// What was read and not returned yet, last first.
    places: Vec<ListKey>,
    /// The place after which more is to be read, if there may be any.
    after: Option<ListKey>,
    /// How many are read next.
    at_once: usize,
}

impl FinishedLane {
    /// The next key. Only index entries are read, and one with a corrupt instant is skipped.
    fn next(&mut self, db: &Db<'_>, state: i64, from: i64) -> SqlResult<Option<ListKey>> {
        if self.places.is_empty()
            && let Some((entered_at, seq)) = self.after.take()
        {
            self.places = db.all(
                sql!(
                    "SELECT entered_at, seq FROM jk_job INDEXED BY jk_done_lane \
                 WHERE state >= {finished} AND queue = ?1 AND kind = ?2 AND state = ?3 \
                 AND (entered_at, seq) < (?4, ?5) AND entered_at >= ?6 \
                 AND typeof(entered_at) = 'integer' \
                 ORDER BY entered_at DESC, seq DESC LIMIT ?7"
                ),
                [self.queue, self.kind, state, entered_at, seq, from, size(self.at_once)],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            self.after = self.places.last().copied().filter(|_| self.places.len() == self.at_once);
            self.at_once = (self.at_once * 2).min(CHUNK);
            self.places.reverse();
        }
        Ok(self.places.pop())
    }
}
