//! `BatchStore`.

use std::collections::BTreeSet;

use async_trait::async_trait;
use jobkit_core::batch::{BatchRecord, BatchState, NewBatch, Starts};
use jobkit_core::edge::{BatchCounts, Finish, Parent};
use jobkit_core::refusal::Refusal;
use jobkit_core::storage::{BatchOutcome, BatchStore, WholeBatch};
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
    /// How the batch around it counts it.
    counted: Option<Finish>,
    /// It is filled, and begins with the batch around it.
    with_parent: bool,
    /// Whether it must be written.
    pub(crate) changed: bool,
}

macro_rules! select_batch {
    ($rest:literal) => {
        concat!(
            "SELECT id, name, total, succeeded, failed, deleted, created_at, attached_at, started_at, ",
            "completed_at, succeeded_at, cancelled_at, parent, lost, counted, with_parent ",
            "FROM jk_batch ",
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
        parent: row.get_ref(12)?.as_blob_or_null()?.map(|it| BatchId::from_bytes(bytes16(it))),
        counts: BatchCounts {
            total: uint(row.get(2)?),
            succeeded: uint(row.get(3)?),
            failed: uint(row.get(4)?),
            deleted: uint(row.get(5)?),
            lost: row.get(13)?,
        },
        created_at: at(row.get(6)?),
        attached_at: at(row.get(7)?),
        started_at: instant(8)?,
        completed_at: instant(9)?,
        succeeded_at: instant(10)?,
        cancelled_at: instant(11)?,
    })
}

fn read_touched(row: &Row<'_>) -> rusqlite::Result<Touched> {
    let counted = row.get::<_, Option<i64>>(14)?.map(finish_at);
    Ok(Touched { record: read(row)?, counted, with_parent: row.get(15)?, changed: false })
}

const fn finish_at(number: i64) -> Finish {
    match number {
        0 => Finish::Succeeded,
        1 => Finish::Failed,
        _ => Finish::Deleted,
    }
}

const fn finish_number(finish: Finish) -> i64 {
    match finish {
        Finish::Succeeded => 0,
        Finish::Failed => 1,
        Finish::Deleted => 2,
    }
}

/// Batches by id, after one, with what their records do not show.
pub(crate) fn wholes(db: &Db<'_>, after: Option<BatchId>, limit: usize) -> Done<Vec<WholeBatch>> {
    let after = after.map(|id| id.as_bytes().to_vec()).unwrap_or_default();
    let text = select_batch!("WHERE id > ?1 ORDER BY id LIMIT ?2");
    let found = db.all(text, params![after, size(limit)], read_touched)?;
    let whole = |it: Touched| WholeBatch {
        record: it.record,
        counted: it.counted,
        starts_with_parent: it.with_parent,
    };
    Ok(found.into_iter().map(whole).collect())
}

/// Stores a batch as another storage had it, with those members that are batches; `false` if it is there.
pub(crate) fn import(db: &Db<'_>, whole: &WholeBatch) -> Done<bool> {
    let WholeBatch { record, counted, starts_with_parent } = whole;
    let instant = |at: Option<Timestamp>| at.map(Timestamp::as_micros);
    let stored = db.run(
        "INSERT INTO jk_batch (id, name, total, succeeded, failed, deleted, members, created_at, \
         attached_at, started_at, completed_at, succeeded_at, cancelled_at, parent, lost, counted, \
         with_parent) VALUES (?1, ?2, ?3, ?4, ?5, ?6, \
         (SELECT count(*) FROM jk_batch WHERE parent IS NOT NULL AND parent = ?1), \
         ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16) ON CONFLICT (id) DO NOTHING",
        params![
            &record.id.as_bytes()[..],
            record.name,
            int(record.counts.total),
            int(record.counts.succeeded),
            int(record.counts.failed),
            int(record.counts.deleted),
            record.created_at.as_micros(),
            record.attached_at.as_micros(),
            instant(record.started_at),
            instant(record.completed_at),
            instant(record.succeeded_at),
            instant(record.cancelled_at),
            record.parent.as_ref().map(|parent| &parent.as_bytes()[..]),
            record.counts.lost,
            counted.map(finish_number),
            starts_with_parent,
        ],
    )? > 0;
    if let Some(parent) = record.parent.as_ref().filter(|_| stored) {
        db.run(
            "UPDATE jk_batch SET members = members + 1 WHERE id = ?1",
            [&parent.as_bytes()[..]],
        )?;
    }
    Ok(stored)
}

