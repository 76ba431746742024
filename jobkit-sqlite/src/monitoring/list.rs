//! Pages of jobs, each state in its own order.

mod finished;

use jobkit_core::record::JobRecord;
use jobkit_core::state::{State, StateName};
use jobkit_core::storage::{Count, Cursor, JobPage, JobQuery};
use jobkit_core::{Error, JobId, Name, Timestamp, bounds};
use rusqlite::params;

use super::{count, queue_of};
use crate::codec::{Job, MORE, args_aside, select_job, size, uint};
use crate::connection::Db;
use crate::error::{Done, tell_of_damage};
use crate::jobs::{aside, find};
use crate::queue::lanes::lanes_of;

/// Rows that one page looks at for what no index tells, such as tags: so many are read in less than
/// 100 ms on a busy machine.
const SEARCH_WINDOW: u64 = 5_000;
/// Rows read at once.
const CHUNK: usize = 500;

pub(super) fn bad_cursor() -> Error {
    Error::invalid("after", "is not a cursor of this list")
}

/// The numbers of a cursor.
pub(super) fn numbers(cursor: &Cursor) -> Done<Vec<i64>> {
    let numbers = cursor.0.split(':').map(str::parse).collect::<Result<Vec<i64>, _>>();
    Ok(numbers.map_err(|_| bad_cursor())?)
}

/// A place in a list: what it is ordered by, and the sequence.
type Place = (i64, i64);

/// The numbers that a query's names have; `None` if one was never used, so that nothing matches.
struct Filter<'q> {
    query: &'q JobQuery,
    queue: Option<i64>,
    kind: Option<i64>,
}

impl<'q> Filter<'q> {
    fn new(db: &Db<'_>, query: &'q JobQuery) -> Done<Option<Self>> {
        let mut filter = Self { query, queue: None, kind: None };
        if let Some(queue) = &query.queue {
            let Some(id) = db.name_id(queue)? else { return Ok(None) };
            filter.queue = Some(id);
        }
        if let Some(kind) = &query.kind {
            let Some(id) = db.name_id(kind)? else { return Ok(None) };
            filter.kind = Some(id);
        }
        Ok(Some(filter))
    }

    /// Whether an index holds nothing but what matches.
    fn is_indexed(&self) -> bool {
        let query = self.query;
        let by_index = JobQuery {
            after: query.after.clone(),
            limit: query.limit,
            ..JobQuery::new(query.state)
        };
        if !query.state.is_finished() {
            return *query == by_index;
        }
        let by_index = JobQuery {
            queue: query.queue.clone(),
            kind: query.kind.clone(),
            from: query.from,
            to: query.to,
            ..by_index
        };
        *query == by_index
    }

    fn matches(&self, db: &Db<'_>, job: &Job, args: Option<&[u8]>) -> Done<bool> {
        let query = self.query;
        let at = match job.state() {
            StateName::Scheduled => match job.head.state {
                State::Scheduled { run_at } => run_at,
                _ => job.created_at,
            },
            state if state.is_finished() => job.head.entered_at,
            _ => job.created_at,
        };
        if self.queue.is_some_and(|queue| queue != job.queue)
            || self.kind.is_some_and(|kind| kind != job.kind)
            || query.batch.is_some_and(|batch| job.batch != Some(batch))
            || query.from.is_some_and(|from| at < from)
            || query.to.is_some_and(|to| at >= to)
        {
            return Ok(false);
        }
        if let Some(tag) = &query.tag
            && !job.tags()?.contains(tag)
        {
            return Ok(false);
        }
        if let Some(group) = query.error_group {
            let last = db.one(
                "SELECT fingerprint FROM jk_error WHERE seq = ?1 ORDER BY fence DESC LIMIT 1",
                [job.seq],
                |row| row.get::<_, i64>(0),
            )?;
            if last != Some(group.0.cast_signed()) {
                return Ok(false);
            }
        }
        if let Some(text) = &query.text {
            let named = job
                .extras()?
                .and_then(|extras| extras.display_name)
                .is_some_and(|name| name.contains(text.as_str()));
            if !named {
                let large = match args {
                    Some(_) => None,
                    None => aside(db, args_aside(job.seq))?,
                };
                let args = args.or(large.as_deref()).unwrap_or_default();
                return Ok(String::from_utf8_lossy(args).contains(text.as_str()));
            }
        }
        Ok(true)
    }
}

