//! `JobLog`.

use async_trait::async_trait;
use jobkit_core::name::check_label;
use jobkit_core::record::{Lease, Payload, Progress};
use jobkit_core::storage::{
    JobLog, LogLevel, LogLine, LogPage, LogWrite, WriteAnswer, check_items,
};
use jobkit_core::{Error, JobId, Result, bounds};
use rusqlite::params;

use crate::codec::{ASIDE, Job, at, int, payload, size, uint};
use crate::connection::Db;
use crate::error::Done;
use crate::jobs::find;
use crate::storage::SqliteStorage;
use crate::writer::Flight;

fn level_number(level: LogLevel) -> i64 {
    match level {
        LogLevel::Trace => 0,
        LogLevel::Debug => 1,
        LogLevel::Info => 2,
        LogLevel::Warn => 3,
        LogLevel::Error => 4,
    }
}

fn level_at(number: i64) -> LogLevel {
    match number {
        0 => LogLevel::Trace,
        1 => LogLevel::Debug,
        3 => LogLevel::Warn,
        4 => LogLevel::Error,
        _ => LogLevel::Info,
    }
}

impl Flight<'_, '_> {
    /// The job, if the lease is held.
    fn held(&self, lease: &Lease) -> Done<Option<Job>> {
        let job = self.leased(lease)?;
        Ok(job.filter(|job| job.head.is_held_by(lease.fence, lease.incarnation)))
    }

    /// Notes that the job has rows in other tables.
    fn has_aside(&self, job: &Job) -> Done {
        if !job.has(ASIDE) {
            self.db.run("UPDATE jk_job SET flags = flags | ?2 WHERE seq = ?1", [job.seq, ASIDE])?;
        }
        Ok(())
    }

    fn write_log(&self, write: &LogWrite) -> Done<WriteAnswer> {
        let Some(job) = self.held(&write.lease)? else { return Ok(WriteAnswer::LeaseLost) };
        self.has_aside(&job)?;
        self.append_log(job.seq, write.lease.fence, &write.lines, write.dropped)?;
        self.set_progress(job.seq, &write.progress)?;
        Ok(WriteAnswer::Written)
    }

    pub(crate) fn append_log(&self, seq: i64, fence: u64, lines: &[LogLine], dropped: u64) -> Done {
        if lines.is_empty() && dropped == 0 {
            return Ok(());
        }
        let fence = int(fence);
        let (first, mut dropped_before) = self
            .db
            .one(
                "SELECT last, dropped FROM jk_log_tail WHERE seq = ?1 AND fence = ?2",
                [seq, fence],
                |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
            )?
            .unwrap_or((0, 0));
        let mut last = first;
        for line in lines {
            last = last.saturating_add(1);
            self.db.run(
                "INSERT INTO jk_log (seq, fence, n, at, level, text) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    seq,
                    fence,
                    last,
                    line.at.as_micros(),
                    level_number(line.level),
                    line.text
                ],
            )?;
        }
        if last > size(bounds::LOG_LINES) {
            let gone = self.db.run(
                "DELETE FROM jk_log WHERE seq = ?1 AND fence = ?2 AND n <= ?3",
                [seq, fence, last - size(bounds::LOG_LINES)],
            )?;
            dropped_before = dropped_before.saturating_add(size(gone));
        }
        self.db.run(
            "INSERT INTO jk_log_tail (seq, fence, last, dropped) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (seq, fence) DO UPDATE SET last = excluded.last, dropped = excluded.dropped",
            [seq, fence, last, dropped_before.saturating_add(int(dropped))],
        )?;
        Ok(())
    }

    pub(crate) fn set_progress(&self, seq: i64, progress: &[Progress]) -> Done {
        for bar in progress {
            self.db.run(
                "INSERT INTO jk_progress (seq, name, done, total, message) \
                 VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (seq, name) DO UPDATE SET \
                 done = excluded.done, total = excluded.total, message = excluded.message",
                params![seq, bar.name, int(bar.done), int(bar.total), bar.message],
            )?;
        }
        Ok(())
    }

    fn put_memo(&self, lease: &Lease, key: &str, value: &Payload) -> Done<Option<Payload>> {
        let Some(job) = self.held(lease)? else { return Ok(None) };
        self.has_aside(&job)?;
        self.db.run(
            "INSERT INTO jk_memo (seq, run, key, value) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (seq, run, key) DO NOTHING",
            params![job.seq, job.head.run, key, value.as_bytes()],
        )?;
        memo(self.db, &job, key)
    }
}

fn memo(db: &Db<'_>, job: &Job, key: &str) -> Done<Option<Payload>> {
    Ok(db
        .one(
            "SELECT value FROM jk_memo WHERE seq = ?1 AND run = ?2 AND key = ?3",
            params![job.seq, job.head.run, key],
            |row| payload(row, 0),
        )?
        .flatten())
}

/// All lines of an attempt.
pub(crate) fn lines_of(db: &Db<'_>, seq: i64, fence: i64) -> Done<Vec<LogLine>> {
    Ok(db.all(
        "SELECT at, level, text FROM jk_log WHERE seq = ?1 AND fence = ?2 ORDER BY n",
        [seq, fence],
        |row| Ok(LogLine { at: at(row.get(0)?), level: level_at(row.get(1)?), text: row.get(2)? }),
    )?)
}

fn read_log(db: &Db<'_>, id: JobId, fence: Option<u64>, after: u64, limit: usize) -> Done<LogPage> {
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
    async fn write_log(&self, writes: &[LogWrite]) -> Result<Vec<WriteAnswer>> {
        check_items("writes", writes.len())?;
        let writes = writes.to_vec();
        self.writer()
            .call("write_log", move |flight| {
                writes.iter().map(|write| flight.write_log(write)).collect()
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

    async fn put_memo(&self, lease: Lease, key: &str, value: &Payload) -> Result<Option<Payload>> {
        check_label("memo", key)?;
        check_value("memo", value)?;
        let (key, value) = (key.to_owned(), value.clone());
        self.writer().call("put_memo", move |flight| flight.put_memo(&lease, &key, &value)).await
    }

    async fn memo(&self, job: JobId, key: &str) -> Result<Option<Payload>> {
        let key = key.to_owned();
        self.read("memo", move |db| match find(db, job)? {
            Some(job) => memo(db, &job, &key),
            None => Ok(None),
        })
        .await
    }

    async fn put_checkpoint(&self, lease: Lease, value: &Payload) -> Result<WriteAnswer> {
        check_value("checkpoint", value)?;
        let value = value.clone();
        self.writer()
            .call("put_checkpoint", move |flight| {
                let Some(job) = flight.held(&lease)? else { return Ok(WriteAnswer::LeaseLost) };
                flight.has_aside(&job)?;
                flight.db.run(
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
