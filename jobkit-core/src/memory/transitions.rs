//! Applying what the state machine computes: state, indexes, history, statistics, slots, keys,
//! batches, and the decision about children.

use crate::model::clock::Timestamp;
use crate::model::edge::{Decision, Finish, Parent, Verdict};
use crate::model::ids::BatchId;
use crate::model::limit::Limit;
use crate::model::name::Name;
use crate::model::record::{HistoryEntry, retention_of};
use crate::model::state::{Reason, Retention, State, StateName};
#[cfg(feature = "_planted")]
use crate::model::state_machine::{Effects, Ending, JobHead};
use crate::model::state_machine::{Event, Forbidden, Situation, Transition, apply};
use crate::model::unique::Until;

use super::limits::ADMITTED_AT_ONCE;
use super::planted::Planted;
use super::state::{CONDITIONS, Children, Ended, Mark, Place, Tables, Work, on_index};

/// How long an empty batch is kept once it has completed.
pub(super) const EMPTY_BATCH_KEPT: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// What a transition is accompanied by.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct With<'a> {
    /// Instead of the job's own retention.
    pub(super) retention: Option<Retention>,
    pub(super) duration: Option<std::time::Duration>,
    pub(super) actor: Option<&'a str>,
}

impl Tables {
    /// Applies an event to a job, with every effect but the decision about children, which
    /// [`settle_down`](Self::settle_down) makes.
    pub(super) fn transition(
        &mut self,
        work: &mut Work,
        place: Place,
        event: &Event,
        with: With<'_>,
    ) -> Result<StateName, Forbidden> {
        let record = &self.job(place).record;
        let situation = Situation {
            now: work.now,
            retention: with.retention.unwrap_or_else(|| retention_of(record.extras.as_deref())),
            batch_cancelled: record.batch.is_some_and(|batch| self.is_cancelled(batch)),
        };
        let Transition { from, head, effects } = apply(&record.head, event, &situation)?;
        #[cfg(feature = "_planted")]
        let (head, effects) = self.spoilt(event, head, effects);
        let to = head.state.name();
        self.unindex(place);
        #[cfg(feature = "_planted")]
        self.leave_due(place, event);

        let Self { jobs, stats, keys, .. } = self;
        let job = jobs.get_mut(&place).expect("an index names a stored job");
        let record = &mut job.record;
        let held = match &record.head.state {
            State::Processing(hold) => Some((hold.server.clone(), hold.claimed_at)),
            _ => None,
        };
        let claimed = match &head.state {
            State::Processing(hold) if from == StateName::Enqueued => Some(hold.server.clone()),
            _ => None,
        };
        if effects.history {
            let attempt = held.is_some() || claimed.is_some();
            if let Some((_, claimed_at)) = held {
                // The claim is counted with its end.
                let wait = record.enqueued_at.map(|at| claimed_at.since(at));
                stats.tail(work.now).count_end_of_claim(
                    &record.queue,
                    &record.kind,
                    to,
                    head.reason,
                    wait,
                    with.duration,
                );
            } else if claimed.is_none() {
                let tail = stats.tail(work.now);
                tail.count(&record.queue, &record.kind, Some(from), to, head.reason);
            }
            job.history.push(HistoryEntry {
                state: to,
                reason: head.reason,
                at: work.now,
                fence: attempt.then_some(head.fence),
                server: claimed.clone().or(held.as_ref().map(|(server, _)| server.clone())),
                duration: with.duration,
                run_at: match head.state {
                    State::Scheduled { run_at } => Some(run_at),
                    _ => None,
                },
                actor: with.actor.map(str::to_owned),
            });
        }
        if to != StateName::Enqueued {
            record.parked_at = None;
            let admitted = job.admitted.take();
            if claimed.is_none() {
                // Another one may use the room that it was given.
                work.limits.extend(admitted.map(|it| it.limit));
            }
        }
        if claimed.is_some() {
            record.claimed_at = Some(work.now);
        }
        if effects.claimable {
            work.claimable(place);
            if effects.history {
                record.enqueued_at = Some(work.now);
            }
        }
        if let State::Scheduled { run_at } = head.state {
            work.due = Some(work.due.map_or(run_at, |due| due.min(run_at)));
        }
        if let Some(expires_at) = effects.expires_at {
            record.expires_at = expires_at;
        }
        record.head = head;
        if let Some(unique) = &record.unique {
            let hash = unique.hash();
            let at_start = effects.frees_key_at_start && unique.until == Until::Started;
            if effects.frees_key || at_start {
                keys.free(&hash, record.id);
            }
            // One that it holds for a period is held as long as before.
            if effects.takes_key && keys.holder(&hash, work.now).is_none() {
                keys.take(unique, record.id, work.now);
            }
        }
        if matches!(event, Event::Requeue { .. }) {
            job.result = None;
            job.checkpoint = None;
            job.memos.clear();
        }
        self.index(place);
        if let Some((_, claimed_at)) = held
            && (effects.frees_slots || self.frees_early(event))
            && !(self.has(Planted::RescueKeepsTheSlot) && matches!(event, Event::Rescue { .. }))
        {
            self.free_slots(work, place, claimed_at);
        }
        let requeued = matches!(event, Event::Requeue { .. });
        if !(requeued && self.has(Planted::RequeueSkipsTheBatchRecount)) {
            self.tell_batch(work, place, effects.reopened, effects.finished);
        }
        if let Some(finish) = effects.finished {
            self.finished(work, place, finish);
        }
        Ok(to)
    }

