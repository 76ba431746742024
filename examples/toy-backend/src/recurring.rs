//! `impl RecurringStore`.

use async_trait::async_trait;
use jobkit_core::record::NewRecord;
use jobkit_core::recurring::{Fired, Overlap, Pause, RecurringRecord, RecurringRun, RunOutcome};
use jobkit_core::refusal::Refusal;
use jobkit_core::state::Reason;
use jobkit_core::storage::{
    Call, DueRecurring, Fire, FireJob, FireOutcome, JobSubmitted, PauseChange, RecurringStore,
    SaveOutcome, SaveRecurring, Submission, Submitted, TriggerOutcome, check_items,
};
use jobkit_core::{Result, Timestamp, bounds};
use serde::{Deserialize, Serialize};

use crate::ToyStorage;
use crate::fault::Fault;
use crate::keys::{Key, instant, table, texts};
use crate::txn::Txn;

/// A schedule as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Schedule {
    record: RecurringRecord,
    /// How many occurrences were recorded.
    runs: u64,
}

impl Schedule {
    fn key(id: &str) -> Key {
        table("schedule").text(id)
    }

    /// The key among those that wait for an instant: not before a pause ends, if it ends by itself.
    fn due(&self) -> Option<Key> {
        let due_at = self.record.next?.due_at;
        let at = match &self.record.pause {
            Some(pause) => due_at.max(pause.until?),
            None => due_at,
        };
        Some(table("fires").at(at).text(&self.record.spec.id))
    }
}

/// What is remembered of a schedule that was removed.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Tombstone {
    last_nominal_at: Option<Timestamp>,
    fired: Fired,
    /// How many occurrences were due when it was removed: they are recorded.
    runs: u64,
}

fn tombstone(id: &str) -> Key {
    table("fired").text(id)
}

fn runs(id: &str) -> Key {
    table("run").text(id)
}

#[async_trait]
impl RecurringStore for ToyStorage {
    async fn save_recurring(
        &self,
        call: &Call,
        saves: &[SaveRecurring],
    ) -> Result<Vec<SaveOutcome>> {
        check_items("saves", saves.len())?;
        self.write(call, |txn| saves.iter().map(|save| txn.save_definition(save)).collect())
    }

    async fn remove_recurring(&self, call: &Call, id: &str) -> Result<bool> {
        self.write(call, |txn| {
            let Some(schedule) = txn.schedule(id)? else { return Ok(false) };
            if let Some(due) = schedule.due() {
                txn.tx.delete(due);
            }
            txn.tx.delete(Schedule::key(id));
            txn.delete_all(&runs(id));
            let dropped = schedule.record.dropped(&RunOutcome::Replaced, txn.now);
            let mut left = Tombstone {
                last_nominal_at: schedule.record.last_nominal_at,
                fired: schedule.record.fired,
                runs: 0,
            };
            for range in &dropped {
                left.runs += 1;
                left.last_nominal_at = Some(range.through);
                txn.put(runs(id).number(left.runs), range)?;
            }
            if left.last_nominal_at.is_some() {
                txn.put(tombstone(id), &left)?;
            }
            Ok(true)
        })
    }

    async fn pause_recurring(&self, call: &Call, id: &str, change: PauseChange) -> Result<bool> {
        if let PauseChange::Pause(pause) = &change {
            pause.check()?;
        }
        self.write(call, |txn| {
            let Some(mut schedule) = txn.schedule(id)? else { return Ok(false) };
            let record = &mut schedule.record;
            let mut dropped = Vec::new();
            match change {
                PauseChange::Pause(pause) => {
                    record.pause = Some(Pause { since: txn.now, ..pause });
                }
                // Repeated it changes nothing: the first one set the next occurrence.
                PauseChange::Resume { .. } if record.pause.is_none() => return Ok(true),
                PauseChange::Resume { next } => {
                    dropped = record.dropped(&RunOutcome::Misfired, txn.now);
                    record.pause = None;
                    record.next = next;
                    if let Some(next) = next {
                        txn.due_at(next.due_at);
                    }
                }
            }
            if !txn.has(Fault::PauseKeepsTheEtag) {
                record.etag = txn.next("etag");
            }
            txn.save_schedule(&schedule)?;
            txn.record_dropped(id, dropped)?;
            Ok(true)
        })
    }

