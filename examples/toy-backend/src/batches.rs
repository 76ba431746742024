//! `impl BatchStore`, and what members and batches inside tell the batch around them.

mod retention;

use std::time::Duration;

use async_trait::async_trait;
use jobkit_core::batch::{BatchRecord, BatchState, NewBatch, Starts, too_deep};
use jobkit_core::edge::{BatchCounts, Finish, Parent, Verdict};
use jobkit_core::record::NewRecord;
use jobkit_core::refusal::Refusal;
use jobkit_core::state::{Reason, StateName};
use jobkit_core::state_machine::Event;
use jobkit_core::storage::{BatchOutcome, BatchStore, Call, Submission};
use jobkit_core::{BatchId, JobId, Result, bounds};
use serde::{Deserialize, Serialize};

use crate::ToyStorage;
use crate::edges::Ended;
use crate::fault::Fault;
use crate::keys::{self, Key, last_id, last_number, table};
use crate::record::Job;
use crate::submit::{Plan, Planned, planned};
use crate::sweep::{Mark, Spread};
use crate::txn::Txn;

/// How long an empty batch is kept once it has completed.
const EMPTY_BATCH_KEPT: Duration = Duration::from_secs(24 * 3600);

/// A batch as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Batch {
    record: BatchRecord,
    /// How the batch around it counts it.
    counted: Option<Finish>,
    /// It is filled, and waits for the batch around it to be started.
    starts_with_parent: bool,
}

impl Batch {
    /// The key among those that are being filled, by their last attach.
    fn filling(&self) -> Option<Key> {
        let is_filling = self.record.started_at.is_none() && !self.starts_with_parent;
        let key = table("filling").at(self.record.attached_at).id(self.record.id.as_bytes());
        is_filling.then_some(key)
    }
}

fn nested(parent: BatchId) -> Key {
    table("nested").id(parent.as_bytes())
}

fn members(batch: BatchId) -> Key {
    table("member").id(batch.as_bytes())
}

#[async_trait]
impl BatchStore for ToyStorage {
    async fn start_batch(&self, call: &Call, id: BatchId) -> Result<BatchOutcome> {
        self.write(call, |txn| {
            let Some(mut batch) = txn.find_batch(id)? else {
                return Ok(BatchOutcome::Refused(Refusal::BatchGone { batch: id }));
            };
            if txn.is_cancelled(id)? {
                return Ok(BatchOutcome::Refused(Refusal::BatchCancelled { batch: id }));
            }
            if batch.record.started_at.is_some() || batch.starts_with_parent {
                return Ok(BatchOutcome::AlreadyApplied);
            }
            let around = match batch.record.parent {
                Some(parent) => txn.stored_batch(parent)?,
                None => None,
            };
            if around.is_some_and(|around| around.started_at.is_none()) {
                batch.starts_with_parent = true;
                txn.save_batch(&batch)?;
            } else {
                txn.begin(batch, bounds::MAX_STEP_ITEMS)?;
            }
            Ok(BatchOutcome::Changed)
        })
    }

    async fn cancel_batch(&self, call: &Call, id: BatchId) -> Result<BatchOutcome> {
        self.write(call, |txn| {
            let Some(batch) = txn.stored_batch(id)? else {
                return Ok(BatchOutcome::Refused(Refusal::BatchGone { batch: id }));
            };
            if batch.cancelled_at.is_some() {
                return Ok(BatchOutcome::AlreadyApplied);
            }
            if batch.completed_at.is_some() {
                return Ok(BatchOutcome::Refused(Refusal::BatchFinished { batch: id }));
            }
            txn.cancel(id, Reason::BatchCancelled, bounds::MAX_STEP_ITEMS)?;
            Ok(BatchOutcome::Changed)
        })
    }

    async fn batch(&self, id: BatchId) -> Result<Option<BatchRecord>> {
        self.read(|txn| txn.stored_batch(id))
    }

    async fn batches(
        &self,
        state: Option<BatchState>,
        before: Option<BatchId>,
        limit: usize,
    ) -> Result<Vec<BatchRecord>> {
        self.read(|txn| {
            let all = table("batch");
            let end = before.map_or(all.end(), |before| keys::batch(before).into());
            let keys: Vec<&[u8]> = txn.tx.keys(&all, &end).collect();
            // Ids sort by time.
            let batches = keys.into_iter().rev().filter_map(|key| txn.get(key).transpose());
            let records = batches.map(|batch| batch.map(|batch: Batch| batch.record));
            let wanted = |it: &Result<BatchRecord>| {
                state.is_none_or(|state| it.as_ref().map_or(true, |it| it.state() == state))
            };
            records.filter(wanted).take(limit).collect()
        })
    }
}