    /// Remembers that a job finished: who waits for it is decided before the call ends.
    pub(super) fn finished(&mut self, work: &mut Work, place: Place, finish: Finish) {
        let id = self.job(place).record.id;
        work.finished.push(id);
        let parent = Parent::Job(id);
        if self.children.get(&parent).is_some_and(Children::is_open) {
            let verdict = Verdict::Finished(finish);
            let ended = Ended { parent, verdict, through: self.sequence };
            if self.has(Planted::ReleaseOutsideTheCommit) {
                self.late.push(ended);
                return;
            }
            work.ended.push_back(ended);
        }
    }

    /// Counts a member's end or return in its batch.
    pub(super) fn tell_batch(
        &mut self,
        work: &mut Work,
        place: Place,
        reopened: Option<Finish>,
        finished: Option<Finish>,
    ) {
        let record = &self.job(place).record;
        let Some(id) = record.batch else { return };
        let awaiting = record.state() == StateName::Awaiting;
        let batch = self.batch_mut(id);
        if !awaiting {
            // Released by another hand than the start.
            batch.unreleased.remove(&place);
        }
        for (finish, by) in [(reopened, -1), (finished, 1)] {
            if let Some(finish) = finish {
                batch.record.counts.count(finish, by);
                work.batches.insert(id);
            }
        }
    }

    fn free_slots(&mut self, work: &mut Work, place: Place, claimed_at: Timestamp) {
        if self.job(place).record.limits.is_empty() {
            return;
        }
        let limits = self.job(place).record.limits.clone();
        for limit in &limits {
            if let Some(row) = self.limits.get_mut(&limit.name) {
                row.holders.remove(&(claimed_at, place));
            }
        }
        // Nothing but time gives back a start.
        let frees =
            |limit: &Limit| self.limits.get(&limit.name).is_some_and(|it| it.window.is_none());
        work.limits.extend(limits.into_iter().filter(frees).map(|limit| limit.name));
    }

    /// Decides what the call's transitions made decidable: batches that completed, edges of parents
    /// that ended; children that are given up so are parents in turn. What exceeds the budget is left
    /// to sweeps, in order.
    pub(super) fn settle_down(&mut self, work: &mut Work) {
        loop {
            if let Some(id) = work.batches.pop_first() {
                self.advance_batch(work, id);
            } else if let Some(ended) = work.ended.pop_front() {
                let children = self.children.get(&ended.parent);
                // An earlier end of the same parent decides first.
                let queued = children.is_some_and(|children| children.marks > 0);
                if queued || !self.decide(work, &ended) {
                    self.mark_ended(ended);
                }
            } else if let Some(limit) = work.limits.pop_first() {
                self.admit(work, &limit, ADMITTED_AT_ONCE);
            } else {
                break;
            }
        }
    }

    /// Deleting a running job frees its slot at once: a planted fault.
    fn frees_early(&self, event: &Event) -> bool {
        self.has(Planted::DeleteFreesTheSlotAtOnce) && matches!(event, Event::Delete(_))
    }

    /// What planted faults make of a transition.
    #[cfg(feature = "_planted")]
    fn spoilt(&self, event: &Event, mut head: JobHead, mut effects: Effects) -> (JobHead, Effects) {
        let given_back = matches!(event, Event::GiveBack | Event::Settle(Ending::GivenBack));
        if given_back && self.has(Planted::GiveBackDecreasesTheFence) {
            head.fence -= 1;
        }
        if let (Event::Decided { .. }, State::Awaiting { open }) = (event, &head.state)
            && self.has(Planted::EdgeCountedTwice)
        {
            if *open <= 1 {
                head.state = State::Enqueued;
                head.reason = Reason::Released;
                effects.claimable = true;
                effects.history = true;
            } else {
                head.state = State::Awaiting { open: open - 1 };
            }
        }
        if matches!(event, Event::Settle(Ending::Retry { .. })) {
            effects.takes_key |= self.has(Planted::RetryTakesTheKeyAgain);
        }
        (head, effects)
    }

