//! Exporting whole records.

use jobkit_core::limit::Limit;
use jobkit_core::state::StateName;
use jobkit_core::storage::{ExportPage, PauseTarget, Whole, WholeJob, WholeRecurring};
use jobkit_core::unique::{KeyHash, Until};
use jobkit_core::{BatchId, Error, JobId, Timestamp};
use rusqlite::params;

use super::pauses::pauses;
use crate::batches::batch_row;
use crate::codec::{at, bytes16, json, size, uint};
use crate::connection::Db;
use crate::error::{SqlResult, warn_corrupt_row};
use crate::jobs::read::details_at;
use crate::limits::limit_row::window_at;
use crate::log::lines::lines_of;
use crate::recurring;

/// A page holds about this many bytes of arguments, results and logs.
const PAGE_BYTES: usize = 8 << 20;

/// The parts of an export, in its order.
const PARTS: [&str; 6] = ["limit", "pause", "recurring", "batch", "key", "job"];

fn bad_place() -> Error {
    Error::invalid("after", "is no place of an export")
}

/// A page of everything that is not running.
pub(super) fn export(db: &Db<'_>, after: Option<&str>, limit: usize) -> SqlResult<ExportPage> {
    let (mut part, mut seen) = match after {
        None => (0, None),
        Some(after) => {
            let (name, key) = match after.split_once(' ') {
                Some((name, key)) => (name, Some(key.to_owned())),
                None => (after, None),
            };
            (PARTS.iter().position(|it| *it == name).ok_or_else(bad_place)?, key)
        }
    };
    let mut page = ExportPage::default();
    let mut bytes = 0;
    loop {
        let left = limit - page.items.len();
        let found = match PARTS[part] {
            "limit" => limits(db, seen.as_deref(), left)?,
            "pause" => paused(db, seen.as_deref(), left)?,
            "recurring" => schedules(db, seen.as_deref(), left)?,
            "batch" => whole_batches(db, seen.as_deref(), left)?,
            "key" => periods(db, seen.as_deref(), left)?,
            _ => jobs(db, seen.as_deref(), left, &mut bytes, &mut page.running)?,
        };
        let Found { items, last, more } = found;
        page.items.extend(items);
        if more {
            page.next = last.or(seen).map(|key| format!("{} {key}", PARTS[part]));
            return Ok(page);
        }
        if part + 1 == PARTS.len() {
            return Ok(page);
        }
        (part, seen) = (part + 1, None);
        if page.items.len() == limit {
            page.next = Some(PARTS[part].to_owned());
            return Ok(page);
        }
    }
}

/// A stretch of one part.
struct Found {
    items: Vec<Whole>,
    /// The key of the last.
    last: Option<String>,
    /// Whether there may be more.
    more: bool,
}

fn found(rows: Vec<(String, Whole)>, limit: usize) -> Found {
    let more = rows.len() == limit;
    let last = rows.last().map(|(key, _)| key.clone());
    Found { items: rows.into_iter().map(|(_, item)| item).collect(), last, more }
}

fn limits(db: &Db<'_>, after: Option<&str>, limit: usize) -> SqlResult<Found> {
    let rows = db.all(
        "SELECT name, max, win, len, by_operator FROM jk_limit WHERE name > ?1 ORDER BY name LIMIT ?2",
        params![after.unwrap_or_default(), size(limit)],
        |row| {
            let limit = Limit {
                name: row.get(0)?,
                max: row.get(1)?,
                window: window_at(row.get(2)?, row.get(3)?),
            };
            Ok((limit.name.clone(), Whole::Limit { limit, by_operator: row.get(4)? }))
        },
    )?;
    Ok(found(rows, limit))
}

fn paused(db: &Db<'_>, after: Option<&str>, limit: usize) -> SqlResult<Found> {
    let mut rows = Vec::new();
    for record in pauses(db)? {
        let key = match &record.target {
            PauseTarget::Queue(name) => format!("queue {name}"),
            PauseTarget::Kind(name) => format!("kind {name}"),
        };
        if after.is_none_or(|after| *key > *after) {
            rows.push((key, Whole::from(record)));
        }
    }
    rows.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    rows.truncate(limit);
    Ok(found(rows, limit))
}

fn schedules(db: &Db<'_>, after: Option<&str>, limit: usize) -> SqlResult<Found> {
    let rows = db.all(
        "SELECT id, last_nominal, fired FROM jk_recurring WHERE id > ?1 ORDER BY id LIMIT ?2",
        params![after.unwrap_or_default(), size(limit)],
        |row| {
            let last = row.get::<_, Option<i64>>(1)?;
            Ok((row.get::<_, String>(0)?, last, row.get::<_, Option<String>>(2)?))
        },
    )?;
    let mut wholes = Vec::with_capacity(rows.len());
    for (id, last, fired) in rows {
        let whole = WholeRecurring {
            record: recurring::load(db, &id)?,
            last_nominal_at: last.map(Timestamp::from_micros),
            fired: fired.map(|text| json(&text)).transpose()?.unwrap_or_default(),
            runs: recurring::runs(db, &id, jobkit_core::bounds::RECURRING_RUNS)?,
            id: id.clone(),
        };
        wholes.push((id, Whole::Recurring(Box::new(whole))));
    }
    Ok(found(wholes, limit))
}