/// What is read of a row for a list.
struct Row {
    place: Place,
    /// `None` if it cannot be read; then it is passed over.
    job: Option<Job>,
    args: Option<Vec<u8>>,
}

fn rows(
    db: &Db<'_>,
    text: &'static str,
    params: impl rusqlite::Params,
    key: impl Fn(&rusqlite::Row<'_>) -> rusqlite::Result<i64>,
) -> Done<Vec<Row>> {
    let mut statement = db.prepare(text)?;
    let mut rows = statement.query(params)?;
    let mut all: Vec<Row> = Vec::new();
    while let Some(row) = rows.next()? {
        let seq = row.get(0)?;
        let before = all.last().map_or(0, |row| row.place.0);
        let place = (key(row).unwrap_or(before), seq);
        let read = Job::read(db, row).and_then(|job| {
            let args = row.get_ref(MORE)?.as_blob_or_null().map_err(rusqlite::Error::from)?;
            Ok((job, args.map(<[u8]>::to_vec)))
        });
        let (job, args) = match read {
            Ok((job, args)) => (Some(job), args),
            Err(fault) if fault.is_damage() => {
                tell_of_damage(seq, &fault);
                (None, None)
            }
            Err(fault) => return Err(fault),
        };
        all.push(Row { place, job, args });
    }
    Ok(all)
}

/// The record of a row, if it is asked for and can be read.
fn wanted(db: &Db<'_>, filter: &Filter<'_>, row: Row) -> Done<Option<JobRecord>> {
    let Some(job) = row.job else { return Ok(None) };
    let seq = job.seq;
    let record = match filter.matches(db, &job, row.args.as_deref()) {
        Ok(true) => job.record(db).map(Some),
        Ok(false) => Ok(None),
        Err(fault) => Err(fault),
    };
    match record {
        Err(fault) if fault.is_damage() => {
            tell_of_damage(seq, &fault);
            Ok(None)
        }
        record => record,
    }
}

pub(super) fn list(db: &Db<'_>, query: &JobQuery) -> Done<JobPage> {
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
    // One more than the page holds tells whether it is the last.
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

/// How many jobs a list would page from its place on, up to `most`.
pub(super) fn count_matching(db: &Db<'_>, query: &JobQuery, most: u64) -> Done<Count> {
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
            // The window was walked, and more may come.
            Some(_) if page.jobs.len() < CHUNK => return Ok(Count::AtLeast(found)),
            next => query.after = next,
        }
    }
}

