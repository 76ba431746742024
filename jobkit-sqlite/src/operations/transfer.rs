//! Whole records: exporting and importing.

use std::collections::HashSet;

use jobkit_core::edge::{Edge, Parent};
use jobkit_core::limit::Limit;
use jobkit_core::record::{EdgeStatus, History, HistoryEntry, JobDetails};
use jobkit_core::state::{State, StateName};
use jobkit_core::storage::{ExportPage, Imported, PauseTarget, Whole, WholeJob, WholeRecurring};
use jobkit_core::unique::{KeyHash, Until};
use jobkit_core::{BatchId, Error, JobId, Timestamp};
use rusqlite::params;

use super::pauses;
use crate::batches;
use crate::codec::{
    ASIDE, CHILDREN, ENDED, INLINE_BYTES, RESULT_ASIDE, TIMED, at, bytes16, int, json, micros,
    on_number, size, start_number, to_json, uint,
};
use crate::connection::Db;
use crate::error::{Done, tell_of_damage};
use crate::jobs::details_at;
use crate::limits::{window_at, window_numbers};
use crate::log::lines_of;
use crate::recurring;
use crate::writer::{Flight, Push};

/// About so many bytes of arguments, results and logs are in one page.
const PAGE_BYTES: usize = 8 << 20;

/// The parts of an export, in its order.
const PARTS: [&str; 6] = ["limit", "pause", "recurring", "batch", "key", "job"];

fn bad_place() -> Error {
    Error::invalid("after", "is no place of an export")
}

/// A page of everything that is not running.
pub(super) fn export(db: &Db<'_>, after: Option<&str>, limit: usize) -> Done<ExportPage> {
    let (mut part, mut seen) = match after {
        None => (0, None),
        Some(after) => {
            let (name, key) = match after.split_once(' ') {
                Some((name, key)) => (name, Some(key.to_owned())),
                None => (after, None),
            };
            (PARTS.iter().position(|it| *it == name).ok_or_else(bad_place)?, key)
        }
    };
    let mut page = ExportPage::default();
    let mut bytes = 0;
    loop {
        let left = limit - page.items.len();
        let found = match PARTS[part] {
            "limit" => limits(db, seen.as_deref(), left)?,
            "pause" => paused(db, seen.as_deref(), left)?,
            "recurring" => schedules(db, seen.as_deref(), left)?,
            "batch" => whole_batches(db, seen.as_deref(), left)?,
            "key" => periods(db, seen.as_deref(), left)?,
            _ => jobs(db, seen.as_deref(), left, &mut bytes, &mut page.running)?,
        };
        let Found { items, last, more } = found;
        page.items.extend(items);
        if more {
            page.next = last.or(seen).map(|key| format!("{} {key}", PARTS[part]));
            return Ok(page);
        }
        if part + 1 == PARTS.len() {
            return Ok(page);
        }
        (part, seen) = (part + 1, None);
        if page.items.len() == limit {
            page.next = Some(PARTS[part].to_owned());
            return Ok(page);
        }
    }
}

/// A stretch of one part.
struct Found {
    items: Vec<Whole>,
    /// The key of the last.
    last: Option<String>,
    /// Whether there may be more.
    more: bool,
}

fn found(rows: Vec<(String, Whole)>, limit: usize) -> Found {
    let more = rows.len() == limit;
    let last = rows.last().map(|(key, _)| key.clone());
    Found { items: rows.into_iter().map(|(_, item)| item).collect(), last, more }
}

fn limits(db: &Db<'_>, after: Option<&str>, limit: usize) -> Done<Found> {
    let rows = db.all(
        "SELECT name, max, win, len, by_operator FROM jk_limit WHERE name > ?1 ORDER BY name LIMIT ?2",
        params![after.unwrap_or_default(), size(limit)],
        |row| {
            let limit = Limit {
                name: row.get(0)?,
                max: row.get(1)?,
                window: window_at(row.get(2)?, row.get(3)?),
            };
            Ok((limit.name.clone(), Whole::Limit { limit, by_operator: row.get(4)? }))
        },
    )?;
    Ok(found(rows, limit))
}

fn paused(db: &Db<'_>, after: Option<&str>, limit: usize) -> Done<Found> {
    let mut rows = Vec::new();
    for record in pauses(db)? {
        let key = match &record.target {
            PauseTarget::Queue(name) => format!("queue {name}"),
            PauseTarget::Kind(name) => format!("kind {name}"),
        };
        if after.is_none_or(|after| *key > *after) {
            rows.push((key, Whole::from(record)));
        }
    }
    rows.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    rows.truncate(limit);
    Ok(found(rows, limit))
}

