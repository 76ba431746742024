//! Bounded steps: what marks ask for, what expired, what slipped through.

use std::collections::VecDeque;
use std::ops::Bound;
use std::time::Duration;

use crate::model::bounds;
use crate::model::clock::Timestamp;
use crate::model::edge::{Parent, Verdict};
use crate::model::ids::BatchId;
use crate::model::state::{Reason, StateName};
use crate::model::state_machine::Event;
use crate::storage::Step;

use super::planted::Planted;
use super::state::{Ended, Mark, Passed, Place, Tables, Work, on_index};

/// How soon finished jobs that are beyond the number, but had to stay, are looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

impl Tables {
    pub(super) fn sweep(&mut self, work: &mut Work, max: usize) -> Step {
        work.sweeps = true;
        let mut done = 0;
        let mut held = VecDeque::new();
        while done < max
            && let Some(mark) = self.marks.pop_front()
        {
            if self.is_mark_blocked(&mark) {
                held.push_back(mark);
                continue;
            }
            work.budget = max - done;
            // A mark whose work has vanished is work too, so that the loop ends.
            done += self.complete(work, mark).max(1);
            self.settle_down(work);
        }
        held.append(&mut self.marks);
        self.marks = held;
        while done < max
            && let Some((attached_at, id)) = self.open_batches.first().copied()
            && attached_at.plus(bounds::BATCH_FILLING) <= work.now
            && !self.is_batch_change_blocked(id)
        {
            done += 1 + self.cancel_batch(work, id, Reason::BatchDiscarded, max - done);
            self.settle_down(work);
        }
        let (admitted, more) = self.fill_limits(work, max.saturating_sub(done));
        done += admitted;
        let next_discard = self.open_batches.first().map(|(at, _)| at.plus(bounds::BATCH_FILLING));
        let next_at = next_discard.into_iter().chain(work.look_again).min();
        Step {
            done,
            more: more || !self.marks.is_empty() || next_discard.is_some_and(|at| at <= work.now),
            next_in: next_at.map(|at| at.since(work.now)),
        }
    }

    /// Does what a mark asks for, as far as the budget goes; what is left is marked again, in front.
    fn complete(&mut self, work: &mut Work, mark: Mark) -> usize {
        let before = work.budget;
        match mark {
            Mark::Decide(ended) => {
                if self.decide(work, &ended) {
                    if let Some(children) = self.children.get_mut(&ended.parent) {
                        children.marks -= 1;
                    }
                    self.tidy_children(ended.parent);
                } else {
                    self.marks.push_front(Mark::Decide(ended));
                }
                before - work.budget
            }
            // Cancelling has marked its own work, in front.
            Mark::Release(id) | Mark::StartNested { batch: id, .. } if self.is_cancelled(id) => 0,
            Mark::Release(id) => self.release_members(work, id, before),
            Mark::Cancel { batch, reason, after } => {
                self.cancel_members(work, batch, reason, after, before)
            }
            Mark::StartNested { batch, after } => self.begin_nested(work, batch, after, before),
            Mark::CancelNested { batch, reason, after } => {
                self.cancel_nested(work, batch, reason, after, before)
            }
        }
    }

    /// Releases members of a started batch, at most `max`; a mark for the rest.
    pub(super) fn release_members(&mut self, work: &mut Work, id: BatchId, max: usize) -> usize {
        let mut done = 0;
        while let Some(batch) = self.batches.get_mut(&id)
            && let Some(place) = batch.unreleased.first().copied()
        {
            if done == max {
                self.marks.push_front(Mark::Release(id));
                break;
            }
            batch.unreleased.remove(&place);
            done += 1;
            let event = Event::Decided { met: true, otherwise: Reason::Unmeetable };
            self.must(work, place, &event);
        }
        done
    }

    /// Cancels a batch and the first of its members, at most `max`; a mark for the rest.
    pub(super) fn cancel_batch(
        &mut self,
        work: &mut Work,
        id: BatchId,
        reason: Reason,
        max: usize,
    ) -> usize {
        let now = work.now;
        let batch = self.batch_mut(id);
        batch.record.cancelled_at = Some(now);
        let open = (batch.record.attached_at, id);
        // So that it can complete.
        batch.record.started_at.get_or_insert(now);
        batch.starts_with_parent = false;
        self.open_batches.remove(&open);
        work.batches.insert(id);
        let done = self.cancel_members(work, id, reason, 0, max);
        done + self.cancel_nested(work, id, reason, None, max - done)
    }

    pub(super) fn cancel_members(
        &mut self,
        work: &mut Work,
        id: BatchId,
        reason: Reason,
        after: Place,
        max: usize,
    ) -> usize {
        let Some(batch) = self.batches.get(&id) else { return 0 };
        let next: Vec<Place> = batch.members.range(after + 1..).take(max).copied().collect();
        for place in &next {
            self.give_up(work, *place, reason);
        }
        if let Some(last) = next.last().copied()
            && let Some(batch) = self.batches.get(&id)
            && batch.members.range(last + 1..).next().is_some()
        {
            self.marks.push_front(Mark::Cancel { batch: id, reason, after: last });
        } else if max == 0 && !batch_is_empty(self, id) {
            self.marks.push_front(Mark::Cancel { batch: id, reason, after });
        }
        next.len()
    }