    async fn due_recurring(&self, call: &Call, max: usize) -> Result<DueRecurring> {
        self.read_at(call, |txn| {
            let fires = table("fires");
            let waiting = txn.keys(&fires, max.saturating_add(1));
            let is_due = |key: &&Vec<u8>| instant(&fires, key) <= txn.now;
            let due = waiting.iter().take_while(is_due).take(max).count();
            let record = |key: &Vec<u8>| {
                let [id] = texts(fires.len() + 8, key);
                Ok(txn.schedule(&id)?.map(|schedule| schedule.record))
            };
            let records = waiting[..due].iter().map(record);
            Ok(DueRecurring {
                due: records.filter_map(Result::transpose).collect::<Result<_>>()?,
                next_due_at: waiting.get(due).map(|key| instant(&fires, key)),
                now: txn.now,
            })
        })
    }

    async fn fire_recurring(&self, call: &Call, fires: &[Fire]) -> Result<Vec<FireOutcome>> {
        check_items("fires", fires.len())?;
        self.write(call, |txn| fires.iter().map(|fire| txn.fire(fire)).collect())
    }

    async fn trigger_recurring(
        &self,
        call: &Call,
        id: &str,
        job: &NewRecord,
    ) -> Result<TriggerOutcome> {
        self.write(call, |txn| {
            if txn.schedule(id)?.is_none() {
                return Ok(TriggerOutcome::NotFound);
            }
            let submission = Submission::one(job.clone());
            match txn.submit_one(&submission, Reason::Recurring)? {
                Submitted::Created(jobs) => match jobs.first() {
                    Some(JobSubmitted::Existing(holder)) => {
                        return Ok(TriggerOutcome::Existing(*holder));
                    }
                    // The answer of the first call was lost.
                    Some(JobSubmitted::Already(_)) => return Ok(TriggerOutcome::Created(job.id)),
                    _ => {}
                },
                Submitted::Refused(refusal) => return Ok(TriggerOutcome::Refused(refusal)),
                Submitted::Busy => return Ok(TriggerOutcome::NotFound),
            }
            let outcome = RunOutcome::Triggered { job: job.id };
            txn.record_run(id, single_run(txn.now, txn.now, outcome))?;
            Ok(TriggerOutcome::Created(job.id))
        })
    }

    async fn list_recurring(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<RecurringRecord>> {
        self.read(|txn| {
            let all = table("schedule");
            let from = after.map_or(all.to_vec(), |after| Schedule::key(after).end());
            let keys = txn.keys_from(&all, &from, limit);
            let record = |key: &Vec<u8>| Ok(txn.get::<Schedule>(key)?.map(|it| it.record));
            keys.iter().map(record).filter_map(Result::transpose).collect()
        })
    }

    async fn recurring(&self, id: &str) -> Result<Option<RecurringRecord>> {
        self.read(|txn| Ok(txn.schedule(id)?.map(|schedule| schedule.record)))
    }

    async fn recurring_runs(&self, id: &str, limit: usize) -> Result<Vec<RecurringRun>> {
        self.read(|txn| {
            let keys = txn.keys(&runs(id), usize::MAX);
            let newest_first = keys.iter().rev().take(limit);
            newest_first.filter_map(|key| txn.get(key).transpose()).collect()
        })
    }
}

fn single_run(nominal_at: Timestamp, at: Timestamp, outcome: RunOutcome) -> RecurringRun {
    RecurringRun { nominal_at, through: nominal_at, count: 1, outcome, at }
}

impl Txn<'_> {
    fn schedule(&self, id: &str) -> Result<Option<Schedule>> {
        self.get(&Schedule::key(id))
    }

    fn save_schedule(&mut self, schedule: &Schedule) -> Result<()> {
        let id = &schedule.record.spec.id;
        let before = self.schedule(id)?;
        if let Some(due) = before.and_then(|before| before.due()) {
            self.tx.delete(due);
        }
        if let Some(due) = schedule.due() {
            self.tx.put(due, []);
        }
        self.put(Schedule::key(id), schedule)
    }

    fn save_definition(&mut self, save: &SaveRecurring) -> Result<SaveOutcome> {
        if let Err(error) = save.spec.check() {
            return Ok(SaveOutcome::Refused(error.into()));
        }
        let (id, spec, next) = (&save.spec.id, save.spec.clone(), save.next);
        let stored = self.schedule(id)?;
        let etag = stored.as_ref().map_or(0, |schedule| schedule.record.etag);
        if save.if_etag.is_some_and(|expected| expected != etag) {
            return Ok(SaveOutcome::Changed { etag });
        }
        let mut dropped = Vec::new();
        let (schedule, outcome) = match stored {
            Some(mut stored) if stored.record.spec == spec => {
                stored.record.next = stored.record.next_if_unchanged(next);
                (stored, SaveOutcome::Unchanged { etag })
            }
            Some(stored) => {
                let (etag, next);
                (next, dropped) = stored.record.next_if_replaced(&spec, save.next, self.now);
                etag = self.next("etag");
                let record = RecurringRecord { spec, next, etag, ..stored.record };
                (Schedule { record, ..stored }, SaveOutcome::Replaced { etag })
            }
            None => {
                let forgotten = self.has(Fault::TombstoneIsForgotten);
                let left: Tombstone = self.get(&tombstone(id))?.unwrap_or_default();
                let left = if forgotten { Tombstone::default() } else { left };
                self.tx.delete(tombstone(id));
                let etag = self.next("etag");
                let record = RecurringRecord {
                    spec,
                    etag,
                    next,
                    last_nominal_at: left.last_nominal_at,
                    fired: left.fired,
                    last_job: None,
                    pause: None,
                    created_at: self.now,
                };
                (Schedule { record, runs: left.runs }, SaveOutcome::Created { etag })
            }
        };
        self.save_schedule(&schedule)?;
        self.record_dropped(id, dropped)?;
        if let Some(next) = schedule.record.next {
            self.due_at(next.due_at);
        }
        Ok(outcome)
    }