fn schedules(db: &Db<'_>, after: Option<&str>, limit: usize) -> Done<Found> {
    let rows = db.all(
        "SELECT id, last_nominal, fired FROM jk_recurring WHERE id > ?1 ORDER BY id LIMIT ?2",
        params![after.unwrap_or_default(), size(limit)],
        |row| {
            let last = row.get::<_, Option<i64>>(1)?;
            Ok((row.get::<_, String>(0)?, last, row.get::<_, Option<String>>(2)?))
        },
    )?;
    let mut wholes = Vec::with_capacity(rows.len());
    for (id, last, fired) in rows {
        let whole = WholeRecurring {
            record: recurring::load(db, &id)?,
            last_nominal_at: last.map(Timestamp::from_micros),
            fired: fired.map(|text| json(&text)).transpose()?.unwrap_or_default(),
            runs: recurring::runs(db, &id, jobkit_core::bounds::RECURRING_RUNS)?,
            id: id.clone(),
        };
        wholes.push((id, Whole::Recurring(Box::new(whole))));
    }
    Ok(found(wholes, limit))
}

fn whole_batches(db: &Db<'_>, after: Option<&str>, limit: usize) -> Done<Found> {
    let after: Option<BatchId> = after.map(str::parse).transpose()?;
    let rows = batches::wholes(db, after, limit)?.into_iter();
    let rows = rows.map(|whole| (whole.record.id.to_string(), Whole::Batch(whole))).collect();
    Ok(found(rows, limit))
}

fn periods(db: &Db<'_>, after: Option<&str>, limit: usize) -> Done<Found> {
    let after = after.map(unhex).transpose()?;
    let rows = db.all(
        "SELECT hash, holder, until FROM jk_ukey WHERE hash > ?1 AND until IS NOT NULL \
         ORDER BY hash LIMIT ?2",
        params![after.unwrap_or_default(), size(limit)],
        |row| {
            let hash = KeyHash(bytes16(row.get_ref(0)?.as_blob()?));
            let holder = row.get_ref(1)?.as_blob_or_null()?.unwrap_or_default();
            let job = JobId::from_bytes(bytes16(holder));
            let until = at(row.get(2)?);
            Ok((hex(&hash.0), Whole::Key { hash, job, until }))
        },
    )?;
    Ok(found(rows, limit))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Done<Vec<u8>> {
    let byte = |at: usize| text.get(at..at + 2).and_then(|it| u8::from_str_radix(it, 16).ok());
    let bytes = (0..text.len()).step_by(2).map(byte).collect::<Option<Vec<u8>>>();
    Ok(bytes.ok_or_else(bad_place)?)
}

fn jobs(
    db: &Db<'_>,
    after: Option<&str>,
    limit: usize,
    bytes: &mut usize,
    running: &mut u64,
) -> Done<Found> {
    let after: i64 = after.map(str::parse).transpose().map_err(|_| bad_place())?.unwrap_or(0);
    let seqs = db.all(
        "SELECT seq, state FROM jk_job WHERE seq > ?1 ORDER BY seq LIMIT ?2",
        [after, size(limit)],
        |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
    )?;
    let mut found =
        Found { items: Vec::with_capacity(seqs.len()), last: None, more: seqs.len() == limit };
    for (seq, state) in seqs {
        if *bytes > PAGE_BYTES {
            found.more = true;
            break;
        }
        found.last = Some(seq.to_string());
        if state == size(StateName::Processing.index()) {
            *running += 1;
            continue;
        }
        match whole(db, seq) {
            Ok(Some(whole)) => {
                *bytes += whole.size();
                found.items.push(Whole::Job(Box::new(whole)));
            }
            Ok(None) => {}
            Err(fault) if fault.is_damage() => tell_of_damage(seq, &fault),
            Err(fault) => return Err(fault),
        }
    }
    Ok(found)
}

fn whole(db: &Db<'_>, seq: i64) -> Done<Option<WholeJob>> {
    let Some((details, operation)) = details_at(db, seq)? else { return Ok(None) };
    let record = &details.record;
    let key = record.unique.as_ref().filter(|unique| !matches!(unique.until, Until::Period(_)));
    let holds_key = match key {
        Some(unique) => db
            .one(
                "SELECT 1 FROM jk_ukey WHERE hash = ?1 AND job = ?2 AND until IS NULL",
                params![&unique.hash().0[..], seq],
                |_| Ok(()),
            )?
            .is_some(),
        None => false,
    };
    let memos = db.all(
        "SELECT key, value FROM jk_memo WHERE seq = ?1 AND run = ?2 ORDER BY key",
        params![seq, record.head.run],
        |row| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?.into())),
    )?;
    let checkpoint = db.one("SELECT value FROM jk_checkpoint WHERE seq = ?1", [seq], |row| {
        Ok(row.get::<_, Vec<u8>>(0)?.into())
    })?;
    let mut logs = Vec::new();
    for (fence, dropped) in db.all(
        "SELECT fence, dropped FROM jk_log_tail WHERE seq = ?1 ORDER BY fence",
        [seq],
        |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
    )? {
        let lines = lines_of(db, seq, fence)?;
        logs.push((uint(fence), lines, uint(dropped)));
    }
    Ok(Some(WholeJob { details, holds_key, operation, memos, checkpoint, logs }))
}

