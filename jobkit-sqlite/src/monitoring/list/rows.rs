//! Rows of a list, and the places between them.

use jobkit_core::Error;
use jobkit_core::record::JobRecord;
use jobkit_core::storage::Cursor;

use super::filter::Filter;
use crate::codec::job_row::{Job, column};
use crate::connection::Db;
use crate::error::{SqlResult, warn_corrupt_row};

/// Rows that one page reads to filter by what has no index, such as tags: that takes less than 100 ms
/// on a busy machine.
pub(crate) const SEARCH_WINDOW: u64 = 5_000;
/// Rows read at once.
pub(crate) const CHUNK: usize = 500;

/// The key of a row in a list: what it is ordered by, and the sequence.
pub(crate) type ListKey = (i64, i64);
pub(crate) const START: ListKey = (i64::MIN, 0);

/// What is read of a row for a list.
pub(crate) struct ListRow {
    pub(crate) place: ListKey,
    /// `None` if it cannot be read; then it is skipped.
    pub(crate) job: Option<Job>,
    pub(crate) args: Option<Vec<u8>>,
}

pub(crate) fn bad_cursor() -> Error {
    Error::invalid("after", "is not a cursor of this list")
}

/// The numbers of a cursor.
pub(crate) fn numbers(cursor: &Cursor) -> SqlResult<Vec<i64>> {
    let numbers = cursor.0.split(':').map(str::parse).collect::<Result<Vec<i64>, _>>();
    Ok(numbers.map_err(|_| bad_cursor())?)
}

pub(crate) fn rows(
    db: &Db<'_>,
    text: &'static str,
    params: impl rusqlite::Params,
    key: impl Fn(&rusqlite::Row<'_>) -> rusqlite::Result<i64>,
) -> SqlResult<Vec<ListRow>> {
    let mut statement = db.prepare(text)?;
    let mut rows = statement.query(params)?;
    let mut all: Vec<ListRow> = Vec::new();
    while let Some(row) = rows.next()? {
        let seq = row.get(column::SEQ)?;
        let before = all.last().map_or(0, |row| row.place.0);
        let place = (key(row).unwrap_or(before), seq);
        let read = Job::read(db, row).and_then(|job| {
            let args =
                row.get_ref(column::COUNT)?.as_blob_or_null().map_err(rusqlite::Error::from)?;
            Ok((job, args.map(<[u8]>::to_vec)))
        });
        let (job, args) = match read {
            Ok((job, args)) => (Some(job), args),
            Err(fault) if fault.is_corrupt_row() => {
                warn_corrupt_row(seq, &fault);
                (None, None)
            }
            Err(fault) => return Err(fault),
        };
        all.push(ListRow { place, job, args });
    }
    Ok(all)
}

/// The record of a row, if it is asked for and can be read.
pub(crate) fn wanted(
    db: &Db<'_>,
    filter: &Filter<'_>,
    row: ListRow,
) -> SqlResult<Option<JobRecord>> {
    let Some(job) = row.job else { return Ok(None) };
    let seq = job.seq;
    let record = match filter.matches(db, &job, row.args.as_deref()) {
        Ok(true) => job.record(db).map(Some),
        Ok(false) => Ok(None),
        Err(fault) => Err(fault),
    };
    match record {
        Err(fault) if fault.is_corrupt_row() => {
            warn_corrupt_row(seq, &fault);
            Ok(None)
        }
        record => record,
    }
}
