//! Who holds which unique key, and until when.

use std::collections::{BTreeSet, HashMap};

use crate::model::clock::Timestamp;
use crate::model::ids::JobId;
use crate::model::unique::{KeyHash, Unique, is_held};

/// Unique keys that are held.
#[derive(Debug, Default)]
pub(super) struct Keys {
    rows: HashMap<KeyHash, Row>,
    /// Those that are held for a period, by its end.
    ends: BTreeSet<(Timestamp, KeyHash)>,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    job: JobId,
    until: Option<Timestamp>,
    /// Unknown, where another storage had it before.
    taken_at: Option<Timestamp>,
}

impl Row {
    fn is_held_by(&self, job: JobId) -> bool {
        self.job == job && self.until.is_none()
    }
}

impl Keys {
    /// Who holds a key at an instant.
    pub(super) fn holder(&self, hash: &KeyHash, now: Timestamp) -> Option<JobId> {
        let row = self.rows.get(hash)?;
        is_held(row.until, row.taken_at, now).then_some(row.job)
    }

    /// Who has a key, whether its period has passed or not.
    pub(super) fn holder_at_any_time(&self, hash: &KeyHash) -> Option<JobId> {
        self.rows.get(hash).map(|row| row.job)
    }

    /// Gives a key to a job, whoever held it.
    pub(super) fn take(&mut self, unique: &Unique, job: JobId, now: Timestamp) {
        let (hash, until) = (unique.hash(), unique.held_until(now));
        let row = Row { job, until, taken_at: Some(now) };
        if let Some(Row { until: Some(until), .. }) = self.rows.insert(hash, row) {
            self.ends.remove(&(until, hash));
        }
        self.ends.extend(until.map(|until| (until, hash)));
    }

    /// Frees a key if the job holds it, and not for a period.
    pub(super) fn free(&mut self, hash: &KeyHash, job: JobId) {
        if self.is_held_by(hash, job) {
            self.rows.remove(hash);
        }
    }

    /// The keys that are held for a period.
    pub(super) fn periods(&self) -> impl Iterator<Item = (KeyHash, JobId, Timestamp)> {
        let rows = self.rows.iter();
        rows.filter_map(|(hash, row)| row.until.map(|until| (*hash, row.job, until)))
    }

    /// Whether a job holds a key, other than for a period.
    pub(super) fn is_held_by(&self, hash: &KeyHash, job: JobId) -> bool {
        self.rows.get(hash).is_some_and(|row| row.is_held_by(job))
    }

    /// Gives a key to a job as another storage had it; `false` if somebody holds it.
    pub(super) fn hold(&mut self, hash: KeyHash, job: JobId, until: Option<Timestamp>) -> bool {
        if self.rows.contains_key(&hash) {
            return false;
        }
        self.put_back(LiftedKey { hash, row: Row { job, until, taken_at: None } });
        true
    }

    /// Takes away a key that a job holds, so that another may have it; it can be put back.
    pub(super) fn lift(&mut self, hash: KeyHash, job: JobId) -> Option<LiftedKey> {
        let row = *self.rows.get(&hash)?;
        if row.job != job {
            return None;
        }
        self.rows.remove(&hash);
        if let Some(until) = row.until {
            self.ends.remove(&(until, hash));
        }
        Some(LiftedKey { hash, row })
    }

    pub(super) fn put_back(&mut self, key: LiftedKey) {
        self.rows.insert(key.hash, key.row);
        self.ends.extend(key.row.until.map(|until| (until, key.hash)));
    }

    /// Removes keys whose period has passed, at most `max`; whether there are more.
    pub(super) fn purge(&mut self, now: Timestamp, max: usize) -> bool {
        let is_over = |keys: &Self| keys.ends.first().is_some_and(|(until, _)| *until <= now);
        for _ in 0..max {
            if !is_over(self) {
                return false;
            }
            if let Some((_, hash)) = self.ends.pop_first() {
                self.rows.remove(&hash);
            }
        }
        is_over(self)
    }
}

/// A key that was taken away for a moment.
#[derive(Debug)]
pub(super) struct LiftedKey {
    hash: KeyHash,
    row: Row,
}