impl Flight<'_, '_> {
    pub(super) fn import(&mut self, items: &[Whole], now: Timestamp) -> Done<Vec<Imported>> {
        // Looked at first, so that nothing of a call is stored that holds something wrong.
        let mut coming: HashSet<BatchId> = HashSet::new();
        for item in items {
            match item {
                Whole::Batch(batch) => {
                    coming.insert(batch.record.id);
                }
                Whole::Job(job) => {
                    let known = match job.details.record.batch {
                        Some(batch) => coming.contains(&batch) || self.batch(batch)?.is_some(),
                        None => true,
                    };
                    job.check(|_| known)?;
                }
                _ => {}
            }
        }
        let import = |item| {
            let stored = self.import_one(item, now)?;
            Ok(if stored { Imported::Stored } else { Imported::Already })
        };
        items.iter().map(import).collect()
    }

    /// Whether it was not there already.
    fn import_one(&mut self, item: &Whole, now: Timestamp) -> Done<bool> {
        Ok(match item {
            Whole::Limit { limit, by_operator } => {
                let (win, len) = window_numbers(limit.window);
                self.db.run(
                    "INSERT INTO jk_limit (name, max, win, len, by_operator) \
                     VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (name) DO NOTHING",
                    params![limit.name, limit.max, win, len, by_operator],
                )? > 0
            }
            Whole::Pause { target, pause } => {
                let (of_kind, name) = super::key(target);
                self.db.run(
                    "INSERT INTO jk_pause (of_kind, name, body) VALUES (?1, ?2, ?3) \
                     ON CONFLICT (of_kind, name) DO NOTHING",
                    params![of_kind, name.as_str(), serde_json::to_string(pause)?],
                )? > 0
            }
            Whole::Recurring(whole) => self.import_recurring(whole)?,
            Whole::Batch(whole) => batches::import(self.db, whole)?,
            Whole::Key { hash, job, until } => {
                let held = self.key_holder(&hash.0, now)?;
                held.is_none()
                    && self.db.run(
                        "INSERT OR REPLACE INTO jk_ukey (hash, job, until, holder) \
                         VALUES (?1, 0, ?2, ?3)",
                        params![&hash.0[..], until.as_micros(), &job.as_bytes()[..]],
                    )? > 0
            }
            Whole::Job(whole) => self.import_job(whole, now)?,
            _ => return Err(Error::unsupported("importing what this release does not know").into()),
        })
    }

    fn import_recurring(&mut self, whole: &WholeRecurring) -> Done<bool> {
        let record = whole.record.as_ref();
        let next = record.and_then(|record| record.next);
        let spec = record.map(|record| serde_json::to_string(&record.spec)).transpose()?;
        let pause = record.and_then(|record| record.pause.as_ref());
        let stored = self.db.run(
            "INSERT INTO jk_recurring (id, spec, etag, next_nominal, next_due, last_nominal, last_job, \
             pause, created_at, fired) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) \
             ON CONFLICT (id) DO NOTHING",
            params![
                whole.id,
                spec,
                int(record.map_or(0, |record| record.etag)),
                next.map(|next| next.nominal_at.as_micros()),
                next.map(|next| next.due_at.as_micros()),
                whole.last_nominal_at.map(Timestamp::as_micros),
                record.and_then(|it| it.last_job.as_ref()).map(|job| &job.as_bytes()[..]),
                pause.map(serde_json::to_string).transpose()?,
                record.map_or(0, |record| record.created_at.as_micros()),
                recurring::fired_text(record.map_or(&whole.fired, |record| &record.fired))?,
            ],
        )? > 0;
        if !stored {
            return Ok(false);
        }
        if let Some(record) = record {
            // The next save must get another one.
            self.set_meta("etag", self.meta("etag")?.max(record.etag))?;
        }
        for (n, run) in whole.runs.iter().rev().enumerate() {
            self.db.run(
                "INSERT INTO jk_recurring_run (recurring, n, body) VALUES (?1, ?2, ?3)",
                params![whole.id, size(n + 1), serde_json::to_string(run)?],
            )?;
        }
        if let Some(next) = next {
            self.pushes.push(Push::Due(next.due_at));
        }
        Ok(true)
    }

