//! `BatchStore`.

use async_trait::async_trait;
use jobkit_core::batch::{BatchRecord, BatchState, Starts};
use jobkit_core::edge::{BatchCounts, Finish, Parent};
use jobkit_core::refusal::Refusal;
use jobkit_core::storage::{BatchOutcome, BatchStore};
use jobkit_core::{BatchId, Result, Timestamp, bounds};
use rusqlite::{Row, params};

use crate::codec::{at, bytes16, int, size, uint};
use crate::connection::Db;
use crate::error::Done;
use crate::jobs::transition::Budget;
use crate::storage::SqliteStorage;
use crate::sweep::{Mark, STEP, Verdict};
use crate::writer::Flight;

/// A batch that a flight looked at.
#[derive(Debug)]
pub(crate) struct Touched {
    pub(crate) record: BatchRecord,
    /// Whether it must be written.
    changed: bool,
}

macro_rules! select_batch {
    ($rest:literal) => {
        concat!(
            "SELECT id, name, total, succeeded, failed, deleted, created_at, attached_at, started_at, ",
            "completed_at, succeeded_at, cancelled_at FROM jk_batch ",
            $rest
        )
    };
}

fn read(row: &Row<'_>) -> rusqlite::Result<BatchRecord> {
    let instant = |column| -> rusqlite::Result<_> {
        Ok(row.get::<_, Option<i64>>(column)?.map(Timestamp::from_micros))
    };
    Ok(BatchRecord {
        id: BatchId::from_bytes(bytes16(row.get_ref(0)?.as_blob()?)),
        name: row.get(1)?,
        parent: None,
        counts: BatchCounts {
            total: uint(row.get(2)?),
            succeeded: uint(row.get(3)?),
            failed: uint(row.get(4)?),
            deleted: uint(row.get(5)?),
        },
        created_at: at(row.get(6)?),
        attached_at: at(row.get(7)?),
        started_at: instant(8)?,
        completed_at: instant(9)?,
        succeeded_at: instant(10)?,
        cancelled_at: instant(11)?,
    })
}

fn load(db: &Db<'_>, id: BatchId) -> Done<Option<BatchRecord>> {
    Ok(db.one(select_batch!("WHERE id = ?1"), [&id.as_bytes()[..]], read)?)
}

impl Flight<'_, '_> {
    /// The batch as this flight has left it.
    pub(crate) fn batch(&mut self, id: BatchId) -> Done<Option<&mut Touched>> {
        if !self.batches.contains_key(&id) {
            let Some(record) = load(self.db, id)? else { return Ok(None) };
            self.batches.insert(id, Touched { record, changed: false });
        }
        Ok(self.batches.get_mut(&id))
    }

    pub(crate) fn batch_is_cancelled(&mut self, id: BatchId) -> Done<bool> {
        Ok(self.batch(id)?.is_some_and(|batch| batch.record.cancelled_at.is_some()))
    }

    pub(crate) fn open_batch(
        &mut self,
        id: BatchId,
        name: &str,
        starts: Starts,
        now: Timestamp,
    ) -> Done {
        let started_at = (starts == Starts::AtOnce).then_some(now);
        self.db.run(
            "INSERT INTO jk_batch (id, name, total, succeeded, failed, deleted, members, created_at, \
             attached_at, started_at) VALUES (?1, ?2, 0, 0, 0, 0, 0, ?3, ?3, ?4)",
            params![
                &id.as_bytes()[..],
                name,
                now.as_micros(),
                started_at.map(Timestamp::as_micros)
            ],
        )?;
        if let Some(batch) = self.batch(id)? {
            batch.changed = true;
        }
        Ok(())
    }

    /// Counts a new member.
    pub(crate) fn attach(&mut self, id: BatchId, finish: Option<Finish>, now: Timestamp) -> Done {
        if let Some(batch) = self.batch(id)? {
            batch.changed = true;
            batch.record.attached_at = now;
            batch.record.counts.total += 1;
            if let Some(finish) = finish {
                batch.record.counts.count(finish, 1);
            }
        }
        self.db
            .run("UPDATE jk_batch SET members = members + 1 WHERE id = ?1", [&id.as_bytes()[..]])?;
        Ok(())
    }

    /// Counts a member that came back, finished, or both.
    pub(crate) fn recount(
        &mut self,
        id: BatchId,
        reopened: Option<Finish>,
        finished: Option<Finish>,
    ) -> Done {
        if let Some(batch) = self.batch(id)? {
            batch.changed = true;
            let counts = &mut batch.record.counts;
            if let Some(finish) = reopened {
                counts.count(finish, -1);
            }
            if let Some(finish) = finished {
                counts.count(finish, 1);
            }
        }
        Ok(())
    }

    /// Writes the batches that changed, completes those whose members have all finished, and decides
    /// what waits for them. Whether any had changed.
    pub(crate) fn settle_batches(&mut self, now: Timestamp, budget: &mut Budget) -> Done<bool> {
        let mut changed: Vec<BatchRecord> = Vec::new();
        for batch in self.batches.values_mut().filter(|batch| batch.changed) {
            batch.changed = false;
            batch.record.advance(now);
            changed.push(batch.record.clone());
        }
        // In an order that does not depend on a hash.
        changed.sort_by_key(|batch| batch.id);
        for batch in &changed {
            self.write_batch(batch)?;
            if batch.completed_at.is_some() {
                self.decide_batch(batch, now, budget)?;
            }
        }
        Ok(!changed.is_empty())
    }

