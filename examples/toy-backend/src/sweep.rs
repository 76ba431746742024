//! Bounded steps: what marks ask for, what has expired, what slipped through.

use std::time::Duration;

use jobkit_core::edge::{Parent, Verdict};
use jobkit_core::state::Reason;
use jobkit_core::storage::Step;
use jobkit_core::{BatchId, Result, bounds};
use serde::{Deserialize, Serialize};

use crate::edges::Ended;
use crate::fault::Fault;
use crate::keys::{self, last_id, table};
use crate::txn::Txn;

/// Work that a step left to sweeps, kept in order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Mark {
    /// Edges to decide.
    Decide(Ended),
    /// Members of a batch and batches inside it to start or to cancel, from these places on.
    Spread { batch: BatchId, what: Spread, after: u64, inside: Option<BatchId> },
}

/// What goes from a batch to its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Spread {
    Start,
    Cancel(Reason),
}

impl Txn<'_> {
    /// Leaves work behind those that wait.
    pub(crate) fn mark(&mut self, mark: &Mark) -> Result<()> {
        self.told.marks = true;
        let number = self.next("mark");
        self.put(table("mark").number(number), mark)
    }

    // [guide: sweep]
    pub(crate) fn sweep(&mut self, max: usize) -> Result<Step> {
        let mut done = 0;
        while done < max
            && let Some(key) = self.first(&table("mark"))
        {
            self.budget = max - done;
            // A mark whose work has vanished is work too, so that the loop ends.
            done += self.complete(key)?.max(1);
            self.settle_down()?;
        }
        let discarded = self.now.minus(bounds::BATCH_FILLING);
        while done < max
            && let Some(attached_at) = self.first_instant("filling")
            && attached_at <= discarded
            && let Some(key) = self.first(&table("filling"))
        {
            done += 1 + self.cancel(last_id(&key), Reason::BatchDiscarded, max - done)?;
            self.settle_down()?;
        }
        let (admitted, more) = self.fill_limits(max.saturating_sub(done))?;
        let next = self.first_instant("filling").map(|at| at.plus(bounds::BATCH_FILLING));
        let more = more || self.first(&table("mark")).is_some();
        // The answer tells of what is left.
        self.told.marks = false;
        let next_at = next.into_iter().chain(self.told.look_again.take()).min();
        let next_in = next_at.map(|at| at.since(self.now));
        Ok(Step {
            done: done + admitted,
            more: more || next.is_some_and(|at| at <= self.now),
            next_in,
        })
    }

    /// Does what a mark asks for, as far as the budget goes. What is left keeps its place.
    fn complete(&mut self, key: Vec<u8>) -> Result<usize> {
        let Some(mark) = self.get(&key)? else { return Ok(0) };
        let before = self.budget;
        match mark {
            Mark::Decide(ended) => {
                if self.decide(&ended)? {
                    self.tx.delete(key);
                    self.unmark_ended(ended.parent);
                }
                Ok(before - self.budget)
            }
            Mark::Spread { batch, what, after, inside } => {
                self.tx.delete(key);
                self.spread(batch, what, after, inside, before)
            }
        }
    }
    // [end]

    // [guide: purge]
    pub(crate) fn purge(&mut self, max: usize) -> Result<Step> {
        if self.has(Fault::PurgeIsEarly) {
            self.now = self.now.plus(Duration::from_secs(3600));
        }
        let mut done = 0;
        let mut looked = 0;
        let mut stopped = false;
        while done < max
            && looked < 4 * max + 100
            && let Some(place) = self.until_now("expires", 1).pop()
        {
            looked += 1;
            let mut job = self.job(place)?;
            if let Some(batch) = job.record.batch
                && !self.lets_members_go(batch, job.record.state())?
                && !self.has(Fault::PurgeRemovesWhatIsKept)
            {
                job.kept = true;
                self.save(&job)?;
                continue;
            }
            if !self.remove(place)? {
                stopped = true;
                break;
            }
            done += 1;
        }
        done += self.purge_batches(max - done)?;
        let more_keys = self.purge_keys(max);
        let next = self.first_instant("expires");
        let more = next.is_some_and(|at| at <= self.now) && !stopped || more_keys;
        Ok(Step { done, more, next_in: next.map(|at| at.since(self.now)) })
    }

    /// Removes a finished job with all that belongs to it; `false` while edges to its children are left,
    /// which have to be decided first.
    pub(crate) fn remove(&mut self, place: u64) -> Result<bool> {
        let job = self.job(place)?;
        let parent = Parent::Job(job.record.id);
        if self.has_marks(parent) {
            return Ok(false);
        }
        if self.has_open_edges(parent) && !self.has(Fault::PurgeIgnoresEdges) {
            self.budget = bounds::MAX_STEP_ITEMS;
            let ended = Ended { parent, verdict: Verdict::Gone, through: self.last("sequence") };
            let decided = self.decide(&ended)?;
            self.settle_down()?;
            if !decided {
                return Ok(false);
            }
        }
        for key in job.indexes() {
            self.tx.delete(key);
        }
        self.remove_edges(&job);
        self.delete_all(&table("with").number(place));
        self.tx.delete(keys::job(place));
        if !self.has(Fault::PurgeForgetsTheId) {
            self.tx.delete(keys::id(job.record.id));
        }
        if let Some(batch) = job.record.batch {
            self.member_removed(batch)?;
        }
        Ok(true)
    }
    // [end]
}
