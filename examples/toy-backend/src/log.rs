//! `impl JobLog`.

use async_trait::async_trait;
use jobkit_core::name::check_label;
use jobkit_core::record::{Lease, Payload, Progress};
use jobkit_core::storage::{Call, JobLog, LogLine, LogPage, LogWrite, WriteAnswer, check_items};
use jobkit_core::{Error, JobId, Result, bounds};
use serde::{Deserialize, Serialize};

use crate::ToyStorage;
use crate::fault::Fault;
use crate::keys::{Key, beside, last_number};
use crate::txn::Txn;

/// How the lines of an attempt are numbered.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Lines {
    /// The number of the last line.
    last: u64,
    /// Lines that were appended and are not kept any more.
    evicted: u64,
    /// Lines that the server dropped before it sent them.
    dropped: u64,
}

fn lines(place: u64, fence: u64) -> Key {
    beside(place, "line").number(fence)
}

fn memo(place: u64, key: &str) -> Key {
    beside(place, "memo").text(key)
}

#[async_trait]
impl JobLog for ToyStorage {
    // [guide: log]
    async fn write_log(&self, call: &Call, writes: &[LogWrite]) -> Result<Vec<WriteAnswer>> {
        check_items("writes", writes.len())?;
        self.write(call, |txn| {
            let write = |write: &LogWrite| {
                let Some(place) = txn.writable(&write.lease)? else {
                    return Ok(WriteAnswer::LeaseLost);
                };
                let fence = write.lease.fence;
                txn.append_log(place, fence, &write.lines, write.dropped, &write.progress)?;
                Ok(WriteAnswer::Written)
            };
            writes.iter().map(write).collect()
        })
    }
    // [end]

    async fn read_log(
        &self,
        job: JobId,
        fence: Option<u64>,
        after: u64,
        limit: usize,
    ) -> Result<LogPage> {
        self.read(|txn| {
            let Some(job) = txn.job_by_id(job)? else { return Ok(LogPage::default()) };
            let place = job.record.sequence;
            let fence = fence.unwrap_or(job.record.head.fence);
            let numbers: Lines =
                txn.get(&beside(place, "lines").number(fence))?.unwrap_or_default();
            let table = lines(place, fence);
            let from = table.clone().number(after.saturating_add(1));
            let mut page = LogPage { fence, ..LogPage::default() };
            page.dropped = numbers.evicted + numbers.dropped;
            for key in txn.keys_from(&table, &from, limit) {
                page.lines.extend(txn.get(&key)?.map(|line| (last_number(&key), line)));
            }
            Ok(page)
        })
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
        self.write(call, |txn| {
            let Some(place) = txn.writable(&lease)? else { return Ok(None) };
            // The first write of the run stays.
            if let Some(kept) = txn.tx.get(&memo(place, key)) {
                return Ok(Some(kept.into()));
            }
            txn.tx.put(memo(place, key), value.as_bytes());
            Ok(Some(value.clone()))
        })
    }

    async fn memo(&self, job: JobId, key: &str) -> Result<Option<Payload>> {
        self.read(|txn| {
            let place = txn.find(job);
            Ok(place.and_then(|place| txn.tx.get(&memo(place, key))).map(Payload::from))
        })
    }

    async fn put_checkpoint(
        &self,
        call: &Call,
        lease: Lease,
        value: &Payload,
    ) -> Result<WriteAnswer> {
        check_value("checkpoint", value)?;
        self.write(call, |txn| {
            let Some(place) = txn.writable(&lease)? else { return Ok(WriteAnswer::LeaseLost) };
            txn.tx.put(beside(place, "checkpoint"), value.as_bytes());
            Ok(WriteAnswer::Written)
        })
    }

    async fn checkpoint(&self, job: JobId) -> Result<Option<Payload>> {
        self.read(|txn| {
            let place = txn.find(job);
            let kept = place.and_then(|place| txn.tx.get(&beside(place, "checkpoint")));
            Ok(kept.map(Payload::from))
        })
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

impl Txn<'_> {
    /// The place of a job that this lease may write to.
    fn writable(&self, lease: &Lease) -> Result<Option<u64>> {
        if self.has(Fault::LogIgnoresTheHolder) {
            return Ok(self.find(lease.job));
        }
        self.find_held(lease)
    }

    /// Appends what a handler told during the attempt `fence`.
    pub(crate) fn append_log(
        &mut self,
        place: u64,
        fence: u64,
        new: &[LogLine],
        dropped: u64,
        progress: &[Progress],
    ) -> Result<()> {
        if !new.is_empty() || dropped > 0 {
            let key = beside(place, "lines").number(fence);
            let mut numbers: Lines = self.get(&key)?.unwrap_or_default();
            numbers.dropped += dropped;
            for line in new {
                numbers.last += 1;
                self.put(lines(place, fence).number(numbers.last), line)?;
            }
            while numbers.last - numbers.evicted > bounds::LOG_LINES as u64 {
                numbers.evicted += 1;
                let newest = self.has(Fault::OldestLinesStay);
                let gone = if newest { numbers.last } else { numbers.evicted };
                self.tx.delete(lines(place, fence).number(gone));
            }
            self.put(key, &numbers)?;
        }
        if progress.is_empty() {
            return Ok(());
        }
        let mut job = self.job(place)?;
        for bar in progress {
            match job.progress.iter_mut().find(|other| other.name == bar.name) {
                Some(other) => *other = bar.clone(),
                None => job.progress.push(bar.clone()),
            }
        }
        self.save(&job)
    }
}