    // [guide: fire]
    fn fire(&mut self, fire: &Fire) -> Result<FireOutcome> {
        let now = self.now;
        let Some(mut schedule) = self.schedule(&fire.id)? else { return Ok(FireOutcome::Stale) };
        let blind = self.has(Fault::FireWithoutCompareAndSwap);
        if !fire.fits(&schedule.record, now) && !blind {
            return Ok(FireOutcome::Stale);
        }
        let fired_before = |at| schedule.record.has_fired(at, now) && !blind;
        let fired_before = fire.job.as_ref().is_some_and(|job| fired_before(job.nominal_at));
        fire.move_on(&mut schedule.record, now);
        self.save_schedule(&schedule)?;
        for skipped in &fire.skipped {
            self.record_run(&fire.id, RecurringRun { at: now, ..skipped.clone() })?;
        }
        let Some(job) = &fire.job else { return Ok(FireOutcome::Skipped) };
        if fired_before {
            // It was removed and saved again, or the clock went back.
            return Ok(FireOutcome::Skipped);
        }
        let (outcome, run) = self.fire_job(&schedule, job)?;
        self.record_run(&fire.id, single_run(job.nominal_at, now, run))?;
        if let Some(mut schedule) = self.schedule(&fire.id)? {
            schedule.record.note_fired(job.nominal_at);
            if let FireOutcome::Fired(job) = outcome {
                schedule.record.last_job = Some(job);
            }
            self.save_schedule(&schedule)?;
        }
        Ok(outcome)
    }
    // [end]

    fn fire_job(&mut self, of: &Schedule, fire: &FireJob) -> Result<(FireOutcome, RunOutcome)> {
        if fire.overlap == Overlap::Skip
            && let Some(job) = of.record.last_job
            && self.job_by_id(job)?.is_some_and(|job| !job.record.state().is_finished())
            && !self.has(Fault::OverlapIsNotLookedAt)
        {
            return Ok((FireOutcome::Skipped, RunOutcome::Overlapping { job }));
        }
        let job = fire.job.id;
        let submitted = self.submit_one(&Submission::one(fire.job.clone()), Reason::Recurring)?;
        Ok(match submitted {
            Submitted::Created(jobs) => match jobs.first() {
                Some(JobSubmitted::Existing(holder)) => {
                    (FireOutcome::Skipped, RunOutcome::KeyHeld { holder: *holder })
                }
                _ => (FireOutcome::Fired(job), RunOutcome::Fired { job }),
            },
            Submitted::Refused(Refusal::UniqueConflict { holder }) => {
                (FireOutcome::Skipped, RunOutcome::KeyHeld { holder })
            }
            Submitted::Refused(refusal) => {
                (FireOutcome::Skipped, RunOutcome::Refused { reason: refusal.to_string() })
            }
            Submitted::Busy => (FireOutcome::Skipped, RunOutcome::Misfired),
        })
    }

    /// Records what was due and will not be fired.
    fn record_dropped(&mut self, id: &str, dropped: Vec<RecurringRun>) -> Result<()> {
        if let (Some(range), Some(mut schedule)) = (dropped.last(), self.schedule(id)?) {
            schedule.record.last_nominal_at = Some(range.through);
            self.save_schedule(&schedule)?;
        }
        dropped.into_iter().try_for_each(|range| self.record_run(id, range))
    }

    fn record_run(&mut self, id: &str, run: RecurringRun) -> Result<()> {
        let Some(mut schedule) = self.schedule(id)? else { return Ok(()) };
        schedule.runs += 1;
        let number = schedule.runs;
        self.put(runs(id).number(number), &run)?;
        if let Some(old) = number.checked_sub(bounds::RECURRING_RUNS as u64) {
            self.tx.delete(runs(id).number(old));
        }
        self.save_schedule(&schedule)
    }
}
