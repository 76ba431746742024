//! Unique keys: a row for each that is held.

use std::collections::HashMap;

use jobkit_core::record::NewRecord;
use jobkit_core::refusal::Refusal;
use jobkit_core::state::StateName;
use jobkit_core::state_machine::Effects;
use jobkit_core::unique::{KeyHash, OnConflict, Unique, Until, is_held};
use jobkit_core::{JobId, Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::keys::{Key, table};
use crate::record::Job;
use crate::submit::Planned;
use crate::txn::Txn;

/// A key that is held; `period/` leads to those that are held for a period, by its end.
#[derive(Debug, Serialize, Deserialize)]
struct Held {
    job: JobId,
    until: Option<Timestamp>,
    #[serde(default)]
    taken_at: Option<Timestamp>,
}

/// The keys that a submission takes, and whom it replaces.
#[derive(Debug, Default)]
pub(crate) struct PlannedKeys {
    taken: HashMap<KeyHash, JobId>,
    replaced: Vec<JobId>,
}

impl PlannedKeys {
    pub(crate) fn replaced(&self) -> impl Iterator<Item = JobId> {
        self.replaced.iter().copied()
    }
}

fn row(hash: KeyHash) -> Key {
    table("key").id(&hash.0)
}

fn period(until: Timestamp, hash: KeyHash) -> Key {
    table("period").at(until).id(&hash.0)
}

impl Txn<'_> {
    /// Who holds a key now.
    fn holder(&self, unique: &Unique) -> Result<Option<JobId>> {
        let held: Option<Held> = self.get(&row(unique.hash()))?;
        let held = held.filter(|held| is_held(held.until, held.taken_at, self.now));
        Ok(held.map(|held| held.job))
    }

    /// Who holds the key of a job, if that is another one.
    pub(crate) fn other_holder(&self, job: &Job) -> Result<Option<JobId>> {
        let Some(unique) = &job.record.unique else { return Ok(None) };
        let holder = self.holder(unique)?.filter(|holder| *holder != job.record.id);
        Ok(holder.filter(|_| !self.has(Fault::RequeueTakesAHeldKey)))
    }

    // [guide: unique]
    /// Plans that a new job takes its key; the holder that stands in its place, if there is one.
    pub(crate) fn plan_key(
        &self,
        job: &NewRecord,
        keys: &mut PlannedKeys,
    ) -> Planned<Option<JobId>> {
        let Some(unique) = &job.unique else { return Ok(Ok(None)) };
        let hash = unique.hash();
        let within = keys.taken.get(&hash).copied();
        let holder = within.map_or_else(|| self.holder(unique), |holder| Ok(Some(holder)))?;
        if let Some(holder) = holder {
            let stored = self.job_by_id(holder)?;
            let runs = stored.as_ref().is_some_and(|it| it.record.state() == StateName::Processing);
            match unique.on_conflict {
                OnConflict::ReturnExisting => return Ok(Ok(Some(holder))),
                OnConflict::Replace if !runs => {
                    // One that held it for a period may be gone, and this be its id again.
                    let is_there = within.is_some() || stored.is_some();
                    keys.replaced.extend(is_there.then_some(holder));
                }
                OnConflict::Reject | OnConflict::Replace => {
                    return Ok(Err(Refusal::UniqueConflict { holder }));
                }
            }
        }
        keys.taken.insert(hash, job.id);
        Ok(Ok(None))
    }

    pub(crate) fn take_planned_key(&mut self, job: &NewRecord, keys: &PlannedKeys) -> Result<()> {
        match &job.unique {
            // Of several with one key the last planned has it, and the others gave way.
            Some(unique) if keys.taken.get(&unique.hash()) == Some(&job.id) => {
                self.take_key(unique, job.id)
            }
            _ => Ok(()),
        }
    }

    /// Frees or takes the key of a job as a transition demands.
    pub(crate) fn change_key(&mut self, job: &Job, effects: &Effects) -> Result<()> {
        let Some(unique) = &job.record.unique else { return Ok(()) };
        let at_start = effects.frees_key_at_start && unique.until == Until::Started;
        if effects.frees_key || at_start {
            let held: Option<Held> = self.get(&row(unique.hash()))?;
            // Neither what another one has taken since, nor what is held for a period.
            if held.is_some_and(|held| {
                held.job == job.record.id
                    && (held.until.is_none() || self.has(Fault::PeriodEndsWithTheJob))
            }) {
                self.tx.delete(row(unique.hash()));
            }
        }
        if effects.takes_key && self.holder(unique)?.is_none() {
            self.take_key(unique, job.record.id)?;
        }
        Ok(())
    }
    // [end]

    fn take_key(&mut self, unique: &Unique, job: JobId) -> Result<()> {
        if self.has(Fault::KeyIsNotTaken) {
            return Ok(());
        }
        let (hash, until) = (unique.hash(), unique.held_until(self.now));
        if let Some(Held { until: Some(before), .. }) = self.get(&row(hash))?
            && !self.has(Fault::FormerPeriodFreesTheKey)
        {
            self.tx.delete(period(before, hash));
        }
        if let Some(until) = until {
            self.tx.put(period(until, hash), []);
        }
        self.put(row(hash), &Held { job, until, taken_at: Some(self.now) })
    }

    /// Removes keys whose period has passed, at most `max`; whether there are more.
    pub(crate) fn purge_keys(&mut self, max: usize) -> bool {
        let end = table("period").at(self.now).end();
        let over = self.tx.keys(&table("period"), &end).take(max.saturating_add(1));
        let over: Vec<Vec<u8>> = over.map(<[u8]>::to_vec).collect();
        for key in over.iter().take(max) {
            let hash = KeyHash(key.last_chunk().copied().unwrap_or_default());
            self.tx.delete(row(hash));
            self.tx.delete(key.clone());
        }
        over.len() > max
    }
}