    pub(super) fn purge(&mut self, work: &mut Work, max: usize) -> Step {
        let now = work.now;
        self.operator_state.forget_old(now);
        let mut done = 0;
        let mut looked = 0;
        let mut stopped = false;
        while done < max
            && looked < 4 * max + 100
            && let Some((at, place)) = self.first_expiring()
            && at <= now
        {
            looked += 1;
            if let Some(id) = self.job(place).record.batch
                && !self.lets_members_go(work, id, place)
            {
                self.expires.remove(&(at, place));
                let later = self.job(place).record.state() != StateName::Failed;
                self.batch_mut(id).kept.insert((later, place));
                self.keeping_batches.insert(id);
                continue;
            }
            if !self.remove(work, place) {
                stopped = true;
                break;
            }
            done += 1;
        }
        for id in self.keeping_batches.clone() {
            while done < max
                && let Some((_, place)) =
                    self.batches.get(&id).and_then(|it| it.kept.first().copied())
                && self.lets_members_go(work, id, place)
                && self.remove(work, place)
            {
                done += 1;
            }
            if self.batches.get(&id).is_none_or(|batch| batch.kept.is_empty()) {
                self.keeping_batches.remove(&id);
            }
        }
        while done < max
            && let Some((at, id)) = self.empty_batches.first().copied()
            && at <= now
        {
            self.empty_batches.remove(&(at, id));
            done += 1;
            if self.is_over(id) {
                self.remove_batch(id);
            } else {
                self.empty_batches.insert((now.plus(Duration::from_secs(3600)), id));
            }
        }
        let more_keys = self.keys.purge(now, max);
        let beyond = self.purge_beyond_number(work, max - done);
        let more = self.first_expiring().is_some_and(|(at, _)| at <= now) && !stopped;
        let next_in = self.expires.first().map(|(at, _)| at.since(now));
        Step {
            done: done + beyond.done,
            more: more || more_keys || beyond.more,
            next_in: next_in.into_iter().chain(beyond.next_in).min(),
        }
    }

    /// Removes the oldest finished jobs of each state beyond the number.
    fn purge_beyond_number(&mut self, work: &mut Work, max: usize) -> Step {
        let mut step = Step::default();
        let Some(number) = self.max_finished else { return step };
        let mut looks = 4 * max + 100;
        for list in 0..self.finished.len() {
            let mut passed = self.passed[list];
            let again = passed.since.plus(LOOK_AGAIN);
            if passed.count > 0 && (again <= work.now || work.now < passed.since) {
                passed = Passed::default();
            }
            while self.finished[list].len() as u64 > number.saturating_add(passed.count) {
                if step.done == max || looks == 0 {
                    step.more = true;
                    break;
                }
                looks -= 1;
                let after = match passed.count {
                    0 => Bound::Unbounded,
                    _ => Bound::Excluded(passed.last),
                };
                let mut left = self.finished[list].range((after, Bound::Unbounded));
                let Some(oldest @ (_, place)) = left.next().copied() else { break };
                let batch = self.job(place).record.batch;
                let may_go = batch.is_none_or(|id| self.lets_members_go(work, id, place));
                if may_go && !self.is_change_blocked(place) {
                    let parent = Parent::Job(self.job(place).record.id);
                    if self.remove(work, place) {
                        step.done += 1;
                        continue;
                    }
                    // Some of its children were decided, and the next step goes on; or sweeps are at it.
                    if self.children.get(&parent).is_none_or(|children| children.marks == 0) {
                        step.more = true;
                        break;
                    }
                }
                if passed.count == 0 {
                    passed.since = work.now;
                }
                passed.count += 1;
                passed.last = oldest;
            }
            if passed.count > 0 {
                let again = passed.since.plus(LOOK_AGAIN).since(work.now);
                step.next_in = Some(step.next_in.map_or(again, |next: Duration| next.min(again)));
            }
            self.passed[list] = passed;
        }
        step
    }

    /// The first job to expire that nobody holds.
    fn first_expiring(&self) -> Option<(Timestamp, Place)> {
        self.expires.iter().find(|(_, place)| !self.is_change_blocked(*place)).copied()
    }

    /// Removes a finished job with all that belongs to it; `false` while edges to its children are
    /// left, which have to be decided first.
    fn remove(&mut self, work: &mut Work, place: Place) -> bool {
        let id = self.job(place).record.id;
        let parent = Parent::Job(id);
        if let Some(children) = self.children.get(&parent) {
            if children.marks > 0 {
                return false;
            }
            if children.is_open() && !self.has(Planted::PurgeIgnoresEdges) {
                work.budget = bounds::MAX_STEP_ITEMS;
                let ended = Ended { parent, verdict: Verdict::Gone, through: self.sequence };
                let decided = self.decide(work, &ended);
                self.settle_down(work);
                if !decided {
                    return false;
                }
            }
        }
        self.unindex(place);
        self.children.remove(&parent);
        self.ids.remove(&id);
        let Some(job) = self.jobs.remove(&place) else { return true };
        let record = job.record;
        for (n, status) in job.edges.iter().enumerate() {
            let parent = status.edge.parent;
            if let Some(children) = self.children.get_mut(&parent) {
                children.all.remove(&(place, n));
                children.open[on_index(status.edge.on)].remove(&place);
                self.tidy_children(parent);
            }
        }
        let tail = self.stats.tail(work.now);
        tail.count_removed(&record.queue, &record.kind, record.state());
        if let Some(batch_id) = record.batch {
            let batch = self.batch_mut(batch_id);
            batch.members.remove(&place);
            if batch.members.is_empty() && batch.nested.is_empty() {
                self.remove_batch(batch_id);
            }
        }
        true
    }
}

fn batch_is_empty(tables: &Tables, id: BatchId) -> bool {
    tables.batches.get(&id).is_none_or(|batch| batch.members.is_empty())
}
