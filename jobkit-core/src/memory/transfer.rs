//! Whole records: exporting and importing.

use std::collections::{HashMap, VecDeque};
use std::ops::Bound;

use crate::model::batch::BatchState;
use crate::model::edge::Finish;
use crate::model::error::{Error, Result};
use crate::model::ids::BatchId;
use crate::model::state::{State, StateName};
use crate::model::unique::{KeyHash, Until};
use crate::storage::{
    ExportPage, Imported, PauseTarget, Whole, WholeBatch, WholeJob, WholeRecurring,
};

use super::jobs::details;
use super::limit_row::LimitRow;
use super::state::{AttemptLog, Batch, Job, Place, ScheduleRow, Tables, Tombstone, Work, on_index};

/// About this many bytes of arguments, results and logs are in one page.
const PAGE_BYTES: usize = 8 << 20;

/// The parts of an export, in its order.
const PARTS: [&str; 6] = ["limit", "pause", "recurring", "batch", "key", "job"];

/// Where an export is: a part, and the last key seen in it.
struct Cursor {
    part: usize,
    after: Option<String>,
}

impl Cursor {
    fn parse(text: Option<&str>) -> Result<Self> {
        let Some(text) = text else { return Ok(Self { part: 0, after: None }) };
        let (part, after) = match text.split_once(' ') {
            Some((part, after)) => (part, Some(after.to_owned())),
            None => (text, None),
        };
        let part = PARTS.iter().position(|it| *it == part);
        let part = part.ok_or_else(|| Error::invalid("after", "is no place of an export"))?;
        Ok(Self { part, after })
    }

    fn show(&self) -> String {
        match &self.after {
            Some(after) => format!("{} {after}", PARTS[self.part]),
            None => PARTS[self.part].to_owned(),
        }
    }
}

impl Tables {
    pub(super) fn export(&self, after: Option<&str>, limit: usize) -> Result<ExportPage> {
        let mut cursor = Cursor::parse(after)?;
        let mut page = ExportPage::default();
        let mut bytes = 0;
        loop {
            let mut running = 0;
            let (key, item) = match self.next_whole(&cursor, &mut running)? {
                Some((key, item)) => (key, item),
                None if cursor.part + 1 < PARTS.len() => {
                    cursor = Cursor { part: cursor.part + 1, after: None };
                    continue;
                }
                None => {
                    page.running += running;
                    return Ok(page);
                }
            };
            if page.items.len() == limit || (bytes > PAGE_BYTES && !page.items.is_empty()) {
                // Those that were passed over on the way to it are passed over again.
                page.next = Some(cursor.show());
                return Ok(page);
            }
            page.running += running;
            bytes += size(&item);
            page.items.push(item);
            cursor.after = Some(key);
        }
    }

