//! Rate limits: starts that count, and the instants at which they do not count any more.

use jobkit_core::limit::Window;
use jobkit_core::{Result, Timestamp};

use super::{LIMITS_SWEPT, SKEW, room_key, row_key, starts};
use crate::keys::{instant, last_number, table, texts};
use crate::txn::Txn;

impl Txn<'_> {
    pub(super) fn add_starts(&mut self, limit: &str, from: Timestamp, count: u64) -> Result<()> {
        let Some(mut row) = self.limit_row(limit)? else { return Ok(()) };
        let key = starts(limit).at(from);
        let before = self.tx.get(&key).map_or(0, last_number);
        self.tx.put(key, (before + count).to_be_bytes());
        row.started += count;
        self.put(row_key(limit), &row)
    }

    /// Takes away starts from a range of keys; each with its count.
    fn take_starts(
        &mut self,
        limit: &str,
        from: &[u8],
        to: &[u8],
    ) -> Result<Vec<(Timestamp, u64)>> {
        let Some(mut row) = self.limit_row(limit)? else { return Ok(Vec::new()) };
        let keys: Vec<Vec<u8>> = self.tx.keys(from, to).map(<[u8]>::to_vec).collect();
        let mut taken = Vec::with_capacity(keys.len());
        for key in keys {
            let count = self.tx.get(&key).map_or(0, last_number);
            row.started = row.started.saturating_sub(count);
            taken.push((instant(&starts(limit), &key), count));
            self.tx.delete(key);
        }
        if !taken.is_empty() {
            self.put(row_key(limit), &row)?;
        }
        Ok(taken)
    }

    /// Forgets the starts that do not count any more.
    pub(super) fn forget_starts(&mut self, limit: &str) -> Result<()> {
        let Some(row) = self.limit_row(limit)? else { return Ok(()) };
        let Some(window) = row.limit.window else { return Ok(()) };
        let end = starts(limit).at(self.now.minus(window.length())).end();
        self.take_starts(limit, &starts(limit), &end)?;
        self.note_room(limit)
    }

    /// Starts that are yet to come, since the clock went back, count from now on: so none counts longer than
    /// one length.
    pub(super) fn pull_back(&mut self, limit: &str) -> Result<()> {
        let Some(row) = self.limit_row(limit)? else { return Ok(()) };
        let Some(window) = row.limit.window else { return Ok(()) };
        let soon = starts(limit).at(self.now.plus(SKEW)).end();
        let ahead = self.take_starts(limit, &soon, &starts(limit).end())?;
        let ahead: u64 = ahead.into_iter().map(|(_, count)| count).sum();
        if ahead > 0 {
            self.add_starts(limit, window.counts_from(self.now), ahead)?;
        }
        self.note_room(limit)
    }

    /// Notes the starts that count for another window. Of those in a fixed one nobody knows the instant: they
    /// count as if they were now, so that none is lost.
    pub(super) fn change_window(&mut self, limit: &str, to: Option<Window>) -> Result<()> {
        self.forget_starts(limit)?;
        let Some(mut row) = self.limit_row(limit)? else { return Ok(()) };
        let from = std::mem::replace(&mut row.limit.window, to);
        if from == to {
            return Ok(());
        }
        self.put(row_key(limit), &row)?;
        let kept = self.take_starts(limit, &starts(limit), &starts(limit).end())?;
        let (Some(from), Some(to)) = (from, to) else { return Ok(()) };
        for (start, count) in kept {
            let start = if matches!(from, Window::Fixed(_)) { self.now } else { start };
            let from = to.counts_from(start);
            if from.plus(to.length()) > self.now {
                self.add_starts(limit, from, count)?;
            }
        }
        Ok(())
    }

    /// Enters when a rate limit at which jobs are parked has room again.
    pub(crate) fn note_room(&mut self, limit: &str) -> Result<()> {
        let Some(mut row) = self.limit_row(limit)? else { return Ok(()) };
        let waits = self.first(&table("waiting").text(limit)).is_some();
        let first = self.first(&starts(limit)).filter(|_| waits);
        let first = first.map(|key| instant(&starts(limit), &key));
        let at = row.limit.window.and_then(|window| first.map(|first| first.plus(window.length())));
        if at == row.room_at {
            return Ok(());
        }
        if let Some(before) = std::mem::replace(&mut row.room_at, at) {
            self.tx.delete(room_key(before, limit));
        }
        if let Some(at) = at {
            self.tx.put(room_key(at, limit), []);
        }
        self.put(row_key(limit), &row)
    }

    pub(super) fn due_for_room(&mut self, limit: &str) -> Result<()> {
        if let Some(at) = self.limit_row(limit)?.and_then(|row| row.room_at) {
            self.due_at(at);
        }
        Ok(())
    }

    /// Lets go who waits at rate limits to which time has brought room; how many.
    pub(crate) fn fill_due_limits(&mut self, max: usize) -> Result<usize> {
        let room = table("room");
        if self.first(&room).is_none() {
            return Ok(0);
        }
        let limit_of = |key: &Vec<u8>| texts::<1>(room.len() + 8, key).concat();
        let before: Option<Timestamp> = self.get(&table("started"))?;
        if before != Some(self.now) {
            let now = self.now;
            self.put(table("started"), &now)?;
        }
        if before.is_some_and(|before| before > self.now) {
            // The clock went back.
            for key in self.keys(&room, usize::MAX) {
                self.pull_back(&limit_of(&key))?;
            }
        }
        let mut done = 0;
        for _ in 0..LIMITS_SWEPT {
            let due = self.tx.keys(&room, &room.clone().at(self.now).end()).next();
            let Some(due) = due.map(<[u8]>::to_vec).filter(|_| done < max) else { break };
            done += self.admit(&limit_of(&due), max - done)?;
        }
        Ok(done)
    }
}