    /// Leaves a deleted job among those that are due: a planted fault.
    #[cfg(feature = "_planted")]
    fn leave_due(&mut self, place: Place, event: &Event) {
        let run_at = self.job(place).record.run_at();
        if let (Event::Delete(_), Some(run_at)) = (event, run_at)
            && self.has(Planted::PromotionOverwritesDeleted)
        {
            self.due.insert((run_at, place));
        }
    }

    fn mark_ended(&mut self, ended: Ended) {
        if let Some(children) = self.children.get_mut(&ended.parent) {
            children.marks += 1;
            self.marks.push_back(Mark::Decide(ended));
        }
    }

    fn advance_batch(&mut self, work: &mut Work, id: BatchId) {
        let through = self.sequence;
        let Some(batch) = self.batches.get_mut(&id) else { return };
        let changed = batch.record.advance(work.now);
        if changed && batch.record.counts.total == 0 {
            self.empty_batches.insert((work.now.plus(EMPTY_BATCH_KEPT), id));
        }
        // Also without a change: a Failed member that is deleted makes success unmeetable.
        let parent = Parent::Batch(id);
        if batch.record.completed_at.is_some()
            && self.children.get(&parent).is_some_and(Children::is_open)
        {
            let verdict = Verdict::Batch(batch.record.counts);
            work.ended.push_back(Ended { parent, verdict, through });
        }
        self.tell_batch_around(work, id);
    }

    /// Decides edges of a parent that ended; `false` when the budget did not suffice.
    pub(super) fn decide(&mut self, work: &mut Work, ended: &Ended) -> bool {
        for on in CONDITIONS {
            let met = match ended.verdict.decide(on) {
                Decision::Open => continue,
                Decision::Met => true,
                Decision::Unmeetable => false,
            };
            loop {
                let Some(children) = self.children.get_mut(&ended.parent) else { return true };
                let open = &mut children.open[on_index(on)];
                let Some(child) = open.range(..=ended.through).next().copied() else { break };
                if work.budget == 0 {
                    return false;
                }
                work.budget -= 1;
                open.remove(&child);
                let job = self.job_mut(child);
                for status in &mut job.edges {
                    if status.edge.parent == ended.parent && status.edge.on == on {
                        status.decided = true;
                    }
                }
                // A child that someone ran or deleted by hand is past deciding.
                if job.record.state() == StateName::Awaiting {
                    let event = Event::Decided { met, otherwise: Reason::Unmeetable };
                    self.must(work, child, &event);
                }
            }
        }
        true
    }

    /// A transition that the job's state allows, as the caller has made sure.
    pub(super) fn must(&mut self, work: &mut Work, place: Place, event: &Event) {
        let applied = self.transition(work, place, event, With::default());
        debug_assert!(applied.is_ok(), "{event:?}: {applied:?}");
    }

    /// Removes a parent's row of children when nothing is left in it.
    pub(super) fn tidy_children(&mut self, parent: Parent) {
        if self.children.get(&parent).is_some_and(Children::is_empty) {
            self.children.remove(&parent);
        }
    }

    /// Deletes a waiting job, or asks a running one to stop.
    pub(super) fn give_up(&mut self, work: &mut Work, place: Place, reason: Reason) {
        let record = &self.job(place).record;
        let (id, state) = (record.id, record.state());
        if state.is_finished() {
            return;
        }
        let applied = self.transition(work, place, &Event::Delete(reason), With::default()).is_ok();
        if applied && state == StateName::Processing {
            work.cancelled.push(id);
        }
    }

    /// Moves a job to another queue or priority.
    pub(super) fn move_job(
        &mut self,
        work: &mut Work,
        place: Place,
        queue: Option<&Name>,
        priority: Option<u8>,
    ) -> Result<StateName, Forbidden> {
        // The state machine says whether it may, and grows the version.
        let state = self.transition(work, place, &Event::Move, With::default())?;
        self.unindex(place);
        let Self { jobs, stats, .. } = self;
        let record = &mut jobs.get_mut(&place).expect("an index names a stored job").record;
        if let Some(queue) = queue
            && *queue != record.queue
        {
            stats.tail(work.now).count_moved(&record.queue, queue, &record.kind, state);
            record.queue = queue.clone();
        }
        record.priority = priority.unwrap_or(record.priority);
        if state == StateName::Enqueued {
            // There may be room for it where it came, or for others where it went.
            let job = jobs.get_mut(&place).expect("an index names a stored job");
            work.limits.extend(job.record.parked_at.clone());
            if let Some(admitted) = &mut job.admitted {
                (admitted.at, admitted.live) = (work.now, true);
                work.limits.insert(admitted.limit.clone());
            }
        }
        self.index(place);
        Ok(state)
    }
}
