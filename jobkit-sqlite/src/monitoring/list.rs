//! Pages of jobs, each state in its own order.

mod enqueued;
mod filter;
mod finished;
mod rows;

use jobkit_core::JobId;
use jobkit_core::state::StateName;
use jobkit_core::storage::{Count, Cursor, JobPage, JobQuery};

use self::enqueued::enqueued;
pub(super) use self::enqueued::{first_in_line, queues_in_use};
use self::filter::Filter;
pub(crate) use self::finished::lanes_of_finished;
use self::rows::{CHUNK, ListKey, ListRow, SEARCH_WINDOW, START, rows, wanted};
pub(super) use self::rows::{bad_cursor, numbers};
use super::statistics::count;
use crate::codec::job_row::{column, select_job};
use crate::codec::sql_text::sql;
use crate::codec::{rank_of, size, uint};
use crate::connection::Db;
use crate::error::SqlResult;
use crate::jobs::read::find;
use crate::queue::claim_order::lanes_of;

pub(super) fn list(db: &Db<'_>, query: &JobQuery) -> SqlResult<JobPage> {
    let mut page = JobPage { count: exact_count(db, query)?, ..JobPage::default() };
    let Some(filter) = Filter::new(db, query)? else { return Ok(page) };
    if query.state == StateName::Enqueued {
        return enqueued(db, &filter, page);
    }
    let mut after = match &query.after {
        Some(cursor) => match numbers(cursor)?[..] {
            [key, seq] => Some((key, seq)),
            _ => return Err(bad_cursor().into()),
        },
        None => None,
    };
    let mut looked = 0;
    // One row more than the page holds shows whether it is the last page.
    let most = if filter.is_indexed() { CHUNK.min(query.limit + 1) } else { CHUNK };
    loop {
        let chunk = chunk(db, &filter, after, most)?;
        let last_chunk = chunk.len() < most;
        for row in chunk {
            if looked >= SEARCH_WINDOW {
                page.searched = Some(looked);
                page.next = after.map(cursor);
                return Ok(page);
            }
            looked += 1;
            let place = row.place;
            if let Some(record) = wanted(db, &filter, row)? {
                if page.jobs.len() == query.limit {
                    page.next = after.map(cursor);
                    page.searched = query.text.is_some().then_some(looked);
                    return Ok(page);
                }
                page.jobs.push(record);
            }
            after = Some(place);
        }
        if last_chunk {
            page.searched = query.text.is_some().then_some(looked);
            return Ok(page);
        }
    }
}

/// How many jobs a list would return from its place on, up to `most`.
pub(super) fn count_matching(db: &Db<'_>, query: &JobQuery, most: u64) -> SqlResult<Count> {
    if query.after.is_none()
        && let exact @ Count::Exact(_) = exact_count(db, query)?
    {
        return Ok(exact);
    }
    let mut query = JobQuery { limit: CHUNK, ..query.clone() };
    let mut found = 0;
    loop {
        let page = list(db, &query)?;
        found += page.jobs.len() as u64;
        if found > most {
            return Ok(Count::AtLeast(most));
        }
        match page.next {
            None => return Ok(Count::Exact(found)),
            // The search window is used up, and more may match.
            Some(_) if page.jobs.len() < CHUNK => return Ok(Count::AtLeast(found)),
            next => query.after = next,
        }
    }
}

/// How many claimable jobs of its queue precede an Enqueued one, up to `most`: in each lane those of a
/// better rank, and those of the same rank that came earlier. Only index entries are read.
pub(super) fn jobs_before(db: &Db<'_>, id: JobId, most: u64) -> SqlResult<Option<Count>> {
    let Some(job) = find(db, id)?.filter(|job| job.state() == StateName::Enqueued) else {
        return Ok(None);
    };
    let rank = rank_of(job.priority);
    let mut left = size(usize::try_from(most).unwrap_or(usize::MAX)).saturating_add(1);
    for kind in lanes_of(db, job.queue)? {
        for text in [
            sql!(
                "SELECT count(*) FROM (SELECT 1 FROM jk_job INDEXED BY jk_ready \
             WHERE state = {enqueued} AND parked IS NULL AND queue = ?1 AND kind = ?2 AND rank < ?3 \
             AND ?4 = ?4 LIMIT ?5)"
            ),
            sql!(
                "SELECT count(*) FROM (SELECT 1 FROM jk_job INDEXED BY jk_ready \
             WHERE state = {enqueued} AND parked IS NULL AND queue = ?1 AND kind = ?2 AND rank = ?3 \
             AND seq < ?4 LIMIT ?5)"
            ),
        ] {
            let before =
                db.one(text, [job.queue, kind, rank, job.seq, left], |row| row.get::<_, i64>(0))?;
            left -= before.unwrap_or(0);
        }
        if left == 0 {
            return Ok(Some(Count::AtLeast(most)));
        }
    }
    Ok(Some(Count::Exact((most + 1).saturating_sub(uint(left)))))
}

fn cursor((key, seq): ListKey) -> Cursor {
    Cursor(format!("{key}:{seq}"))
}

/// What is known without counting.
fn exact_count(db: &Db<'_>, query: &JobQuery) -> SqlResult<Count> {
    let plain =
        JobQuery { after: query.after.clone(), limit: query.limit, ..JobQuery::new(query.state) };
    if plain != *query {
        return Ok(Count::Unknown);
    }
    Ok(Count::Exact(count(db, query.state)?))
}

/// The next rows of a list other than that of Enqueued jobs.
fn chunk(
    db: &Db<'_>,
    filter: &Filter<'_>,
    after: Option<ListKey>,
    most: usize,
) -> SqlResult<Vec<ListRow>> {
    let state = filter.query.state;
    let chunk = size(most);
    match state {
        StateName::Awaiting => rows(
            db,
            select_job!(
                ", args",
                "INDEXED BY jk_awaiting WHERE state = {awaiting} AND seq > ?1 ORDER BY seq LIMIT ?2"
            ),
            [after.map_or(0, |(_, seq)| seq), chunk],
            |_| Ok(0),
        ),
        StateName::Scheduled => {
            let (key, seq) = after.unwrap_or(START);
            let run_at = |row: &rusqlite::Row<'_>| row.get(column::RUN_AT);
            // In two statements, as in `claim_order`.
            let mut all = rows(
                db,
                select_job!(
                    ", args",
                    "INDEXED BY jk_due WHERE state = {scheduled} AND run_at = ?1 AND seq > ?2 \
                     ORDER BY seq LIMIT ?3"
                ),
                [key, seq, chunk],
                run_at,
            )?;
            all.extend(rows(
                db,
                select_job!(
                    ", args",
                    "INDEXED BY jk_due WHERE state = {scheduled} AND run_at > ?1 ORDER BY run_at, seq LIMIT ?2"
                ),
                [key, chunk - size(all.len())],
                run_at,
            )?);
            Ok(all)
        }
        StateName::Processing => {
            let (key, seq) = after.unwrap_or((i64::MIN, 0));
            rows(
                db,
                select_job!(
                    ", args",
                    "INDEXED BY jk_held WHERE state = {processing} AND (claimed_at, seq) > (?1, ?2) \
                     ORDER BY claimed_at, seq LIMIT ?3"
                ),
                [key, seq, chunk],
                |row| row.get(column::CLAIMED_AT),
            )
        }
        _ => finished::chunk(db, filter, after, most),
    }
}
