//! `impl RecurringStore`.

use std::ops::Bound;

use async_trait::async_trait;

use crate::memory::MemoryStorage;
use crate::model::bounds;
use crate::model::clock::Timestamp;
use crate::model::error::Result;
use crate::model::ids::JobId;
use crate::model::record::NewRecord;
use crate::model::recurring::{Overlap, Pause, RecurringRecord, RecurringRun, RunOutcome};
use crate::model::refusal::Refusal;
use crate::model::state::Reason;
use crate::storage::{
    Call, DueRecurring, Fire, FireJob, FireOutcome, JobSubmitted, PauseChange, RecurringStore,
    SaveOutcome, SaveRecurring, Submission, Submitted, TriggerOutcome, check_items,
};

use super::planted::Planted;
use super::state::{ScheduleRow, Tables, Tombstone, Work};
use super::strangers::Strangers;

#[async_trait]
impl RecurringStore for MemoryStorage {
    async fn save_recurring(
        &self,
        call: &Call,
        saves: &[SaveRecurring],
    ) -> Result<Vec<SaveOutcome>> {
        check_items("saves", saves.len())?;
        Ok(self.write(call, |tables, work| {
            saves.iter().map(|save| tables.save_schedule(work, save)).collect()
        }))
    }

    async fn remove_recurring(&self, call: &Call, id: &str) -> Result<bool> {
        self.write(call, |tables, work| {
            Strangers::unless_held(tables.strangers.hold_schedule(id))?;
            let Some(row) = tables.schedules.remove(id) else { return Ok(false) };
            let dropped = row.record.dropped(&RunOutcome::Replaced, work.now);
            let last_dropped = dropped.last().map(|range| range.through);
            let tombstone = Tombstone {
                last_nominal_at: last_dropped.or(row.record.last_nominal_at),
                fired: row.record.fired,
                runs: dropped.into_iter().rev().collect(),
            };
            if tombstone.last_nominal_at.is_some() {
                tables.tombstones.insert(id.to_owned(), tombstone);
            }
            Ok(true)
        })
    }

    async fn pause_recurring(&self, call: &Call, id: &str, change: PauseChange) -> Result<bool> {
        if let PauseChange::Pause(pause) = &change {
            pause.check()?;
        }
        self.write(call, |tables, work| {
            Strangers::unless_held(tables.strangers.hold_schedule(id))?;
            let etag = tables.etag + 1;
            let Some(row) = tables.schedules.get_mut(id) else { return Ok(false) };
            let mut dropped = Vec::new();
            match change {
                PauseChange::Pause(pause) => {
                    row.record.pause = Some(Pause { since: work.now, ..pause });
                }
                // Repeated it changes nothing: the first one set the next occurrence.
                PauseChange::Resume { .. } if row.record.pause.is_none() => return Ok(true),
                PauseChange::Resume { next } => {
                    dropped = row.record.dropped(&RunOutcome::Misfired, work.now);
                    row.record.pause = None;
                    row.record.next = next;
                    if let Some(next) = next {
                        work.due = Some(next.due_at);
                    }
                }
            }
            row.record.etag = etag;
            tables.etag = etag;
            tables.record_dropped(id, dropped);
            Ok(true)
        })
    }

    async fn due_recurring(&self, call: &Call, max: usize) -> Result<DueRecurring> {
        Ok(self.read_at(call, |tables, now| {
            // When each could fire: not before its pause ends, if it ends by itself.
            let mut waiting: Vec<(Timestamp, &RecurringRecord)> = tables
                .schedules
                .values()
                .filter_map(|row| {
                    let due_at = row.record.next?.due_at;
                    let at = match row.record.pause.as_ref().filter(|pause| pause.holds(now)) {
                        Some(pause) => due_at.max(pause.until?),
                        None => due_at,
                    };
                    Some((at, &row.record))
                })
                .collect();
            waiting.sort_by_key(|(at, _)| *at);
            let due = waiting.iter().take_while(|(at, _)| *at <= now).take(max).count();
            DueRecurring {
                due: waiting[..due].iter().map(|(_, record)| (*record).clone()).collect(),
                next_due_at: waiting.get(due).map(|(at, _)| *at),
                now,
            }
        }))
    }