/// Opening and attaching.
impl Txn<'_> {
    fn find_batch(&self, id: BatchId) -> Result<Option<Batch>> {
        self.get(&keys::batch(id))
    }

    pub(crate) fn stored_batch(&self, id: BatchId) -> Result<Option<BatchRecord>> {
        Ok(self.find_batch(id)?.map(|batch| batch.record))
    }

    fn save_batch(&mut self, batch: &Batch) -> Result<()> {
        let before = self.find_batch(batch.record.id)?;
        if let Some(key) = before.and_then(|before| before.filling()) {
            self.tx.delete(key);
        }
        if let Some(key) = batch.filling() {
            self.tx.put(key, []);
        }
        self.put(keys::batch(batch.record.id), batch)
    }

    /// A batch and those around it, from the inside.
    fn batches_around(&self, id: BatchId) -> Result<Vec<BatchRecord>> {
        let mut around = Vec::new();
        let mut next = Some(id);
        while let Some(id) = next {
            let Some(record) = self.stored_batch(id)? else { break };
            next = record.parent;
            around.push(record);
        }
        Ok(around)
    }

    /// Whether a batch, or one around it, was cancelled.
    pub(crate) fn is_cancelled(&self, id: BatchId) -> Result<bool> {
        Ok(self.batches_around(id)?.iter().any(|batch| batch.cancelled_at.is_some()))
    }

    /// Whether a submission opens its batch, which is not stored yet, and whether the one around that is
    /// still being filled.
    pub(crate) fn plan_batch(&self, submission: &Submission) -> Planned<(bool, bool)> {
        let Some(new) = &submission.batch else { return Ok(Ok((false, false))) };
        if self.stored_batch(new.id)?.is_some() {
            return Ok(Ok((false, false)));
        }
        let Some(parent) = new.parent else { return Ok(Ok((true, false))) };
        let waits = planned!(self.attachable(parent));
        if self.batches_around(parent)?.len() >= bounds::BATCH_NESTING {
            return Ok(Err(too_deep()));
        }
        Ok(Ok((true, waits)))
    }

    /// Whether a new job has to wait for the start of its batch.
    pub(crate) fn waits_for_batch(
        &self,
        job: &NewRecord,
        opened: Option<&NewBatch>,
        waits_for_parent: bool,
    ) -> Planned<bool> {
        match (job.batch, opened) {
            (None, _) => Ok(Ok(false)),
            (Some(id), Some(new)) if new.id == id => {
                Ok(Ok(new.starts == Starts::WhenStarted || waits_for_parent))
            }
            (Some(id), _) => self.attachable(id),
        }
    }

    /// Refuses a holder of a new member's key for which its batch would not wait (SUB-17); `other` is the
    /// holder, where the submission brings it along.
    pub(crate) fn check_stand_in(
        &self,
        job: &NewRecord,
        holder: JobId,
        other: Option<&NewRecord>,
        opened: Option<&NewBatch>,
    ) -> Planned<()> {
        let Some(batch) = job.batch else { return Ok(Ok(())) };
        let inner = match (other, self.job_by_id(holder)?) {
            (Some(new), _) => new.batch,
            // Its end is history: nothing is left to wait for.
            (None, None) => return Ok(Ok(())),
            (None, Some(stored)) if stored.record.state() == StateName::Succeeded => {
                return Ok(Ok(()));
            }
            (None, Some(stored)) => stored.record.batch,
        };
        let opened = opened.filter(|new| Some(new.id) == inner);
        let around = match opened.map_or(inner, |new| new.parent) {
            Some(stored) => self.batches_around(stored)?,
            None => Vec::new(),
        };
        let waits = inner == Some(batch) || BatchRecord::waits_for(batch, &around);
        let refusal = Refusal::KeyHeldOutside { job: job.id, batch, holder };
        Ok(if waits || self.has(Fault::AnyHolderStandsIn) { Ok(()) } else { Err(refusal) })
    }

    /// Whether what is attached to a stored batch has to wait for its start.
    fn attachable(&self, id: BatchId) -> Planned<bool> {
        let refusal = match self.stored_batch(id)? {
            None => Refusal::BatchGone { batch: id },
            Some(_) if self.is_cancelled(id)? => Refusal::BatchCancelled { batch: id },
            Some(batch) if batch.completed_at.is_some() => Refusal::BatchFinished { batch: id },
            Some(batch) => return Ok(Ok(batch.started_at.is_none())),
        };
        Ok(Err(refusal))
    }

    pub(crate) fn open_batch(&mut self, submission: &Submission, plan: &Plan) -> Result<()> {
        let Some(new) = submission.batch.as_ref().filter(|_| plan.opens_batch) else {
            return Ok(());
        };
        let at_once = new.starts == Starts::AtOnce;
        let record = BatchRecord {
            id: new.id,
            name: new.name.clone(),
            parent: new.parent,
            counts: BatchCounts::default(),
            created_at: self.now,
            attached_at: self.now,
            started_at: (at_once && !plan.waits_for_parent).then_some(self.now),
            completed_at: None,
            succeeded_at: None,
            cancelled_at: None,
        };
        let starts_with_parent = at_once && plan.waits_for_parent;
        self.save_batch(&Batch { record, counted: None, starts_with_parent })?;
        self.batches.insert(new.id);
        if let Some(parent) = new.parent {
            self.tx.put(nested(parent).id(new.id.as_bytes()), []);
            self.add_member(parent, None)?;
        }
        Ok(())
    }

    // [guide: attach]
    pub(crate) fn attach(&mut self, job: &Job) -> Result<()> {
        let Some(id) = job.record.batch else { return Ok(()) };
        self.add_member(id, Finish::of(job.record.state()))?;
        self.batches.insert(id);
        Ok(())
    }

    /// Counts a new member, and notes here and around that something was attached: batches that are being
    /// filled are discarded so long after that.
    fn add_member(&mut self, id: BatchId, finish: Option<Finish>) -> Result<()> {
        let now = self.now;
        let uncounted = self.has(Fault::AttachDoesNotCount);
        self.change_batch(id, |batch| {
            batch.record.counts.total += u64::from(!uncounted);
            if let Some(finish) = finish {
                batch.record.counts.count(finish, 1);
            }
        })?;
        for record in self.batches_around(id)? {
            if self.has(Fault::AttachDoesNotTouch) {
                break;
            }
            self.change_batch(record.id, |batch| batch.record.attached_at = now)?;
            if record.started_at.is_some() {
                break;
            }
        }
        Ok(())
    }

    /// Counts a member's end or return in its batch.
    pub(crate) fn tell_batch(
        &mut self,
        job: &Job,
        reopened: Option<Finish>,
        finished: Option<Finish>,
    ) -> Result<()> {
        let Some(id) = job.record.batch else { return Ok(()) };
        if reopened.is_some() && finished.is_none() && self.has(Fault::RequeueSkipsTheBatch) {
            return Ok(());
        }
        self.recount(id, reopened, finished)
    }

    fn recount(&mut self, id: BatchId, less: Option<Finish>, more: Option<Finish>) -> Result<()> {
        for (finish, by) in [(less, -1), (more, 1)] {
            if let Some(finish) = finish {
                self.change_batch(id, |batch| batch.record.counts.count(finish, by))?;
                self.batches.insert(id);
            }
        }
        Ok(())
    }
    // [end]

    fn change_batch(&mut self, id: BatchId, change: impl FnOnce(&mut Batch)) -> Result<()> {
        let Some(mut batch) = self.find_batch(id)? else { return Ok(()) };
        change(&mut batch);
        self.save_batch(&batch)
    }

    /// Completes a batch whose members have all finished, and decides what waits for that.
    pub(crate) fn advance_batch(&mut self, id: BatchId) -> Result<()> {
        let Some(mut batch) = self.find_batch(id)? else { return Ok(()) };
        let changed = batch.record.advance(self.now);
        if changed && batch.record.counts.total == 0 {
            let gone_at = self.now.plus(EMPTY_BATCH_KEPT);
            self.tx.put(table("empty").at(gone_at).id(id.as_bytes()), []);
        }
        // Also without a change: a Failed member that is deleted makes success unmeetable.
        let parent = Parent::Batch(id);
        if batch.record.completed_at.is_some()
            && self.has_open_edges(parent)
            && !self.has(Fault::BatchEndDecidesNothing)
        {
            let verdict = Verdict::Batch(batch.record.counts);
            self.ended.push_back(Ended { parent, verdict, through: self.last("sequence") });
        }
        // One member of the batch around it.
        let (before, now) = (batch.counted, batch.record.as_member());
        batch.counted = now;
        self.save_batch(&batch)?;
        match batch.record.parent {
            Some(_) if self.has(Fault::NestedBatchTellsNobody) => Ok(()),
            Some(around) if before != now => self.recount(around, before, now),
            _ => Ok(()),
        }
    }
}