fn load(db: &Db<'_>, id: BatchId) -> Done<Option<BatchRecord>> {
    Ok(db.one(select_batch!("WHERE id = ?1"), [&id.as_bytes()[..]], read)?)
}

impl Flight<'_, '_> {
    /// The batch as this flight has left it.
    pub(crate) fn batch(&mut self, id: BatchId) -> Done<Option<&mut Touched>> {
        if !self.batches.contains_key(&id) {
            let found =
                self.db.one(select_batch!("WHERE id = ?1"), [&id.as_bytes()[..]], read_touched)?;
            let Some(batch) = found else { return Ok(None) };
            self.batches.insert(id, batch);
        }
        Ok(self.batches.get_mut(&id))
    }

    /// A batch and those around it, from the inside.
    pub(crate) fn batches_around(&mut self, id: BatchId) -> Done<Vec<BatchRecord>> {
        let mut around: Vec<BatchRecord> = Vec::with_capacity(1);
        let mut next = Some(id);
        while let Some(id) = next
            && let Some(batch) = self.batch(id)?
        {
            next = batch.record.parent;
            around.push(batch.record.clone());
        }
        Ok(around)
    }

    /// Whether a batch, or one around it, was cancelled.
    pub(crate) fn batch_is_cancelled(&mut self, id: BatchId) -> Done<bool> {
        let mut next = Some(id);
        while let Some(id) = next
            && let Some(batch) = self.batch(id)?
        {
            if batch.record.cancelled_at.is_some() {
                return Ok(true);
            }
            next = batch.record.parent;
        }
        Ok(false)
    }

    pub(crate) fn is_filling(&mut self, id: BatchId) -> Done<bool> {
        Ok(self.batch(id)?.is_some_and(|batch| batch.record.started_at.is_none()))
    }

    /// Opens a batch; one with a parent was checked to have room for it.
    pub(crate) fn open_batch(&mut self, new: &NewBatch, now: Timestamp) -> Done {
        let at_once = new.starts == Starts::AtOnce;
        let waits = match new.parent {
            Some(parent) => self.is_filling(parent)?,
            None => false,
        };
        let started_at = (at_once && !waits).then_some(now);
        self.db.run(
            "INSERT INTO jk_batch (id, name, total, succeeded, failed, deleted, members, created_at, \
             attached_at, started_at, parent, with_parent) \
             VALUES (?1, ?2, 0, 0, 0, 0, 0, ?3, ?3, ?4, ?5, ?6)",
            params![
                &new.id.as_bytes()[..],
                new.name,
                now.as_micros(),
                started_at.map(Timestamp::as_micros),
                new.parent.as_ref().map(|parent| &parent.as_bytes()[..]),
                at_once && waits,
            ],
        )?;
        if let Some(batch) = self.batch(new.id)? {
            batch.changed = true;
        }
        if let Some(parent) = new.parent {
            self.attach(parent, None, now)?;
        }
        Ok(())
    }

    /// Counts a new member.
    pub(crate) fn attach(&mut self, id: BatchId, finish: Option<Finish>, now: Timestamp) -> Done {
        if let Some(batch) = self.batch(id)? {
            batch.changed = true;
            batch.record.counts.total = batch.record.counts.total.saturating_add(1);
            if let Some(finish) = finish {
                batch.record.counts.count(finish, 1);
            }
        }
        // Batches that are being filled are discarded so long after the last attach to them, or inside.
        let mut next = Some(id);
        while let Some(id) = next
            && let Some(batch) = self.batch(id)?
        {
            batch.changed = true;
            batch.record.attached_at = now;
            next = batch.record.parent.filter(|_| batch.record.started_at.is_none());
        }
        self.db
            .run("UPDATE jk_batch SET members = members + 1 WHERE id = ?1", [&id.as_bytes()[..]])?;
        Ok(())
    }

