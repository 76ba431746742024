//! Batches inside batches.

use crate::model::batch::BatchRecord;
use crate::model::clock::Timestamp;
use crate::model::edge::{Finish, On, Parent};
use crate::model::ids::BatchId;
use crate::model::state::{Reason, StateName};

use super::state::{Mark, Place, Tables, Work, on_index};

impl Tables {
    /// A batch and those around it, from the inside.
    pub(super) fn batches_around(&self, id: BatchId) -> impl Iterator<Item = &BatchRecord> {
        let record = |id| self.batches.get(&id).map(|batch| &batch.record);
        std::iter::successors(record(id), move |batch| record(batch.parent?))
    }

    /// Whether a batch, or one around it, was cancelled.
    pub(super) fn is_cancelled(&self, id: BatchId) -> bool {
        self.batches_around(id).any(|batch| batch.cancelled_at.is_some())
    }

    pub(super) fn is_filling(&self, id: BatchId) -> bool {
        self.batches.get(&id).is_some_and(|batch| batch.record.started_at.is_none())
    }

    /// Notes that something was attached, here and around: batches that are being filled are discarded
    /// so long after that.
    pub(super) fn touch_batches(&mut self, now: Timestamp, id: BatchId) {
        let mut next = Some(id);
        while let Some(id) = next {
            let batch = self.batch_mut(id);
            let before = std::mem::replace(&mut batch.record.attached_at, now);
            let filling = batch.record.started_at.is_none();
            next = batch.record.parent.filter(|_| filling);
            if self.open_batches.remove(&(before, id)) {
                self.open_batches.insert((now, id));
            }
        }
    }

    /// Notes that a batch is filled; it begins with the one around it.
    pub(super) fn starts_with_parent(&mut self, id: BatchId) {
        let batch = self.batch_mut(id);
        batch.starts_with_parent = true;
        let open = (batch.record.attached_at, id);
        self.open_batches.remove(&open);
    }

    /// Starts a batch and what is inside, at most `max` members and batches; marks for the rest.
    pub(super) fn begin_batch(&mut self, work: &mut Work, id: BatchId, max: usize) -> usize {
        let now = work.now;
        let batch = self.batch_mut(id);
        batch.record.started_at = Some(now);
        batch.starts_with_parent = false;
        let open = (batch.record.attached_at, id);
        self.open_batches.remove(&open);
        work.batches.insert(id);
        let done = self.release_members(work, id, max);
        done + self.begin_nested(work, id, None, max - done)
    }

    pub(super) fn begin_nested(
        &mut self,
        work: &mut Work,
        id: BatchId,
        after: Option<BatchId>,
        max: usize,
    ) -> usize {
        let (mut done, mut last) = (0, after);
        while let Some(nested) = self.nested_after(id, last) {
            if done == max {
                self.marks.push_front(Mark::StartNested { batch: id, after: last });
                break;
            }
            last = Some(nested);
            done += 1;
            if self.batches.get(&nested).is_some_and(|batch| batch.starts_with_parent) {
                done += self.begin_batch(work, nested, max - done);
            }
        }
        done
    }

    pub(super) fn cancel_nested(
        &mut self,
        work: &mut Work,
        id: BatchId,
        reason: Reason,
        after: Option<BatchId>,
        max: usize,
    ) -> usize {
        let (mut done, mut last) = (0, after);
        while let Some(nested) = self.nested_after(id, last) {
            if done == max {
                self.marks.push_front(Mark::CancelNested { batch: id, reason, after: last });
                break;
            }
            last = Some(nested);
            done += 1;
            let Some(batch) = self.batches.get(&nested) else { continue };
            let record = &batch.record;
            if record.cancelled_at.is_some() {
                continue;
            }
            if record.completed_at.is_none() {
                done += self.cancel_batch(work, nested, reason, max - done);
                continue;
            }
            // It stays completed; but members of it, or of what is inside, may have come back.
            if record.counts.open() > 0 {
                done += self.cancel_members(work, nested, reason, 0, max - done);
            }
            done += self.cancel_nested(work, nested, reason, None, max - done);
        }
        done
    }

