//! `JobLog`.

pub(crate) mod lines;

use async_trait::async_trait;
use jobkit_core::name::check_label;
use jobkit_core::record::{Lease, Payload};
use jobkit_core::storage::{Call, JobLog, LogLine, LogPage, LogWrite, WriteAnswer, check_items};
use jobkit_core::{Error, JobId, Result, bounds};
use rusqlite::params;

use self::lines::level_at;
use crate::codec::job_row::{HAS_SIDE_ROWS, Job};
use crate::codec::{at, int, payload, size, uint};
use crate::connection::Db;
use crate::error::SqlResult;
use crate::jobs::read::find;
use crate::queue::lease;
use crate::storage::SqliteStorage;
use crate::txn::Txn;

/// The job, if the lease is held.
fn held(txn: &Txn<'_, '_>, lease: &Lease) -> SqlResult<Option<Job>> {
    let job = lease::leased(txn, lease)?;
    Ok(job.filter(|job| job.head.is_held_by(lease.fence, lease.incarnation)))
}

/// Notes that the job has rows in other tables.
fn note_side_rows(txn: &Txn<'_, '_>, job: &Job) -> SqlResult {
    if !job.has(HAS_SIDE_ROWS) {
        txn.db
            .run("UPDATE jk_job SET flags = flags | ?2 WHERE seq = ?1", [job.seq, HAS_SIDE_ROWS])?;
    }
    Ok(())
}

fn write_log(txn: &Txn<'_, '_>, write: &LogWrite) -> SqlResult<WriteAnswer> {
    let Some(job) = held(txn, &write.lease)? else { return Ok(WriteAnswer::LeaseLost) };
    note_side_rows(txn, &job)?;
    lines::append(txn, job.seq, write.lease.fence, &write.lines, write.dropped)?;
    lines::set_progress(txn, job.seq, &write.progress)?;
    Ok(WriteAnswer::Written)
}

fn put_memo(
    txn: &Txn<'_, '_>,
    lease: &Lease,
    key: &str,
    value: &Payload,
) -> SqlResult<Option<Payload>> {
    let Some(job) = held(txn, lease)? else { return Ok(None) };
    note_side_rows(txn, &job)?;
    txn.db.run(
        "INSERT INTO jk_memo (seq, run, key, value) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (seq, run, key) DO NOTHING",
        params![job.seq, job.head.run, key, value.as_bytes()],
    )?;
    memo(txn.db, &job, key)
}

fn memo(db: &Db<'_>, job: &Job, key: &str) -> SqlResult<Option<Payload>> {
    Ok(db
        .one(
            "SELECT value FROM jk_memo WHERE seq = ?1 AND run = ?2 AND key = ?3",
            params![job.seq, job.head.run, key],
            |row| payload(row, 0),
        )?
        .flatten())
}

fn read_log(
    db: &Db<'_>,
    id: JobId,
    fence: Option<u64>,
    after: u64,
    limit: usize,
) -> SqlResult<LogPage> {
    let Some(job) = find(db, id)? else { return Ok(LogPage::default()) };
    let fence = int(fence.unwrap_or(job.head.fence));
    let dropped = db.one(
        "SELECT dropped FROM jk_log_tail WHERE seq = ?1 AND fence = ?2",
        [job.seq, fence],
        |row| row.get(0),
    )?;
    let lines = db.all(
        "SELECT n, at, level, text FROM jk_log WHERE seq = ?1 AND fence = ?2 AND n > ?3 \
         ORDER BY n LIMIT ?4",
        params![job.seq, fence, int(after), size(limit)],
        |row| {
            let line =
                LogLine { at: at(row.get(1)?), level: level_at(row.get(2)?), text: row.get(3)? };
            Ok((uint(row.get(0)?), line))
        },
    )?;
    Ok(LogPage { fence: uint(fence), lines, dropped: uint(dropped.unwrap_or(0)) })
}

fn check_value(field: &'static str, value: &Payload) -> Result<()> {
    let max = bounds::RESULT_BYTES;
    if value.len() <= max {
        return Ok(());
    }
    let reason = format_args!("has {} bytes, where at most {max} are allowed", value.len());
    Err(Error::invalid(field, reason))
}

#[async_trait]
impl JobLog for SqliteStorage {
    async fn write_log(&self, _: &Call, writes: &[LogWrite]) -> Result<Vec<WriteAnswer>> {
        check_items("writes", writes.len())?;
        let writes = writes.to_vec();
        self.writer()
            .call("write_log", move |txn| {
                writes.iter().map(|write| write_log(txn, write)).collect()
            })
            .await
    }

    async fn read_log(
        &self,
        job: JobId,
        fence: Option<u64>,
        after: u64,
        limit: usize,
    ) -> Result<LogPage> {
        self.read("read_log", move |db| read_log(db, job, fence, after, limit)).await
    }

    async fn put_memo(
        &self,
        _: &Call,
        lease: Lease,
        key: &str,
        value: &Payload,
    ) -> Result<Option<Payload>> {
        check_label("memo", key)?;
        check_value("memo", value)?;
        let (key, value) = (key.to_owned(), value.clone());
        self.writer().call("put_memo", move |txn| put_memo(txn, &lease, &key, &value)).await
    }

    async fn memo(&self, job: JobId, key: &str) -> Result<Option<Payload>> {
        let key = key.to_owned();
        self.read("memo", move |db| match find(db, job)? {
            Some(job) => memo(db, &job, &key),
            None => Ok(None),
        })
        .await
    }

    async fn put_checkpoint(&self, _: &Call, lease: Lease, value: &Payload) -> Result<WriteAnswer> {
        check_value("checkpoint", value)?;
        let value = value.clone();
        self.writer()
            .call("put_checkpoint", move |txn| {
                let Some(job) = held(txn, &lease)? else { return Ok(WriteAnswer::LeaseLost) };
                note_side_rows(txn, &job)?;
                txn.db.run(
                    "INSERT OR REPLACE INTO jk_checkpoint (seq, value) VALUES (?1, ?2)",
                    params![job.seq, value.as_bytes()],
                )?;
                Ok(WriteAnswer::Written)
            })
            .await
    }

    async fn checkpoint(&self, job: JobId) -> Result<Option<Payload>> {
        self.read("checkpoint", move |db| {
            let Some(job) = find(db, job)? else { return Ok(None) };
            Ok(db
                .one("SELECT value FROM jk_checkpoint WHERE seq = ?1", [job.seq], |row| {
                    payload(row, 0)
                })?
                .flatten())
        })
        .await
    }
}