    fn import_job(&mut self, whole: &WholeJob, now: Timestamp) -> Done<bool> {
        let details = &whole.details;
        let record = &details.record;
        let id = &record.id.as_bytes()[..];
        if self.db.one("SELECT 1 FROM jk_job WHERE id = ?1", [id], |_| Ok(()))?.is_some() {
            return Ok(false);
        }
        let seq = self.next_seq()?;
        self.insert_whole(seq, whole)?;
        self.import_edges(seq, record.state(), &details.parents)?;
        self.import_aside(seq, whole)?;
        if let Some(unique) = record.unique.as_ref().filter(|_| whole.holds_key) {
            self.db.run(
                "INSERT OR IGNORE INTO jk_ukey (hash, job) VALUES (?1, ?2)",
                params![&unique.hash().0[..], seq],
            )?;
        }
        if let Some(unique) = &record.unique {
            // One that is held for a period came before its job.
            self.db.run(
                "UPDATE jk_ukey SET job = ?3 WHERE hash = ?1 AND holder = ?2 AND until IS NOT NULL",
                params![&unique.hash().0[..], id, seq],
            )?;
        }
        for limit in &record.limits {
            self.define_default(limit)?;
        }
        if let Some(batch) = &record.batch {
            self.db.run(
                "UPDATE jk_batch SET members = members + 1 WHERE id = ?1",
                [&batch.as_bytes()[..]],
            )?;
        }
        let state = record.state();
        self.delta(now).count_imported(&record.queue, &record.kind, state);
        self.work |= state == StateName::Enqueued;
        if let State::Scheduled { run_at } = record.head.state {
            self.pushes.push(Push::Due(run_at));
        }
        Ok(true)
    }

    fn insert_whole(&self, seq: i64, whole: &WholeJob) -> Done {
        let JobDetails { record, args, result, history, .. } = &whole.details;
        let head = &record.head;
        let (mut run_at, mut open) = (None, None);
        match &head.state {
            State::Awaiting { open: n } => open = Some(*n),
            State::Scheduled { run_at: at } => run_at = Some(at.as_micros()),
            _ => {}
        }
        // The columns hold the last transition.
        let last = history.entries.last();
        let older = History {
            entries: history.entries[..history.entries.len().saturating_sub(1)].to_vec(),
            dropped: history.dropped,
        };
        let result_aside = result.as_ref().is_some_and(|result| result.len() > INLINE_BYTES);
        let flags = self.flags_of(whole, last, result_aside)?;
        let server = last.and_then(|last| last.server.as_ref());
        let server = server.map(|server| self.db.intern(server)).transpose()?;
        let duration = last.and_then(|last| last.duration).or(record.duration);
        self.db.run(
            "INSERT INTO jk_job (seq, id, state, reason, queue, kind, rank, flags, fence, failures, crashes, \
             run, version, entered_at, created_at, enqueued_at, claimed_at, run_at, expires_at, duration, \
             start, start_by, open, server, settled_fence, settled_by, batch, digest, parents, last_op, \
             actor, tags, uniq, limits, extras, args, result, history) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, \
             ?20, ?21, ?22, ?23, ?24, ?25, ?26, ?27, ?28, ?29, ?30, ?31, ?32, ?33, ?34, ?35, ?36, ?37, ?38)",
            params![
                seq,
                &record.id.as_bytes()[..],
                size(record.state().index()),
                size(head.reason.index()),
                self.db.intern(&record.queue)?,
                self.db.intern(&record.kind)?,
                9 - i64::from(record.priority),
                flags,
                int(head.fence),
                head.failures,
                head.crashes,
                head.run,
                int(head.version),
                head.entered_at.as_micros(),
                record.created_at.as_micros(),
                record.enqueued_at.map(Timestamp::as_micros),
                record.claimed_at.map(Timestamp::as_micros),
                run_at,
                record.expires_at.map(Timestamp::as_micros),
                duration.map(micros),
                start_number(head.start),
                record.start_by.map(Timestamp::as_micros),
                open,
                server,
                head.settled.map(|(fence, _)| int(fence)),
                head.settled.map(|(_, by)| by.as_i64()),
                record.batch.as_ref().map(|batch| &batch.as_bytes()[..]),
                &whole.digest()[..],
                record.parents,
                whole.operation.as_ref().map(|operation| &operation.as_bytes()[..]),
                last.and_then(|last| last.actor.as_deref()),
                (!record.tags.is_empty()).then(|| to_json(&record.tags)).flatten(),
                record.unique.as_ref().and_then(to_json),
                (!record.limits.is_empty()).then(|| to_json(&record.limits)).flatten(),
                record.extras.as_ref().and_then(to_json),
                (args.len() <= INLINE_BYTES).then(|| args.as_bytes()),
                result.as_ref().filter(|_| !result_aside).map(|result| result.as_bytes()),
                (!older.entries.is_empty()).then(|| to_json(&older)).flatten(),
            ],
        )?;
        let payloads = [
            (seq * 2, (args.len() > INLINE_BYTES).then_some(args)),
            (seq * 2 + 1, result.as_ref().filter(|_| result_aside)),
        ];
        for (id, body) in payloads {
            if let Some(body) = body {
                self.db.run(
                    "INSERT INTO jk_payload (id, body) VALUES (?1, ?2)",
                    params![id, body.as_bytes()],
                )?;
            }
        }
        Ok(())
    }