    /// The thing behind a place, with its key.
    fn next_whole(&self, cursor: &Cursor, running: &mut u64) -> Result<Option<(String, Whole)>> {
        let after = cursor.after.as_deref();
        Ok(match PARTS[cursor.part] {
            "limit" => {
                let range = (bound(after), Bound::Unbounded);
                self.limits.range::<str, _>(range).next().map(|(name, row)| {
                    let limit = crate::model::limit::Limit {
                        name: name.clone(),
                        max: row.max,
                        window: row.window,
                    };
                    (name.clone(), Whole::Limit { limit, by_operator: row.by_operator })
                })
            }
            "pause" => {
                let key = |target: &PauseTarget| match target {
                    PauseTarget::Queue(name) => format!("queue {name}"),
                    PauseTarget::Kind(name) => format!("kind {name}"),
                };
                let mut pauses: Vec<_> = self
                    .pauses
                    .iter()
                    .map(|(target, pause)| (key(target), target, pause))
                    .collect();
                pauses.sort_unstable_by(|a, b| a.0.cmp(&b.0));
                let next =
                    pauses.into_iter().find(|(key, _, _)| after.is_none_or(|it| &**key > it));
                next.map(|(key, target, pause)| {
                    (key, Whole::Pause { target: target.clone(), pause: pause.clone() })
                })
            }
            "recurring" => {
                let range = (bound(after), Bound::Unbounded);
                let saved = self.schedules.range::<str, _>(range).next().map(|(id, _)| id);
                let gone = self.tombstones.keys().filter(|id| after.is_none_or(|it| &***id > it));
                let gone = gone.filter(|id| !self.schedules.contains_key(*id)).min();
                saved.into_iter().chain(gone).min().map(|id| {
                    let record = self.schedules.get(id).map(|row| row.record.clone());
                    let gone = self.tombstones.get(id);
                    let (last_nominal_at, fired) = match (&record, gone) {
                        (Some(record), _) => (record.last_nominal_at, record.fired.clone()),
                        (None, Some(gone)) => (gone.last_nominal_at, gone.fired.clone()),
                        (None, None) => Default::default(),
                    };
                    let runs = self.schedules.get(id).map(|row| &row.runs);
                    let runs = runs.or_else(|| gone.map(|gone| &gone.runs));
                    let runs = runs.into_iter().flatten().cloned().collect();
                    let whole =
                        WholeRecurring { id: id.clone(), record, last_nominal_at, fired, runs };
                    (id.clone(), Whole::Recurring(Box::new(whole)))
                })
            }
            "batch" => {
                let after: Option<BatchId> = after.map(str::parse).transpose()?;
                let from = after.map_or(Bound::Unbounded, Bound::Excluded);
                self.batches.range((from, Bound::Unbounded)).next().map(|(id, batch)| {
                    let whole = WholeBatch {
                        record: batch.record.clone(),
                        counted: batch.counted,
                        starts_with_parent: batch.starts_with_parent,
                    };
                    (id.to_string(), Whole::Batch(whole))
                })
            }
            "key" => {
                let mut held: Vec<_> = self
                    .keys
                    .periods()
                    .map(|(hash, job, until)| (hex(&hash), hash, job, until))
                    .filter(|(key, ..)| after.is_none_or(|it| &**key > it))
                    .collect();
                held.sort_unstable_by(|a, b| a.0.cmp(&b.0));
                held.into_iter()
                    .next()
                    .map(|(key, hash, job, until)| (key, Whole::Key { hash, job, until }))
            }
            _ => {
                let wrong = || Error::invalid("after", "is no place of an export");
                let mut place: Place = match after {
                    Some(after) => after.parse().map_err(|_| wrong())?,
                    None => 0,
                };
                loop {
                    place += 1;
                    if place > self.sequence {
                        return Ok(None);
                    }
                    let Some(job) = self.jobs.get(&place) else { continue };
                    if job.record.state() != StateName::Processing {
                        return Ok(Some((
                            place.to_string(),
                            Whole::Job(Box::new(self.whole(job))),
                        )));
                    }
                    *running += 1;
                }
            }
        })
    }

    fn whole(&self, job: &Job) -> WholeJob {
        let record = &job.record;
        let key = record.unique.as_ref().filter(|unique| !matches!(unique.until, Until::Period(_)));
        let mut memos: Vec<_> =
            job.memos.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        memos.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let logs = job.logs.iter().map(|(fence, log)| {
            (*fence, log.lines.iter().cloned().collect(), log.evicted + log.dropped)
        });
        WholeJob {
            details: details(job),
            holds_key: key.is_some_and(|unique| self.keys.is_held_by(&unique.hash(), record.id)),
            operation: job.operation,
            memos,
            checkpoint: job.checkpoint.clone(),
            logs: logs.collect(),
        }
    }

    pub(super) fn import(&mut self, work: &mut Work, items: &[Whole]) -> Result<Vec<Imported>> {
        // Looked at first, so that nothing of a call is stored that holds something wrong.
        let mut coming: std::collections::HashSet<BatchId> = std::collections::HashSet::new();
        for item in items {
            match item {
                Whole::Batch(batch) => {
                    coming.insert(batch.record.id);
                }
                Whole::Job(job) => {
                    job.check(|batch| self.batches.contains_key(&batch) || coming.contains(&batch))?
                }
                _ => {}
            }
        }
        Ok(items.iter().map(|item| self.import_one(work, item)).collect())
    }

    fn import_one(&mut self, work: &mut Work, item: &Whole) -> Imported {
        let stored = match item {
            Whole::Limit { limit, by_operator } => {
                let known = self.limits.contains_key(&limit.name);
                if !known {
                    self.limits.insert(limit.name.clone(), LimitRow::new(limit, *by_operator));
                }
                !known
            }
            Whole::Pause { target, pause } => {
                let known = self.pauses.contains_key(target);
                if !known {
                    self.pauses.insert(target.clone(), pause.clone());
                }
                !known
            }
            Whole::Recurring(whole) => self.import_recurring(work, whole),
            Whole::Batch(whole) => self.import_batch(whole),
            Whole::Key { hash, job, until } => {
                self.keys.holder(hash, work.now).is_none()
                    && self.keys.hold(*hash, *job, Some(*until))
            }
            Whole::Job(whole) => self.import_job(work, whole),
        };
        if stored { Imported::Stored } else { Imported::Already }
    }

