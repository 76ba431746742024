//! How long members and batches are kept.

use std::time::Duration;

use jobkit_core::batch::BatchRecord;
use jobkit_core::edge::{On, Parent};
use jobkit_core::state::StateName;
use jobkit_core::{BatchId, Result, bounds};

use super::{members, nested};
use crate::edges::children;
use crate::keys::{self, end_of, last_id, last_number, open_edges, table};
use crate::txn::Txn;

impl Txn<'_> {
    /// Whether an expired member may be removed. A Failed one ends the wait for the success of its batch,
    /// and of those around it, which would keep everything forever.
    pub(crate) fn lets_members_go(&mut self, id: BatchId, state: StateName) -> Result<bool> {
        let around = self.batches_around(id)?;
        let lost = BatchRecord::lost_with_a_member(&around);
        if state == StateName::Failed && self.is_over(&around, lost)? {
            for record in &around[..lost] {
                if !record.counts.lost {
                    self.change_batch(record.id, |batch| batch.record.counts.lost = true)?;
                    self.batches.insert(record.id);
                }
            }
            self.budget = bounds::CHILDREN_IN_SETTLE;
            self.settle_down()?;
        }
        self.is_over(&around, 0)
    }

    /// Whether a batch and all around it have completed and their continuations have finished; or whether
    /// nothing but the success of the innermost, as many as `lost`, is waited for.
    fn is_over(&self, around: &[BatchRecord], lost: usize) -> Result<bool> {
        for (n, batch) in around.iter().enumerate() {
            let but_for_success = n < lost;
            let parent = Parent::Batch(batch.id);
            let waits = [On::Any, On::Failed]
                .iter()
                .any(|on| self.first(&open_edges(parent, *on)).is_some());
            let success = open_edges(parent, On::Success);
            let waits = waits || !but_for_success && self.first(&success).is_some();
            if waits || batch.completed_at.is_none() || self.has_marks(parent) {
                return Ok(false);
            }
            for key in self.keys(&children(parent), usize::MAX) {
                let child = last_number(&key);
                let open = but_for_success && self.has_key(&success.clone().number(child));
                if !open && !self.job(child)?.record.state().is_finished() {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Removes members that were kept for their batch, and batches that never had any; how many.
    pub(crate) fn purge_batches(&mut self, max: usize) -> Result<usize> {
        let mut done = 0;
        let kept = table("kept");
        let mut from = kept.to_vec();
        while done < max
            && let Some(key) = self.keys_from(&kept, &from, 1).pop()
        {
            let of_batch = &key[..key.len() - 9];
            // Behind all members of the batch, without walking over them.
            from = end_of(of_batch);
            let id = last_id(of_batch);
            while done < max
                && let Some(key) = self.first(&kept.clone().id(id.as_bytes()))
                && let place = last_number(&key)
                && self.lets_members_go(id, self.job(place)?.record.state())?
                && self.remove(place)?
            {
                done += 1;
            }
        }
        let end = table("empty").at(self.now).end();
        let empty = self.tx.keys(&table("empty"), &end).take(max - done);
        for key in empty.map(<[u8]>::to_vec).collect::<Vec<_>>() {
            let id = last_id(&key);
            self.tx.delete(key);
            done += 1;
            if self.is_over(&self.batches_around(id)?, 0)? {
                self.remove_batch(id)?;
            } else {
                let again = self.now.plus(Duration::from_secs(3600));
                self.tx.put(table("empty").at(again).id(id.as_bytes()), []);
            }
        }
        Ok(done)
    }

    /// The batch goes with its last member, and with it those around it that have none left either.
    pub(crate) fn member_removed(&mut self, id: BatchId) -> Result<()> {
        let is_empty = self.first(&members(id)).is_none() && self.first(&nested(id)).is_none();
        if is_empty { self.remove_batch(id) } else { Ok(()) }
    }

    fn remove_batch(&mut self, id: BatchId) -> Result<()> {
        let Some(batch) = self.stored_batch(id)? else { return Ok(()) };
        self.tx.delete(keys::batch(id));
        self.delete_all(&children(Parent::Batch(id)));
        let Some(around) = batch.parent else { return Ok(()) };
        self.tx.delete(nested(around).id(id.as_bytes()));
        self.member_removed(around)
    }
}