    async fn fire_recurring(&self, call: &Call, fires: &[Fire]) -> Result<Vec<FireOutcome>> {
        check_items("fires", fires.len())?;
        Ok(self
            .write(call, |tables, work| fires.iter().map(|fire| tables.fire(work, fire)).collect()))
    }

    async fn trigger_recurring(
        &self,
        call: &Call,
        id: &str,
        job: &NewRecord,
    ) -> Result<TriggerOutcome> {
        Ok(self.write(call, |tables, work| {
            if tables.strangers.hold_schedule(id) {
                return TriggerOutcome::Busy;
            }
            if !tables.schedules.contains_key(id) {
                return TriggerOutcome::NotFound;
            }
            let submission = Submission::one(job.clone());
            let outcome = match tables.submit_one(work, &submission, Reason::Recurring) {
                Submitted::Created(jobs) => match jobs.first() {
                    Some(JobSubmitted::Existing(holder)) => {
                        return TriggerOutcome::Existing(*holder);
                    }
                    // The answer of the first call was lost.
                    Some(JobSubmitted::Already(_)) => return TriggerOutcome::Created(job.id),
                    _ => RunOutcome::Triggered { job: job.id },
                },
                Submitted::Refused(refusal) => return TriggerOutcome::Refused(refusal),
                Submitted::Busy => return TriggerOutcome::Busy,
            };
            tables.record_run(id, single_run(work.now, work.now, outcome));
            TriggerOutcome::Created(job.id)
        }))
    }

    async fn list_recurring(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<RecurringRecord>> {
        Ok(self.read(|tables| {
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let rows = tables.schedules.range::<str, _>((from, Bound::Unbounded));
            rows.take(limit).map(|(_, row)| row.record.clone()).collect()
        }))
    }

    async fn recurring(&self, id: &str) -> Result<Option<RecurringRecord>> {
        Ok(self.read(|tables| tables.schedules.get(id).map(|row| row.record.clone())))
    }

    async fn recurring_runs(&self, id: &str, limit: usize) -> Result<Vec<RecurringRun>> {
        Ok(self.read(|tables| {
            let removed = || tables.tombstones.get(id).map(|tombstone| &tombstone.runs);
            let runs = tables.schedules.get(id).map(|row| &row.runs).or_else(removed);
            runs.map(|runs| runs.iter().take(limit).cloned().collect()).unwrap_or_default()
        }))
    }
}

fn single_run(nominal_at: Timestamp, at: Timestamp, outcome: RunOutcome) -> RecurringRun {
    RecurringRun { nominal_at, through: nominal_at, count: 1, outcome, at }
}

impl Tables {
    fn save_schedule(&mut self, work: &mut Work, save: &SaveRecurring) -> SaveOutcome {
        if let Err(error) = save.spec.check() {
            return SaveOutcome::Refused(error.into());
        }
        let next_etag = self.etag + 1;
        let id = &save.spec.id;
        if self.strangers.hold_schedule(id) {
            return SaveOutcome::Busy;
        }
        let stored = self.schedules.get_mut(id);
        let etag = stored.as_ref().map_or(0, |row| row.record.etag);
        if save.if_etag.is_some_and(|expected| expected != etag) {
            return SaveOutcome::Changed { etag };
        }
        let mut dropped = Vec::new();
        let (next, outcome) = match stored {
            Some(row) if row.record.spec == save.spec => {
                row.record.next = row.record.next_if_unchanged(save.next);
                (row.record.next, SaveOutcome::Unchanged { etag })
            }
            Some(row) => {
                let next;
                (next, dropped) = row.record.next_if_replaced(&save.spec, save.next, work.now);
                row.record.spec = save.spec.clone();
                row.record.next = next;
                row.record.etag = next_etag;
                (next, SaveOutcome::Replaced { etag: next_etag })
            }
            None => {
                let before = self.tombstones.remove(id).unwrap_or_default();
                let record = RecurringRecord {
                    spec: save.spec.clone(),
                    etag: next_etag,
                    next: save.next,
                    last_nominal_at: before.last_nominal_at,
                    fired: before.fired,
                    last_job: None,
                    pause: None,
                    created_at: work.now,
                };
                self.schedules.insert(id.clone(), ScheduleRow { record, runs: before.runs });
                (save.next, SaveOutcome::Created { etag: next_etag })
            }
        };
        if !matches!(outcome, SaveOutcome::Unchanged { .. }) {
            self.etag = next_etag;
        }
        self.record_dropped(id, dropped);
        if let Some(next) = next {
            work.due = Some(work.due.map_or(next.due_at, |due| due.min(next.due_at)));
        }
        outcome
    }