    fn nested_after(&self, id: BatchId, after: Option<BatchId>) -> Option<BatchId> {
        use std::ops::Bound::{Excluded, Unbounded};
        let nested = &self.batches.get(&id)?.nested;
        let from = after.map_or(Unbounded, Excluded);
        nested.range((from, Unbounded)).next().copied()
    }

    /// Counts the outcome of a nested batch in the one around it.
    pub(super) fn tell_batch_around(&mut self, work: &mut Work, id: BatchId) {
        let Some(batch) = self.batches.get_mut(&id) else { return };
        let Some(parent) = batch.record.parent else { return };
        let now = batch.record.as_member();
        let before: Option<Finish> = std::mem::replace(&mut batch.counted, now);
        if before == now {
            return;
        }
        let counts = &mut self.batch_mut(parent).record.counts;
        for (finish, by) in [(before, -1), (now, 1)] {
            if let Some(finish) = finish {
                counts.count(finish, by);
            }
        }
        work.batches.insert(parent);
    }

    /// Whether a batch and all around it have completed, and their continuations have finished.
    pub(super) fn is_over(&self, id: BatchId) -> bool {
        self.is_over_but_for_success(id, 0)
    }

    /// Whether nothing but the success of the innermost batches, as many as `lost`, is still waited for.
    fn is_over_but_for_success(&self, id: BatchId, lost: usize) -> bool {
        let mut around = self.batches_around(id).enumerate();
        around.all(|(n, batch)| self.is_over_alone(batch, n < lost))
    }

    fn is_over_alone(&self, batch: &BatchRecord, but_for_success: bool) -> bool {
        let Some(children) = self.children.get(&Parent::Batch(batch.id)) else {
            return batch.completed_at.is_some();
        };
        let open = |child: &Place| {
            let success = &children.open[on_index(On::Success)];
            but_for_success && success.contains(child)
        };
        let others_open =
            [On::Failed, On::Any].iter().any(|on| !children.open[on_index(*on)].is_empty());
        batch.completed_at.is_some()
            && children.marks == 0
            && !others_open
            && children
                .all
                .iter()
                .all(|(child, _)| open(child) || self.job(*child).record.state().is_finished())
            && (but_for_success || !children.is_open())
    }

    /// Whether an expired member may be removed. A Failed one ends the wait for the success of its
    /// batch, and of those around it that count it, which would keep everything forever.
    pub(super) fn lets_members_go(&mut self, work: &mut Work, id: BatchId, place: Place) -> bool {
        let lost = BatchRecord::lost_with_a_member(self.batches_around(id));
        if self.job(place).record.state() == StateName::Failed
            && self.is_over_but_for_success(id, lost)
        {
            let losing: Vec<_> = self
                .batches_around(id)
                .take(lost)
                .filter(|batch| !batch.counts.lost)
                .map(|batch| batch.id)
                .collect();
            for id in losing {
                self.batch_mut(id).record.counts.lost = true;
                work.batches.insert(id);
            }
            work.budget = crate::model::bounds::CHILDREN_IN_SETTLE;
            self.settle_down(work);
        }
        self.is_over(id)
    }

    /// Removes a batch without members, and those around it that have none left either.
    pub(super) fn remove_batch(&mut self, id: BatchId) {
        let Some(batch) = self.batches.remove(&id) else { return };
        self.children.remove(&Parent::Batch(id));
        let Some(parent) = batch.record.parent else { return };
        if let Some(around) = self.batches.get_mut(&parent) {
            around.nested.remove(&id);
            if around.nested.is_empty() && around.members.is_empty() {
                self.remove_batch(parent);
            }
        }
    }
}
