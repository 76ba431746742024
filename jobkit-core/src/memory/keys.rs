//! Who holds which unique key, and until when.

use std::collections::{BTreeSet, HashMap};

use crate::clock::Timestamp;
use crate::ids::JobId;
use crate::unique::{KeyHash, Unique};

/// Unique keys that are held.
#[derive(Debug, Default)]
pub(super) struct Keys {
    rows: HashMap<KeyHash, (JobId, Option<Timestamp>)>,
    /// Those that are held for a period, by its end.
    ends: BTreeSet<(Timestamp, KeyHash)>,
}

impl Keys {
    /// Who holds a key at an instant.
    pub(super) fn holder(&self, hash: &KeyHash, now: Timestamp) -> Option<JobId> {
        let (holder, until) = self.rows.get(hash)?;
        until.is_none_or(|until| until > now).then_some(*holder)
    }

    /// Gives a key to a job, whoever held it.
    pub(super) fn take(&mut self, unique: &Unique, job: JobId, now: Timestamp) {
        let (hash, until) = (unique.hash(), unique.held_until(now));
        if let Some((_, Some(until))) = self.rows.insert(hash, (job, until)) {
            self.ends.remove(&(until, hash));
        }
        self.ends.extend(until.map(|until| (until, hash)));
    }

    /// Frees a key if the job holds it, and not for a period.
    pub(super) fn free(&mut self, hash: &KeyHash, job: JobId) {
        if self.rows.get(hash) == Some(&(job, None)) {
            self.rows.remove(hash);
        }
    }

    /// The keys that are held for a period.
    pub(super) fn periods(&self) -> impl Iterator<Item = (KeyHash, JobId, Timestamp)> {
        let rows = self.rows.iter();
        rows.filter_map(|(hash, (job, until))| until.map(|until| (*hash, *job, until)))
    }

    /// Whether a job holds a key, other than for a period.
    pub(super) fn is_held_by(&self, hash: &KeyHash, job: JobId) -> bool {
        self.rows.get(hash) == Some(&(job, None))
    }

    /// Gives a key to a job as another storage had it; `false` if somebody holds it.
    pub(super) fn hold(&mut self, hash: KeyHash, job: JobId, until: Option<Timestamp>) -> bool {
        if self.rows.contains_key(&hash) {
            return false;
        }
        self.put_back(LiftedKey { hash, job, until });
        true
    }

    /// Takes away a key that a job holds, so that another may have it; it can be put back.
    pub(super) fn lift(&mut self, hash: KeyHash, job: JobId) -> Option<LiftedKey> {
        let (holder, until) = *self.rows.get(&hash)?;
        if holder != job {
            return None;
        }
        self.rows.remove(&hash);
        if let Some(until) = until {
            self.ends.remove(&(until, hash));
        }
        Some(LiftedKey { hash, job, until })
    }

    pub(super) fn put_back(&mut self, key: LiftedKey) {
        self.rows.insert(key.hash, (key.job, key.until));
        self.ends.extend(key.until.map(|until| (until, key.hash)));
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
    job: JobId,
    until: Option<Timestamp>,
}