    /// A member was removed: batches without any go too, and those around them.
    pub(crate) fn leave_batch(&mut self, id: BatchId) -> Done {
        let mut next = Some(id);
        while let Some(id) = next {
            let parent = self.batch(id)?.and_then(|batch| batch.record.parent);
            self.db.run(
                "UPDATE jk_batch SET members = members - 1 WHERE id = ?1",
                [&id.as_bytes()[..]],
            )?;
            let emptied = self.db.run(
                "DELETE FROM jk_batch WHERE id = ?1 AND members <= 0 AND total > 0",
                [&id.as_bytes()[..]],
            )?;
            if emptied == 0 {
                break;
            }
            self.batches.remove(&id);
            next = parent;
        }
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

    /// Writes the batches that changed, and completes those whose members have all finished; what waits
    /// for them is decided after what waits for those that ended before.
    pub(crate) fn settle_batches(&mut self, now: Timestamp) -> Done {
        // In an order that does not depend on a hash.
        let changed = self.batches.iter().filter(|(_, batch)| batch.changed);
        let mut changed: BTreeSet<BatchId> = changed.map(|(id, _)| *id).collect();
        while let Some(id) = changed.pop_first() {
            let Some(batch) = self.batches.get_mut(&id) else { continue };
            batch.changed = false;
            batch.record.advance(now);
            let record = batch.record.clone();
            let as_member = record.as_member();
            // How the batch around it counts it, if there is one.
            let told = record.parent.map(|_| std::mem::replace(&mut batch.counted, as_member));
            self.write_batch(&record)?;
            if record.completed_at.is_some() {
                // Also without a change: a Failed member that is deleted makes success unmeetable.
                let verdict = Verdict::of(|on| on.decide_batch(true, &record.counts));
                self.ended.push_back((Parent::Batch(id), verdict));
            }
            if let (Some(parent), Some(before)) = (record.parent, told)
                && before != as_member
            {
                self.recount(parent, before, as_member)?;
                changed.insert(parent);
            }
        }
        Ok(())
    }

    fn write_batch(&self, batch: &BatchRecord) -> Done {
        let instant = |at: Option<Timestamp>| at.map(Timestamp::as_micros);
        let Some(touched) = self.batches.get(&batch.id) else { return Ok(()) };
        self.db.run(
            "UPDATE jk_batch SET total = ?2, succeeded = ?3, failed = ?4, deleted = ?5, \
             attached_at = ?6, started_at = ?7, completed_at = ?8, succeeded_at = ?9, \
             cancelled_at = ?10, lost = ?11, counted = ?12, with_parent = ?13 WHERE id = ?1",
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
                batch.counts.lost,
                touched.counted.map(finish_number),
                touched.with_parent,
            ],
        )?;
        Ok(())
    }

    fn start_batch(&mut self, id: BatchId, now: Timestamp) -> Done<BatchOutcome> {
        if self.batch_is_cancelled(id)? {
            return Ok(BatchOutcome::Refused(Refusal::BatchCancelled { batch: id }));
        }
        let Some(batch) = self.batch(id)? else {
            return Ok(BatchOutcome::Refused(Refusal::BatchGone { batch: id }));
        };
        if batch.record.started_at.is_some() || batch.with_parent {
            return Ok(BatchOutcome::AlreadyApplied);
        }
        let waits = match batch.record.parent {
            Some(parent) => self.is_filling(parent)?,
            None => false,
        };
        if waits {
            if let Some(batch) = self.batch(id)? {
                batch.with_parent = true;
                batch.changed = true;
            }
        } else {
            self.begin_batch(id, now, &mut Budget(STEP))?;
        }
        self.cascade(now, &mut Budget(bounds::CHILDREN_IN_SETTLE))?;
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
        self.end_batch(Mark::Cancel { batch: id }, now, &mut Budget(STEP))?;
        self.cascade(now, &mut Budget(bounds::CHILDREN_IN_SETTLE))?;
        Ok(BatchOutcome::Changed)
    }