/// Starting and cancelling.
impl Txn<'_> {
    fn begin(&mut self, mut batch: Batch, max: usize) -> Result<usize> {
        let id = batch.record.id;
        batch.record.started_at = Some(self.now);
        batch.starts_with_parent = false;
        self.save_batch(&batch)?;
        self.batches.insert(id);
        self.spread(id, Spread::Start, 0, None, max)
    }

    /// Cancels a batch and what is inside, at most `max` members and batches; a mark for the rest.
    pub(crate) fn cancel(&mut self, id: BatchId, reason: Reason, max: usize) -> Result<usize> {
        let now = self.now;
        self.change_batch(id, |batch| {
            batch.record.cancelled_at = Some(now);
            // So that it can complete.
            batch.record.started_at.get_or_insert(now);
            batch.starts_with_parent = false;
        })?;
        self.batches.insert(id);
        self.spread(id, Spread::Cancel(reason), 0, None, max)
    }

    // [guide: spread]
    /// Starts or cancels members of a batch and batches inside it, from the places named on, at most `max`;
    /// a mark for the rest.
    pub(crate) fn spread(
        &mut self,
        id: BatchId,
        what: Spread,
        mut after: u64,
        mut inside: Option<BatchId>,
        max: usize,
    ) -> Result<usize> {
        if what == Spread::Start && self.is_cancelled(id)? {
            return Ok(0);
        }
        let mut done = 0;
        loop {
            let member = self.member_after(id, what, after);
            let batch = self.nested_after(id, inside).filter(|_| member.is_none());
            if member.is_none() && batch.is_none() {
                return Ok(done);
            }
            if done >= max {
                if self.has(Fault::LostMarkAtStart) && what == Spread::Start {
                    return Ok(done);
                }
                self.mark(&Mark::Spread { batch: id, what, after, inside })?;
                return Ok(done);
            }
            done += 1;
            let left = max - done;
            match (member, batch, what) {
                (Some(place), _, Spread::Start) => self.release(place)?,
                (Some(place), _, Spread::Cancel(reason)) => {
                    let runs = self.job(place)?.record.state() == StateName::Processing;
                    if !(runs && self.has(Fault::CancelSparesWhatRuns)) {
                        self.give_up(place, reason)?;
                    }
                }
                (_, Some(nested), Spread::Start) => {
                    let batch = self.find_batch(nested)?.filter(|it| it.starts_with_parent);
                    done += batch.map_or(Ok(0), |batch| self.begin(batch, left))?;
                }
                (_, Some(nested), Spread::Cancel(reason)) => {
                    done += self.cancel_inside(nested, reason, left)?;
                }
                (None, None, _) => {}
            }
            after = member.unwrap_or(after);
            inside = batch.or(inside);
        }
    }
    // [end]

    fn member_after(&self, id: BatchId, what: Spread, after: u64) -> Option<u64> {
        let table = match what {
            Spread::Start => table("unreleased").id(id.as_bytes()),
            Spread::Cancel(_) => members(id),
        };
        let from = table.clone().number(after.checked_add(1)?);
        self.keys_from(&table, &from, 1).pop().map(|key| last_number(&key))
    }

    fn nested_after(&self, id: BatchId, after: Option<BatchId>) -> Option<BatchId> {
        let all = nested(id);
        let from = after.map_or(all.to_vec(), |after| all.clone().id(after.as_bytes()).end());
        self.keys_from(&all, &from, 1).pop().map(|key| last_id(&key))
    }

    fn release(&mut self, place: u64) -> Result<()> {
        let mut job = self.job(place)?;
        job.waits_for_batch = false;
        self.save(&job)?;
        self.must(place, &Event::Decided { met: true, otherwise: Reason::Unmeetable })?;
        Ok(())
    }

    fn cancel_inside(&mut self, id: BatchId, reason: Reason, max: usize) -> Result<usize> {
        let Some(batch) = self.stored_batch(id)? else { return Ok(0) };
        if batch.cancelled_at.is_some() {
            return Ok(0);
        }
        if batch.completed_at.is_none() {
            return self.cancel(id, reason, max);
        }
        // It stays completed; but members of it, or of what is inside, may have come back.
        let after = if batch.counts.open() > 0 { 0 } else { u64::MAX };
        self.spread(id, Spread::Cancel(reason), after, None, max)
    }
}
