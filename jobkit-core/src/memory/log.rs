//! `impl JobLog`.

use async_trait::async_trait;

use crate::memory::MemoryStorage;
use crate::model::bounds;
use crate::model::error::{Error, Result};
use crate::model::ids::JobId;
use crate::model::name::check_label;
use crate::model::record::{Lease, Payload, Progress};
use crate::storage::{Call, JobLog, LogLine, LogPage, LogWrite, WriteAnswer, check_items};

use super::state::{Place, Tables};

#[async_trait]
impl JobLog for MemoryStorage {
    async fn write_log(&self, call: &Call, writes: &[LogWrite]) -> Result<Vec<WriteAnswer>> {
        check_items("writes", writes.len())?;
        Ok(self.write(call, |tables, _| {
            let mut write = |write: &LogWrite| {
                let Some(place) = tables.find_held(&write.lease) else {
                    return WriteAnswer::LeaseLost;
                };
                let fence = write.lease.fence;
                tables.append_log(place, fence, &write.lines, write.dropped, &write.progress);
                WriteAnswer::Written
            };
            writes.iter().map(&mut write).collect()
        }))
    }

    async fn read_log(
        &self,
        job: JobId,
        fence: Option<u64>,
        after: u64,
        limit: usize,
    ) -> Result<LogPage> {
        Ok(self.read(|tables| {
            let Some(place) = tables.find(job) else { return LogPage::default() };
            let job = tables.job(place);
            let fence = fence.unwrap_or(job.record.head.fence);
            let Some(log) = job.logs.get(&fence) else {
                return LogPage { fence, ..LogPage::default() };
            };
            let numbered = (log.evicted + 1..).zip(&log.lines);
            let lines = numbered
                .filter(|(number, _)| *number > after)
                .take(limit)
                .map(|(number, line)| (number, line.clone()))
                .collect();
            LogPage { fence, lines, dropped: log.evicted + log.dropped }
        }))
    }

    async fn put_memo(
        &self,
        call: &Call,
        lease: Lease,
        key: &str,
        value: &Payload,
    ) -> Result<Option<Payload>> {
        check_label("memo", key)?;
        check_value("memo", value)?;
        Ok(self.write(call, |tables, _| {
            let place = tables.find_held(&lease)?;
            let memos = &mut tables.job_mut(place).memos;
            Some(memos.entry(key.to_owned()).or_insert_with(|| value.clone()).clone())
        }))
    }

    async fn memo(&self, job: JobId, key: &str) -> Result<Option<Payload>> {
        Ok(self.read(|tables| {
            let place = tables.find(job)?;
            tables.job(place).memos.get(key).cloned()
        }))
    }

    async fn put_checkpoint(
        &self,
        call: &Call,
        lease: Lease,
        value: &Payload,
    ) -> Result<WriteAnswer> {
        check_value("checkpoint", value)?;
        Ok(self.write(call, |tables, _| match tables.find_held(&lease) {
            Some(place) => {
                tables.job_mut(place).checkpoint = Some(value.clone());
                WriteAnswer::Written
            }
            None => WriteAnswer::LeaseLost,
        }))
    }

    async fn checkpoint(&self, job: JobId) -> Result<Option<Payload>> {
        Ok(self.read(|tables| {
            let place = tables.find(job)?;
            tables.job(place).checkpoint.clone()
        }))
    }
}

fn check_value(field: &'static str, value: &Payload) -> Result<()> {
    let max = bounds::RESULT_BYTES;
    if value.len() <= max {
        return Ok(());
    }
    let reason = format_args!("has {} bytes, where at most {max} are allowed", value.len());
    Err(Error::invalid(field, reason))
}

impl Tables {
    /// Appends what a handler told during the attempt `fence`.
    pub(super) fn append_log(
        &mut self,
        place: Place,
        fence: u64,
        lines: &[LogLine],
        dropped: u64,
        progress: &[Progress],
    ) {
        if lines.is_empty() && dropped == 0 && progress.is_empty() {
            return;
        }
        let job = self.job_mut(place);
        if !lines.is_empty() || dropped > 0 {
            let log = job.logs.entry(fence).or_default();
            log.dropped += dropped;
            log.lines.extend(lines.iter().cloned());
            while log.lines.len() > bounds::LOG_LINES {
                log.lines.pop_front();
                log.evicted += 1;
            }
        }
        for bar in progress {
            match job.progress.iter_mut().find(|other| other.name == bar.name) {
                Some(other) => *other = bar.clone(),
                None => job.progress.push(bar.clone()),
            }
        }
    }
}