    fn import_recurring(&mut self, work: &mut Work, whole: &WholeRecurring) -> bool {
        if self.schedules.contains_key(&whole.id) || self.tombstones.contains_key(&whole.id) {
            return false;
        }
        let Some(record) = &whole.record else {
            if whole.last_nominal_at.is_some() {
                let tombstone = Tombstone {
                    last_nominal_at: whole.last_nominal_at,
                    fired: whole.fired.clone(),
                    runs: whole.runs.iter().cloned().collect(),
                };
                self.tombstones.insert(whole.id.clone(), tombstone);
            }
            return true;
        };
        self.etag = self.etag.max(record.etag);
        if let Some(next) = record.next {
            work.due_at(next.due_at);
        }
        let runs: VecDeque<_> = whole.runs.iter().cloned().collect();
        self.schedules.insert(whole.id.clone(), ScheduleRow { record: record.clone(), runs });
        true
    }

    fn import_batch(&mut self, whole: &WholeBatch) -> bool {
        let record = &whole.record;
        if self.batches.contains_key(&record.id) {
            return false;
        }
        let inside = self.batches.values().filter(|it| it.record.parent == Some(record.id));
        let nested = inside.map(|batch| batch.record.id).collect();
        if let Some(parent) = record.parent.and_then(|parent| self.batches.get_mut(&parent)) {
            parent.nested.insert(record.id);
        }
        if record.state() == BatchState::Open && !whole.starts_with_parent {
            self.open_batches.insert((record.attached_at, record.id));
        }
        if let Some(completed_at) = record.completed_at.filter(|_| record.counts.total == 0) {
            self.empty_batches
                .insert((completed_at.plus(super::transitions::EMPTY_BATCH_KEPT), record.id));
        }
        let batch = Batch {
            record: record.clone(),
            members: Default::default(),
            nested,
            counted: whole.counted,
            starts_with_parent: whole.starts_with_parent,
            unreleased: Default::default(),
            kept: Default::default(),
        };
        self.batches.insert(record.id, batch);
        true
    }

    fn import_job(&mut self, work: &mut Work, whole: &WholeJob) -> bool {
        let details = &whole.details;
        let id = details.record.id;
        if self.find(id).is_some() {
            return false;
        }
        self.sequence += 1;
        let place = self.sequence;
        let mut record = details.record.clone();
        record.sequence = place;
        // It stands in line again, and is parked again if the limit is still full.
        record.parked_at = None;
        let state = record.state();
        let finished = Finish::of(state);
        for (n, status) in details.parents.iter().enumerate() {
            let children = self.children.entry(status.edge.parent).or_default();
            children.all.insert((place, n));
            if !status.decided && finished.is_none() {
                children.open[on_index(status.edge.on)].insert(place);
            }
        }
        if let Some(unique) = record.unique.as_ref().filter(|_| whole.holds_key) {
            self.keys.hold(unique.hash(), id, None);
        }
        for limit in &record.limits {
            if !self.limits.contains_key(&limit.name) {
                self.limits.insert(limit.name.clone(), LimitRow::new(limit, false));
            }
        }
        self.stats.tail(work.now).count_imported(&record.queue, &record.kind, state);
        if let Some(batch) = record.batch.and_then(|id| self.batches.get_mut(&id)) {
            batch.members.insert(place);
            if whole.waits_for_batch() {
                batch.unreleased.insert(place);
            }
        }
        if state == StateName::Enqueued {
            work.claimable(place);
        }
        if let State::Scheduled { run_at } = record.head.state {
            work.due_at(run_at);
        }
        let digest = whole.digest();
        let logs = whole.logs.iter().map(|(fence, lines, dropped)| {
            let lines = lines.iter().cloned().collect();
            (*fence, AttemptLog { lines, evicted: 0, dropped: *dropped })
        });
        let job = Job {
            record,
            args: details.args.clone(),
            digest,
            result: details.result.clone(),
            history: details.history.clone(),
            errors: details.errors.iter().cloned().collect(),
            edges: details.parents.clone(),
            progress: details.progress.clone(),
            operation: whole.operation,
            admitted: None,
            ordinal: 0,
            memos: whole.memos.iter().cloned().collect::<HashMap<_, _>>(),
            checkpoint: whole.checkpoint.clone(),
            logs: logs.collect(),
            unreadable: false,
        };
        self.ids.insert(id, place);
        self.jobs.insert(place, Box::new(job));
        self.index(place);
        true
    }
}

fn bound(after: Option<&str>) -> Bound<&str> {
    after.map_or(Bound::Unbounded, Bound::Excluded)
}

fn hex(hash: &KeyHash) -> String {
    hash.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn size(item: &Whole) -> usize {
    match item {
        Whole::Job(job) => job.size(),
        _ => 200,
    }
}