    fn decide_batch(&mut self, batch: &BatchRecord, now: Timestamp, budget: &mut Budget) -> Done {
        let completed = batch.completed_at.is_some();
        let verdict = Verdict::of(|on| on.decide_batch(completed, &batch.counts));
        self.decide_or_mark(Parent::Batch(batch.id), verdict, now, budget)
    }

    fn write_batch(&self, batch: &BatchRecord) -> Done {
        let instant = |at: Option<Timestamp>| at.map(Timestamp::as_micros);
        self.db.run(
            "UPDATE jk_batch SET total = ?2, succeeded = ?3, failed = ?4, deleted = ?5, \
             attached_at = ?6, started_at = ?7, completed_at = ?8, succeeded_at = ?9, \
             cancelled_at = ?10 WHERE id = ?1",
            params![
                &batch.id.as_bytes()[..],
                int(batch.counts.total),
                int(batch.counts.succeeded),
                int(batch.counts.failed),
                int(batch.counts.deleted),
                batch.attached_at.as_micros(),
                instant(batch.started_at),
                instant(batch.completed_at),
                instant(batch.succeeded_at),
                instant(batch.cancelled_at),
            ],
        )?;
        Ok(())
    }

    fn start_batch(&mut self, id: BatchId, now: Timestamp) -> Done<BatchOutcome> {
        let Some(batch) = self.batch(id)? else {
            return Ok(BatchOutcome::Refused(Refusal::BatchGone { batch: id }));
        };
        if batch.record.cancelled_at.is_some() {
            return Ok(BatchOutcome::Refused(Refusal::BatchCancelled { batch: id }));
        }
        if batch.record.started_at.is_some() {
            return Ok(BatchOutcome::AlreadyApplied);
        }
        batch.record.started_at = Some(now);
        batch.changed = true;
        self.begin_mark(&Mark::Start { batch: id }, now)?;
        Ok(BatchOutcome::Changed)
    }

    fn cancel_batch(&mut self, id: BatchId, now: Timestamp) -> Done<BatchOutcome> {
        let Some(batch) = self.batch(id)? else {
            return Ok(BatchOutcome::Refused(Refusal::BatchGone { batch: id }));
        };
        if batch.record.cancelled_at.is_some() {
            return Ok(BatchOutcome::AlreadyApplied);
        }
        if batch.record.completed_at.is_some() {
            return Ok(BatchOutcome::Refused(Refusal::BatchFinished { batch: id }));
        }
        self.end_batch(id, Mark::Cancel { batch: id }, now)?;
        Ok(BatchOutcome::Changed)
    }

    /// Cancels or discards a batch.
    pub(crate) fn end_batch(&mut self, id: BatchId, mark: Mark, now: Timestamp) -> Done {
        if let Some(batch) = self.batch(id)? {
            batch.record.cancelled_at.get_or_insert(now);
            // So that it can complete.
            batch.record.started_at.get_or_insert(now);
            batch.changed = true;
        }
        self.begin_mark(&mark, now)
    }

    /// Does the first bounded step of a mark, and marks what is left.
    fn begin_mark(&mut self, mark: &Mark, now: Timestamp) -> Done {
        let mut budget = Budget(bounds::CHILDREN_IN_SETTLE);
        let until = self.last_seq()?;
        let done = self.members_step(mark, 0, until, STEP, now)?;
        if let Some(done) = done {
            self.mark_from(mark, done, until)?;
        }
        self.cascade(now, &mut budget)
    }
}

#[async_trait]
impl BatchStore for SqliteStorage {
    async fn start_batch(&self, id: BatchId, now: Option<Timestamp>) -> Result<BatchOutcome> {
        self.writer()
            .call("start_batch", move |flight| {
                let now = flight.now(now);
                flight.start_batch(id, now)
            })
            .await
    }

    async fn cancel_batch(&self, id: BatchId, now: Option<Timestamp>) -> Result<BatchOutcome> {
        self.writer()
            .call("cancel_batch", move |flight| {
                let now = flight.now(now);
                flight.cancel_batch(id, now)
            })
            .await
    }

    async fn batch(&self, id: BatchId) -> Result<Option<BatchRecord>> {
        self.read("batch", move |db| load(db, id)).await
    }

    async fn batches(
        &self,
        state: Option<BatchState>,
        before: Option<BatchId>,
        limit: usize,
    ) -> Result<Vec<BatchRecord>> {
        self.read("batches", move |db| {
            // Ids begin with the time at which they were made.
            let mut below = before.map_or([u8::MAX; 16], |before| *before.as_bytes());
            let mut batches = Vec::new();
            while batches.len() < limit {
                let page = db.all(
                    select_batch!("WHERE id < ?1 ORDER BY id DESC LIMIT ?2"),
                    params![&below[..], size(limit.max(100))],
                    read,
                )?;
                let Some(last) = page.last() else { break };
                below = *last.id.as_bytes();
                let wanted = |batch: &BatchRecord| state.is_none_or(|s| batch.state() == s);
                let room = limit - batches.len();
                batches.extend(page.into_iter().filter(wanted).take(room));
            }
            Ok(batches)
        })
        .await
    }
}