    /// Starts a batch and what is inside, as far as there is room in the step.
    pub(crate) fn begin_batch(&mut self, id: BatchId, now: Timestamp, room: &mut Budget) -> Done {
        if let Some(batch) = self.batch(id)? {
            batch.record.started_at = Some(now);
            batch.with_parent = false;
            batch.changed = true;
        }
        self.begin_mark(Mark::Start { batch: id }, true, now, room)
    }

    /// Cancels or discards a batch and what is inside, as far as there is room in the step.
    pub(crate) fn end_batch(&mut self, mark: Mark, now: Timestamp, room: &mut Budget) -> Done {
        if let Some(id) = mark.batch()
            && let Some(batch) = self.batch(id)?
        {
            batch.record.cancelled_at.get_or_insert(now);
            // So that it can complete.
            batch.record.started_at.get_or_insert(now);
            batch.with_parent = false;
            batch.changed = true;
        }
        self.begin_mark(mark, true, now, room)
    }

    /// Does the first bounded step of a mark, for members if any of them are meant and then for batches
    /// inside, and marks what is left.
    fn begin_mark(&mut self, mark: Mark, members: bool, now: Timestamp, room: &mut Budget) -> Done {
        if members {
            let until = self.last_seq()?;
            if let Some(done) = self.members_step(&mark, 0, until, room, now)? {
                self.mark_from(&mark, done, until)?;
            }
        }
        let (mark, until) = (mark.of_nested(), self.last_batch()?);
        if let Some(done) = self.nested_step(&mark, 0, until, room, now)? {
            self.mark_from(&mark, done, until)?;
        }
        Ok(())
    }

    fn last_batch(&self) -> Done<i64> {
        let last = self.db.one("SELECT max(num) FROM jk_batch", [], |row| row.get(0))?;
        Ok(last.flatten().unwrap_or(0))
    }

    /// Handles batches inside one after number `done`; the last one handled if there may be more.
    pub(crate) fn nested_step(
        &mut self,
        mark: &Mark,
        done: i64,
        until: i64,
        room: &mut Budget,
        now: Timestamp,
    ) -> Done<Option<i64>> {
        let Some(around) = mark.batch() else { return Ok(None) };
        let nested = self.db.all(
            "SELECT num, id FROM jk_batch INDEXED BY jk_batch_nested \
             WHERE parent IS NOT NULL AND parent = ?1 AND num > ?2 AND num <= ?3 ORDER BY num LIMIT ?4",
            params![&around.as_bytes()[..], done, until, size(room.0 + 1)],
            |row| Ok((row.get::<_, i64>(0)?, BatchId::from_bytes(bytes16(row.get_ref(1)?.as_blob()?)))),
        )?;
        let mut last = done;
        for (num, id) in nested {
            if room.0 == 0 {
                return Ok(Some(last));
            }
            room.0 -= 1;
            last = num;
            let Some(batch) = self.batch(id)? else { continue };
            let (with_parent, is_cancelled) =
                (batch.with_parent, batch.record.cancelled_at.is_some());
            let (completed, open) =
                (batch.record.completed_at.is_some(), batch.record.counts.open());
            let end = match mark {
                Mark::StartNested { .. } if with_parent && !self.batch_is_cancelled(id)? => {
                    self.begin_batch(id, now, room)?;
                    continue;
                }
                Mark::CancelNested { .. } if !is_cancelled => Mark::Cancel { batch: id },
                Mark::DiscardNested { .. } if !is_cancelled => Mark::Discard { batch: id },
                _ => continue,
            };
            if completed {
                // It stays completed; but members of it, or of what is inside, may have come back.
                self.begin_mark(end, open > 0, now, room)?;
            } else {
                self.end_batch(end, now, room)?;
            }
        }
        Ok(None)
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
