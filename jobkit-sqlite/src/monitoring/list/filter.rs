//! What a query asks for, and which rows match it.

use jobkit_core::state::{State, StateName};
use jobkit_core::storage::JobQuery;

use crate::codec::job_row::{Job, args_overflow_id};
use crate::connection::Db;
use crate::error::SqlResult;
use crate::jobs::read::overflow;

/// A query with the numbers of its names. There is none if a name was never used: then nothing matches.
pub(crate) struct Filter<'q> {
    pub(crate) query: &'q JobQuery,
    pub(crate) queue: Option<i64>,
    pub(crate) kind: Option<i64>,
}

impl<'q> Filter<'q> {
    pub(crate) fn new(db: &Db<'_>, query: &'q JobQuery) -> SqlResult<Option<Self>> {
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

    /// Whether every row of the index matches.
    pub(crate) fn is_indexed(&self) -> bool {
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

    pub(crate) fn matches(&self, db: &Db<'_>, job: &Job, args: Option<&[u8]>) -> SqlResult<bool> {
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
                    None => overflow(db, args_overflow_id(job.seq))?,
                };
                let args = args.or(large.as_deref()).unwrap_or_default();
                return Ok(String::from_utf8_lossy(args).contains(text.as_str()));
            }
        }
        Ok(true)
    }
}
