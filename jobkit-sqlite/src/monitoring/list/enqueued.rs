//! Lists of Enqueued jobs: the lanes of a queue, claimable or parked at a limit, are merged.

use jobkit_core::storage::{Cursor, JobPage};
use jobkit_core::{Name, Timestamp};
use rusqlite::params;

use super::filter::Filter;
use super::rows::{ListKey, ListRow, SEARCH_WINDOW, START, bad_cursor, numbers, rows, wanted};
use crate::codec::job_row::{column, select_job};
use crate::codec::size;
use crate::codec::sql_text::sql;
use crate::connection::Db;
use crate::error::SqlResult;
use crate::queue::claim_order::lanes_of;

/// A lane that one index holds in order: claimable jobs of a kind, or those parked at a limit.
#[derive(Clone, Copy)]
enum Lane {
    Ready(i64),
    Parked(i64, i64),
}

struct LaneCursor {
    lane: Lane,
    /// What was read, last first.
    rows: Vec<ListRow>,
    after: Option<ListKey>,
}

/// Enqueued jobs by queue, priority and sequence.
pub(crate) fn enqueued(db: &Db<'_>, filter: &Filter<'_>, mut page: JobPage) -> SqlResult<JobPage> {
    let query = filter.query;
    let (from_queue, mut after) = match &query.after {
        Some(cursor) => {
            let (queue, rest) = queue_of(&cursor.0);
            match numbers(&Cursor(rest.to_owned()))?[..] {
                [rank, seq] => (Some(queue), (rank, seq)),
                _ => return Err(bad_cursor().into()),
            }
        }
        None => (None, START),
    };
    let mut looked = 0;
    let mut last: Option<(Name, ListKey)> = None;
    let to_cursor = |(queue, (rank, seq)): (Name, ListKey)| Cursor(format!("{queue}:{rank}:{seq}"));
    for (name, queue) in queues_in_use(db)? {
        if filter.queue.is_some_and(|wanted| wanted != queue)
            || from_queue.as_ref().is_some_and(|from| name < *from)
        {
            continue;
        }
        let start = match &from_queue {
            Some(from) if *from == name => std::mem::replace(&mut after, START),
            _ => START,
        };
        let mut cursors = Vec::new();
        for lane in lanes(db, queue, filter.kind)? {
            cursors.push(LaneCursor { lane, rows: Vec::new(), after: Some(start) });
        }
        while let Some(row) = next_row(db, queue, &mut cursors)? {
            if looked >= SEARCH_WINDOW {
                page.searched = Some(looked);
                page.next = last.map(to_cursor);
                return Ok(page);
            }
            looked += 1;
            let place = row.place;
            if let Some(record) = wanted(db, filter, row)? {
                if page.jobs.len() == query.limit {
                    page.next = last.map(to_cursor);
                    page.searched = query.text.is_some().then_some(looked);
                    return Ok(page);
                }
                page.jobs.push(record);
            }
            last = Some((name.clone(), place));
        }
    }
    page.searched = query.text.is_some().then_some(looked);
    Ok(page)
}

/// The name of a queue in a cursor, and the rest of it.
fn queue_of(cursor: &str) -> (Name, &str) {
    let (queue, rest) = cursor.split_once(':').unwrap_or((cursor, ""));
    (Name::from_stored(queue), rest)
}

/// When the first job of a queue became claimable.
pub(crate) fn first_in_line(db: &Db<'_>, queue: i64) -> SqlResult<Option<Timestamp>> {
    let mut first: Option<ListRow> = None;
    for lane in lanes(db, queue, None)? {
        if let Some(head) = lane_rows(db, queue, lane, START, 1)?.pop()
            && first.as_ref().is_none_or(|first| head.place < first.place)
        {
            first = Some(head);
        }
    }
    Ok(first.and_then(|row| row.job?.enqueued_at))
}

/// The queues that hold Enqueued jobs, by name.
pub(crate) fn queues_in_use(db: &Db<'_>) -> SqlResult<Vec<(Name, i64)>> {
    let mut ids = std::collections::BTreeSet::new();
    let mut last = i64::MIN;
    while let Some(queue) = db.one(
        sql!(
            "SELECT queue FROM jk_job INDEXED BY jk_ready \
         WHERE state = {enqueued} AND parked IS NULL AND queue > ?1 ORDER BY queue LIMIT 1"
        ),
        [last],
        |row| row.get::<_, i64>(0),
    )? {
        ids.insert(queue);
        last = queue;
    }
    for limit in db.all(
        "SELECT id FROM jk_limit INDEXED BY jk_limit_waiting WHERE waiting > 0",
        [],
        |row| row.get::<_, i64>(0),
    )? {
        let mut last = i64::MIN;
        while let Some(queue) = db.one(
            sql!(
                "SELECT queue FROM jk_job INDEXED BY jk_parked_lane \
             WHERE state = {enqueued} AND parked IS NOT NULL AND parked = ?1 AND queue > ?2 \
             ORDER BY queue LIMIT 1"
            ),
            [limit, last],
            |row| row.get::<_, i64>(0),
        )? {
            ids.insert(queue);
            last = queue;
        }
    }
    let mut queues =
        ids.into_iter().map(|id| Ok((db.name(id)?, id))).collect::<SqlResult<Vec<_>>>()?;
    queues.sort();
    Ok(queues)
}