    fn flags_of(
        &self,
        whole: &WholeJob,
        last: Option<&HistoryEntry>,
        result_aside: bool,
    ) -> Done<i64> {
        let details = &whole.details;
        let aside = result_aside
            || details.args.len() > INLINE_BYTES
            || !details.errors.is_empty()
            || !details.progress.is_empty()
            || !whole.memos.is_empty()
            || !whole.logs.is_empty()
            || whole.checkpoint.is_some();
        let has_children = self.db.one(
            "SELECT 1 FROM jk_edge INDEXED BY jk_edge_parent WHERE parent = ?1 AND batch = 0 LIMIT 1",
            [&details.record.id.as_bytes()[..]],
            |_| Ok(()),
        )?;
        let flags = [
            (ASIDE, aside),
            (RESULT_ASIDE, result_aside),
            (CHILDREN, has_children.is_some()),
            (ENDED, last.is_some_and(|last| last.fence.is_some())),
            (TIMED, last.is_some_and(|last| last.duration.is_some())),
        ];
        Ok(flags.into_iter().filter(|(_, set)| *set).map(|(flag, _)| flag).sum())
    }

    fn import_edges(&self, seq: i64, state: StateName, edges: &[EdgeStatus]) -> Done {
        for (n, EdgeStatus { edge: Edge { parent, on }, decided }) in edges.iter().enumerate() {
            let (id, batch) = match parent {
                Parent::Job(id) => (id.as_bytes(), 0),
                Parent::Batch(id) => (id.as_bytes(), 1),
            };
            let decided = match (decided, state.is_finished()) {
                (true, _) => 1,
                (false, false) => 0,
                // The job is given up, whatever becomes of this parent.
                (false, true) => 2,
            };
            self.db.run(
                "INSERT INTO jk_edge (child, n, parent, batch, cond, decided) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![seq, size(n), &id[..], batch, on_number(*on), decided],
            )?;
            if batch == 0 {
                self.db.run(
                    "UPDATE jk_job SET flags = flags | ?2 WHERE id = ?1 AND flags & ?2 = 0",
                    params![&id[..], CHILDREN],
                )?;
            }
        }
        Ok(())
    }

    /// What stands in other tables.
    fn import_aside(&self, seq: i64, whole: &WholeJob) -> Done {
        let details = &whole.details;
        for error in &details.errors {
            self.db.run(
                "INSERT INTO jk_error (seq, fence, failures, at, fingerprint, detail) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    seq,
                    int(error.fence),
                    error.failures,
                    error.at.as_micros(),
                    error.detail.fingerprint.0.cast_signed(),
                    serde_json::to_string(&error.detail)?
                ],
            )?;
        }
        self.set_progress(seq, &details.progress)?;
        for (fence, lines, dropped) in &whole.logs {
            self.append_log(seq, *fence, lines, *dropped)?;
        }
        for (key, value) in &whole.memos {
            self.db.run(
                "INSERT INTO jk_memo (seq, run, key, value) VALUES (?1, ?2, ?3, ?4)",
                params![seq, details.record.head.run, key, value.as_bytes()],
            )?;
        }
        if let Some(checkpoint) = &whole.checkpoint {
            self.db.run(
                "INSERT INTO jk_checkpoint (seq, value) VALUES (?1, ?2)",
                params![seq, checkpoint.as_bytes()],
            )?;
        }
        Ok(())
    }
}