fn whole_batches(db: &Db<'_>, after: Option<&str>, limit: usize) -> SqlResult<Found> {
    let after: Option<BatchId> = after.map(str::parse).transpose()?;
    let rows = batch_row::wholes(db, after, limit)?.into_iter();
    let rows = rows.map(|whole| (whole.record.id.to_string(), Whole::Batch(whole))).collect();
    Ok(found(rows, limit))
}

fn periods(db: &Db<'_>, after: Option<&str>, limit: usize) -> SqlResult<Found> {
    let after = after.map(unhex).transpose()?;
    let rows = db.all(
        "SELECT hash, holder, until FROM jk_ukey WHERE hash > ?1 AND until IS NOT NULL \
         ORDER BY hash LIMIT ?2",
        params![after.unwrap_or_default(), size(limit)],
        |row| {
            let hash = KeyHash(bytes16(row.get_ref(0)?.as_blob()?));
            let holder = row.get_ref(1)?.as_blob_or_null()?.unwrap_or_default();
            let job = JobId::from_bytes(bytes16(holder));
            let until = at(row.get(2)?);
            Ok((hex(&hash.0), Whole::Key { hash, job, until }))
        },
    )?;
    Ok(found(rows, limit))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> SqlResult<Vec<u8>> {
    let byte = |at: usize| text.get(at..at + 2).and_then(|it| u8::from_str_radix(it, 16).ok());
    let bytes = (0..text.len()).step_by(2).map(byte).collect::<Option<Vec<u8>>>();
    Ok(bytes.ok_or_else(bad_place)?)
}

fn jobs(
    db: &Db<'_>,
    after: Option<&str>,
    limit: usize,
    bytes: &mut usize,
    running: &mut u64,
) -> SqlResult<Found> {
    let after: i64 = after.map(str::parse).transpose().map_err(|_| bad_place())?.unwrap_or(0);
    let seqs = db.all(
        "SELECT seq, state FROM jk_job WHERE seq > ?1 ORDER BY seq LIMIT ?2",
        [after, size(limit)],
        |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
    )?;
    let mut found =
        Found { items: Vec::with_capacity(seqs.len()), last: None, more: seqs.len() == limit };
    for (seq, state) in seqs {
        if *bytes > PAGE_BYTES {
            found.more = true;
            break;
        }
        found.last = Some(seq.to_string());
        if state == size(StateName::Processing.index()) {
            *running += 1;
            continue;
        }
        match whole(db, seq) {
            Ok(Some(whole)) => {
                *bytes += whole.size();
                found.items.push(Whole::Job(Box::new(whole)));
            }
            Ok(None) => {}
            Err(fault) if fault.is_corrupt_row() => warn_corrupt_row(seq, &fault),
            Err(fault) => return Err(fault),
        }
    }
    Ok(found)
}

fn whole(db: &Db<'_>, seq: i64) -> SqlResult<Option<WholeJob>> {
    let Some((details, operation)) = details_at(db, seq)? else { return Ok(None) };
    let record = &details.record;
    let key = record.unique.as_ref().filter(|unique| !matches!(unique.until, Until::Period(_)));
    let holds_key = match key {
        Some(unique) => db
            .one(
                "SELECT 1 FROM jk_ukey WHERE hash = ?1 AND job = ?2 AND until IS NULL",
                params![&unique.hash().0[..], seq],
                |_| Ok(()),
            )?
            .is_some(),
        None => false,
    };
    let memos = db.all(
        "SELECT key, value FROM jk_memo WHERE seq = ?1 AND run = ?2 ORDER BY key",
        params![seq, record.head.run],
        |row| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?.into())),
    )?;
    let checkpoint = db.one("SELECT value FROM jk_checkpoint WHERE seq = ?1", [seq], |row| {
        Ok(row.get::<_, Vec<u8>>(0)?.into())
    })?;
    let mut logs = Vec::new();
    for (fence, dropped) in db.all(
        "SELECT fence, dropped FROM jk_log_tail WHERE seq = ?1 ORDER BY fence",
        [seq],
        |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
    )? {
        let lines = lines_of(db, seq, fence)?;
        logs.push((uint(fence), lines, uint(dropped)));
    }
    Ok(Some(WholeJob { details, holds_key, operation, memos, checkpoint, logs }))
}