    fn fire(&mut self, work: &mut Work, fire: &Fire) -> FireOutcome {
        let now = work.now;
        let always = self.has(Planted::FireWithoutCompareAndSwap);
        if self.is_fire_blocked(fire) {
            return FireOutcome::Busy;
        }
        let Some(row) = self.schedules.get_mut(&fire.id) else { return FireOutcome::Stale };
        let record = &mut row.record;
        // Always: as seen by the caller, whatever happened since.
        if !always && !fire.fits(record, now) {
            return FireOutcome::Stale;
        }
        let fired_before =
            fire.job.as_ref().is_some_and(|job| record.has_fired(job.nominal_at, now));
        fire.move_on(record, now);
        for skipped in &fire.skipped {
            self.record_run(&fire.id, RecurringRun { at: now, ..skipped.clone() });
        }
        let Some(job) = &fire.job else { return FireOutcome::Skipped };
        if !always && fired_before {
            // It was removed and saved again, or the clock went back.
            return FireOutcome::Skipped;
        }
        let (outcome, run) = self.fire_job(work, &fire.id, job);
        self.record_run(&fire.id, single_run(job.nominal_at, now, run));
        if let Some(row) = self.schedules.get_mut(&fire.id) {
            row.record.note_fired(job.nominal_at);
            if let FireOutcome::Fired(job) = outcome {
                row.record.last_job = Some(job);
            }
        }
        outcome
    }

    fn fire_job(
        &mut self,
        work: &mut Work,
        schedule: &str,
        fire: &FireJob,
    ) -> (FireOutcome, RunOutcome) {
        let last_job = self.schedules.get(schedule).and_then(|row| row.record.last_job);
        if fire.overlap == Overlap::Skip
            && let Some(job) = last_job.filter(|job| self.is_unfinished(*job))
        {
            return (FireOutcome::Skipped, RunOutcome::Overlapping { job });
        }
        let submission = Submission::one(fire.job.clone());
        let job = fire.job.id;
        match self.submit_one(work, &submission, Reason::Recurring) {
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
        }
    }

    fn is_unfinished(&self, id: JobId) -> bool {
        self.find(id).is_some_and(|place| !self.job(place).record.state().is_finished())
    }

    /// Records what was due and will not be fired.
    fn record_dropped(&mut self, id: &str, dropped: Vec<RecurringRun>) {
        if let (Some(range), Some(row)) = (dropped.last(), self.schedules.get_mut(id)) {
            row.record.last_nominal_at = Some(range.through);
        }
        for range in dropped {
            self.record_run(id, range);
        }
    }

    fn record_run(&mut self, id: &str, run: RecurringRun) {
        if let Some(row) = self.schedules.get_mut(id) {
            row.runs.push_front(run);
            row.runs.truncate(bounds::RECURRING_RUNS);
        }
    }
}