/// How many claimable jobs of its queue go before an Enqueued one, up to `most`: in each lane those of a
/// better rank, and those of the same that came earlier. Index entries alone are read.
pub(super) fn jobs_before(db: &Db<'_>, id: JobId, most: u64) -> Done<Option<Count>> {
    let Some(job) = find(db, id)?.filter(|job| job.state() == StateName::Enqueued) else {
        return Ok(None);
    };
    let rank = i64::from(bounds::MAX_PRIORITY - job.priority);
    let mut left = size(usize::try_from(most).unwrap_or(usize::MAX)).saturating_add(1);
    for kind in lanes_of(db, job.queue)? {
        for text in [
            "SELECT count(*) FROM (SELECT 1 FROM jk_job INDEXED BY jk_ready \
             WHERE state = 2 AND parked IS NULL AND queue = ?1 AND kind = ?2 AND rank < ?3 \
             AND ?4 = ?4 LIMIT ?5)",
            "SELECT count(*) FROM (SELECT 1 FROM jk_job INDEXED BY jk_ready \
             WHERE state = 2 AND parked IS NULL AND queue = ?1 AND kind = ?2 AND rank = ?3 \
             AND seq < ?4 LIMIT ?5)",
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

fn cursor((key, seq): Place) -> Cursor {
    Cursor(format!("{key}:{seq}"))
}

/// What is known without counting.
fn exact_count(db: &Db<'_>, query: &JobQuery) -> Done<Count> {
    let plain =
        JobQuery { after: query.after.clone(), limit: query.limit, ..JobQuery::new(query.state) };
    if plain != *query {
        return Ok(Count::Unknown);
    }
    Ok(Count::Exact(count(db, query.state)?))
}

/// The next rows of a list other than that of Enqueued jobs.
fn chunk(db: &Db<'_>, filter: &Filter<'_>, after: Option<Place>, most: usize) -> Done<Vec<Row>> {
    let state = filter.query.state;
    let chunk = size(most);
    match state {
        StateName::Awaiting => rows(
            db,
            select_job!(
                ", args",
                "INDEXED BY jk_awaiting WHERE state = 0 AND seq > ?1 ORDER BY seq LIMIT ?2"
            ),
            [after.map_or(0, |(_, seq)| seq), chunk],
            |_| Ok(0),
        ),
        StateName::Scheduled => {
            let (key, seq) = after.unwrap_or(START);
            let run_at = |row: &rusqlite::Row<'_>| row.get(17);
            // In two statements, as lanes are read.
            let mut all = rows(
                db,
                select_job!(
                    ", args",
                    "INDEXED BY jk_due WHERE state = 1 AND run_at = ?1 AND seq > ?2 \
                     ORDER BY seq LIMIT ?3"
                ),
                [key, seq, chunk],
                run_at,
            )?;
            all.extend(rows(
                db,
                select_job!(
                    ", args",
                    "INDEXED BY jk_due WHERE state = 1 AND run_at > ?1 ORDER BY run_at, seq LIMIT ?2"
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
                    "INDEXED BY jk_held WHERE state = 3 AND (claimed_at, seq) > (?1, ?2) \
                     ORDER BY claimed_at, seq LIMIT ?3"
                ),
                [key, seq, chunk],
                |row| row.get(16),
            )
        }
        _ => finished::chunk(db, filter, after, most),
    }
}

/// A part of a queue's line that one index holds in order: a kind that can be claimed, or one that
/// is parked at a limit.
#[derive(Clone, Copy)]
enum Part {
    Ready(i64),
    Parked(i64, i64),
}

/// The parts of a queue's line.
fn parts(db: &Db<'_>, queue: i64, kind: Option<i64>) -> Done<Vec<Part>> {
    let mut parts: Vec<Part> = match kind {
        Some(kind) => vec![Part::Ready(kind)],
        None => lanes_of(db, queue)?.into_iter().map(Part::Ready).collect(),
    };
    let limits = db.all(
        "SELECT id FROM jk_limit INDEXED BY jk_limit_waiting WHERE waiting > 0",
        [],
        |row| row.get::<_, i64>(0),
    )?;
    for limit in limits {
        match kind {
            Some(kind) => parts.push(Part::Parked(limit, kind)),
            None => {
                let mut last = i64::MIN;
                while let Some(kind) = db.one(
                    "SELECT kind FROM jk_job INDEXED BY jk_parked_lane \
                     WHERE state = 2 AND parked IS NOT NULL AND parked = ?1 AND queue = ?2 \
                     AND kind > ?3 ORDER BY kind LIMIT 1",
                    [limit, queue, last],
                    |row| row.get::<_, i64>(0),
                )? {
                    parts.push(Part::Parked(limit, kind));
                    last = kind;
                }
            }
        }
    }
    Ok(parts)
}

/// The next rows of a part, by priority and sequence.
fn part_rows(
    db: &Db<'_>,
    queue: i64,
    part: Part,
    (rank, seq): Place,
    chunk: usize,
) -> Done<Vec<Row>> {
    let key = |row: &rusqlite::Row<'_>| row.get(6);
    let chunk = size(chunk);
    // In two statements, as lanes are read.
    let mut all = match part {
        Part::Ready(kind) => rows(
            db,
            select_job!(
                ", args",
                "INDEXED BY jk_ready WHERE state = 2 AND parked IS NULL AND queue = ?1 \
                 AND kind = ?2 AND rank = ?3 AND seq > ?4 ORDER BY seq LIMIT ?5"
            ),
            params![queue, kind, rank, seq, chunk],
            key,
        )?,
        Part::Parked(limit, kind) => rows(
            db,
            select_job!(
                ", args",
                "INDEXED BY jk_parked_lane WHERE state = 2 AND parked IS NOT NULL AND parked = ?1 \
                 AND queue = ?2 AND kind = ?3 AND rank = ?4 AND seq > ?5 ORDER BY seq LIMIT ?6"
            ),
            params![limit, queue, kind, rank, seq, chunk],
            key,
        )?,
    };
    let left = chunk - size(all.len());
    all.extend(match part {
        Part::Ready(kind) => rows(
            db,
            select_job!(
                ", args",
                "INDEXED BY jk_ready WHERE state = 2 AND parked IS NULL AND queue = ?1 \
                 AND kind = ?2 AND rank > ?3 ORDER BY rank, seq LIMIT ?4"
            ),
            params![queue, kind, rank, left],
            key,
        )?,
        Part::Parked(limit, kind) => rows(
            db,
            select_job!(
                ", args",
                "INDEXED BY jk_parked_lane WHERE state = 2 AND parked IS NOT NULL AND parked = ?1 \
                 AND queue = ?2 AND kind = ?3 AND rank > ?4 ORDER BY rank, seq LIMIT ?5"
            ),
            params![limit, queue, kind, rank, left],
            key,
        )?,
    });
    Ok(all)
}

const START: Place = (i64::MIN, 0);

/// Since when the first job of a queue's line has been claimable.
pub(super) fn first_in_line(db: &Db<'_>, queue: i64) -> Done<Option<Timestamp>> {
    let mut first: Option<Row> = None;
    for part in parts(db, queue, None)? {
        if let Some(head) = part_rows(db, queue, part, START, 1)?.pop()
            && first.as_ref().is_none_or(|first| head.place < first.place)
        {
            first = Some(head);
        }
    }
    Ok(first.and_then(|row| row.job?.enqueued_at))
}

/// The queues that hold Enqueued jobs, by name.
pub(super) fn queues_in_use(db: &Db<'_>) -> Done<Vec<(Name, i64)>> {
    let mut ids = std::collections::BTreeSet::new();
    let mut last = i64::MIN;
    while let Some(queue) = db.one(
        "SELECT queue FROM jk_job INDEXED BY jk_ready \
         WHERE state = 2 AND parked IS NULL AND queue > ?1 ORDER BY queue LIMIT 1",
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
            "SELECT queue FROM jk_job INDEXED BY jk_parked_lane \
             WHERE state = 2 AND parked IS NOT NULL AND parked = ?1 AND queue > ?2 \
             ORDER BY queue LIMIT 1",
            [limit, last],
            |row| row.get::<_, i64>(0),
        )? {
            ids.insert(queue);
            last = queue;
        }
    }
    let mut queues = ids.into_iter().map(|id| Ok((db.name(id)?, id))).collect::<Done<Vec<_>>>()?;
    queues.sort();
    Ok(queues)
}

/// Enqueued jobs by queue, priority and sequence.
fn enqueued(db: &Db<'_>, filter: &Filter<'_>, mut page: JobPage) -> Done<JobPage> {
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
    let mut last: Option<(Name, Place)> = None;
    let to_cursor = |(queue, (rank, seq)): (Name, Place)| Cursor(format!("{queue}:{rank}:{seq}"));
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
        let mut lines = Vec::new();
        for part in parts(db, queue, filter.kind)? {
            lines.push(Line { part, rows: Vec::new(), after: Some(start) });
        }
        while let Some(row) = next_of(db, queue, &mut lines)? {
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

struct Line {
    part: Part,
    /// What was read, last first.
    rows: Vec<Row>,
    after: Option<Place>,
}

/// The next of several lines, merged.
fn next_of(db: &Db<'_>, queue: i64, lines: &mut [Line]) -> Done<Option<Row>> {
    const READ: usize = 100;
    let mut best: Option<(Place, usize)> = None;
    for (index, line) in lines.iter_mut().enumerate() {
        if let Some(after) = line.after.filter(|_| line.rows.is_empty()) {
            line.rows = part_rows(db, queue, line.part, after, READ)?;
            line.after = match line.rows.last() {
                Some(last) if line.rows.len() == READ => Some(last.place),
                _ => None,
            };
            line.rows.reverse();
        }
        if let Some(head) = line.rows.last()
            && best.is_none_or(|(place, _)| head.place < place)
        {
            best = Some((head.place, index));
        }
    }
    Ok(best.and_then(|(_, index)| lines[index].rows.pop()))
}