/// The next row of several lanes, merged.
fn next_row(db: &Db<'_>, queue: i64, cursors: &mut [LaneCursor]) -> SqlResult<Option<ListRow>> {
    const READ: usize = 100;
    let mut best: Option<(ListKey, usize)> = None;
    for (index, cursor) in cursors.iter_mut().enumerate() {
        if let Some(after) = cursor.after.filter(|_| cursor.rows.is_empty()) {
            cursor.rows = lane_rows(db, queue, cursor.lane, after, READ)?;
            cursor.after = match cursor.rows.last() {
                Some(last) if cursor.rows.len() == READ => Some(last.place),
                _ => None,
            };
            cursor.rows.reverse();
        }
        if let Some(head) = cursor.rows.last()
            && best.is_none_or(|(place, _)| head.place < place)
        {
            best = Some((head.place, index));
        }
    }
    Ok(best.and_then(|(_, index)| cursors[index].rows.pop()))
}

/// The lanes of a queue.
fn lanes(db: &Db<'_>, queue: i64, kind: Option<i64>) -> SqlResult<Vec<Lane>> {
    let mut lanes: Vec<Lane> = match kind {
        Some(kind) => vec![Lane::Ready(kind)],
        None => lanes_of(db, queue)?.into_iter().map(Lane::Ready).collect(),
    };
    let limits = db.all(
        "SELECT id FROM jk_limit INDEXED BY jk_limit_waiting WHERE waiting > 0",
        [],
        |row| row.get::<_, i64>(0),
    )?;
    for limit in limits {
        match kind {
            Some(kind) => lanes.push(Lane::Parked(limit, kind)),
            None => {
                let mut last = i64::MIN;
                while let Some(kind) = db.one(
                    sql!("SELECT kind FROM jk_job INDEXED BY jk_parked_lane \
                     WHERE state = {enqueued} AND parked IS NOT NULL AND parked = ?1 AND queue = ?2 \
                     AND kind > ?3 ORDER BY kind LIMIT 1"),
                    [limit, queue, last],
                    |row| row.get::<_, i64>(0),
                )? {
                    lanes.push(Lane::Parked(limit, kind));
                    last = kind;
                }
            }
        }
    }
    Ok(lanes)
}

/// The next rows of a lane, by priority and sequence.
fn lane_rows(
    db: &Db<'_>,
    queue: i64,
    lane: Lane,
    (rank, seq): ListKey,
    chunk: usize,
) -> SqlResult<Vec<ListRow>> {
    let key = |row: &rusqlite::Row<'_>| row.get(column::RANK);
    let chunk = size(chunk);
    // In two statements, as in `claim_order`.
    let mut all = match lane {
        Lane::Ready(kind) => rows(
            db,
            select_job!(
                ", args",
                "INDEXED BY jk_ready WHERE state = {enqueued} AND parked IS NULL AND queue = ?1 \
                 AND kind = ?2 AND rank = ?3 AND seq > ?4 ORDER BY seq LIMIT ?5"
            ),
            params![queue, kind, rank, seq, chunk],
            key,
        )?,
        Lane::Parked(limit, kind) => rows(
            db,
            select_job!(
                ", args",
                "INDEXED BY jk_parked_lane WHERE state = {enqueued} AND parked IS NOT NULL AND parked = ?1 \
                 AND queue = ?2 AND kind = ?3 AND rank = ?4 AND seq > ?5 ORDER BY seq LIMIT ?6"
            ),
            params![limit, queue, kind, rank, seq, chunk],
            key,
        )?,
    };
    let left = chunk - size(all.len());
    all.extend(match lane {
        Lane::Ready(kind) => rows(
            db,
            select_job!(
                ", args",
                "INDEXED BY jk_ready WHERE state = {enqueued} AND parked IS NULL AND queue = ?1 \
                 AND kind = ?2 AND rank > ?3 ORDER BY rank, seq LIMIT ?4"
            ),
            params![queue, kind, rank, left],
            key,
        )?,
        Lane::Parked(limit, kind) => rows(
            db,
            select_job!(
                ", args",
                "INDEXED BY jk_parked_lane WHERE state = {enqueued} AND parked IS NOT NULL AND parked = ?1 \
                 AND queue = ?2 AND kind = ?3 AND rank > ?4 ORDER BY rank, seq LIMIT ?5"
            ),
            params![limit, queue, kind, rank, left],
            key,
        )?,
    });
    Ok(all)
}
