//! `RecurringStore`.

use async_trait::async_trait;
use jobkit_core::record::NewRecord;
use jobkit_core::recurring::{
    Fired, NextRun, Overlap, Pause, RecurringRecord, RecurringRun, RunOutcome,
};
use jobkit_core::refusal::Refusal;
use jobkit_core::storage::{
    Call, DueRecurring, Fire, FireJob, FireOutcome, JobSubmitted, PauseChange, RecurringStore,
    SaveOutcome, SaveRecurring, TriggerOutcome, check_items,
};
use jobkit_core::{JobId, Result, Timestamp, bounds};
use rusqlite::{Row, params};

use crate::codec::sql_text::columns;
use crate::codec::{at, bytes16, int, json, size, uint};
use crate::connection::Db;
use crate::error::SqlResult;
use crate::jobs::read::state_of;
use crate::jobs::submit;
use crate::storage::SqliteStorage;
use crate::txn::{Push, Txn};

columns! {
    /// The columns of a schedule.
    column, recurring_columns,
    SPEC = "spec",
    ETAG = "etag",
    NEXT_NOMINAL = "next_nominal",
    NEXT_DUE = "next_due",
    LAST_NOMINAL = "last_nominal",
    LAST_JOB = "last_job",
    PAUSE = "pause",
    CREATED_AT = "created_at",
    FIRED = "fired",
}

/// Selects the columns of a schedule.
macro_rules! select_recurring {
    ($rest:literal) => {
        concat!("SELECT ", recurring_columns!(), " FROM jk_recurring ", $rest)
    };
}

fn read(row: &Row<'_>) -> SqlResult<RecurringRecord> {
    let next = match (
        row.get::<_, Option<i64>>(column::NEXT_NOMINAL)?,
        row.get::<_, Option<i64>>(column::NEXT_DUE)?,
    ) {
        (Some(nominal), Some(due)) => Some(NextRun { nominal_at: at(nominal), due_at: at(due) }),
        _ => None,
    };
    let last_job = row
        .get_ref(column::LAST_JOB)?
        .as_blob_or_null()
        .map_err(rusqlite::Error::from)?
        .map(|bytes| JobId::from_bytes(bytes16(bytes)));
    Ok(RecurringRecord {
        spec: json(&row.get::<_, String>(column::SPEC)?)?,
        etag: uint(row.get(column::ETAG)?),
        next,
        last_nominal_at: row
            .get::<_, Option<i64>>(column::LAST_NOMINAL)?
            .map(Timestamp::from_micros),
        fired: read_fired(row, column::FIRED)?,
        last_job,
        pause: row.get::<_, Option<String>>(column::PAUSE)?.map(|text| json(&text)).transpose()?,
        created_at: at(row.get(column::CREATED_AT)?),
    })
}

/// Which occurrences were fired.
fn read_fired(row: &Row<'_>, column: usize) -> SqlResult<Fired> {
    let text = row.get::<_, Option<String>>(column)?;
    Ok(text.map(|text| json(&text)).transpose()?.unwrap_or_default())
}

/// As it is stored: NULL if nothing was fired.
pub(crate) fn fired_text(fired: &Fired) -> SqlResult<Option<String>> {
    Ok((!fired.is_empty()).then(|| serde_json::to_string(fired)).transpose()?)
}

fn read_all(
    db: &Db<'_>,
    text: &'static str,
    params: impl rusqlite::Params,
) -> SqlResult<Vec<RecurringRecord>> {
    read_each(db, text, params, |read| read.map(Some))
}

/// Reads the schedules that can be read: one that cannot must not keep the others from being fired.
fn read_sound(
    db: &Db<'_>,
    text: &'static str,
    params: impl rusqlite::Params,
) -> SqlResult<Vec<RecurringRecord>> {
    read_each(db, text, params, |read| match read {
        Err(fault) if fault.is_corrupt_row() => {
            tracing::warn!(error = %fault, "skipped an unreadable schedule");
            Ok(None)
        }
        read => read.map(Some),
    })
}

fn read_each(
    db: &Db<'_>,
    text: &'static str,
    params: impl rusqlite::Params,
    take: impl Fn(SqlResult<RecurringRecord>) -> SqlResult<Option<RecurringRecord>>,
) -> SqlResult<Vec<RecurringRecord>> {
    let mut statement = db.prepare(text)?;
    let mut rows = statement.query(params)?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        records.extend(take(read(row))?);
    }
    Ok(records)
}

pub(crate) fn load(db: &Db<'_>, id: &str) -> SqlResult<Option<RecurringRecord>> {
    let text = select_recurring!("WHERE id = ?1 AND spec IS NOT NULL");
    Ok(read_all(db, text, [id])?.pop())
}

/// When a schedule could fire: not before its pause ends, if it ends by itself.
fn fires_at(record: &RecurringRecord, now: Timestamp) -> Option<Timestamp> {
    let due_at = record.next?.due_at;
    match record.pause.as_ref().filter(|pause| pause.holds(now)) {
        Some(pause) => Some(due_at.max(pause.until?)),
        None => Some(due_at),
    }
}

fn due(db: &Db<'_>, max: usize, now: Timestamp) -> SqlResult<DueRecurring> {
    // Those that are due, and those whose pause may say when they will be.
    let mut waiting = read_sound(
        db,
        select_recurring!(
            "INDEXED BY jk_recurring_by_due WHERE next_due IS NOT NULL AND next_due <= ?1 \
             AND spec IS NOT NULL"
        ),
        [now.as_micros()],
    )?;
    waiting.sort_by_key(|record| fires_at(record, now));
    let mut next_due_at = db
        .one(
            "SELECT next_due FROM jk_recurring INDEXED BY jk_recurring_by_due \
             WHERE next_due IS NOT NULL AND next_due > ?1 AND pause IS NULL \
             ORDER BY next_due LIMIT 1",
            [now.as_micros()],
            |row| row.get::<_, i64>(0),
        )?
        .map(Timestamp::from_micros);
    // Of those with a pause, only what lies before can be earlier.
    waiting.extend(read_sound(
        db,
        select_recurring!(
            "INDEXED BY jk_recurring_by_due WHERE next_due IS NOT NULL AND next_due > ?1 \
             AND next_due < ?2 AND pause IS NOT NULL AND spec IS NOT NULL"
        ),
        [now.as_micros(), next_due_at.map_or(i64::MAX, Timestamp::as_micros)],
    )?);
    let mut due = Vec::new();
    for record in waiting {
        match fires_at(&record, now) {
            Some(at) if at <= now && due.len() < max => due.push(record),
            Some(at) => next_due_at = Some(next_due_at.map_or(at, |next| next.min(at))),
            None => {}
        }
    }
    Ok(DueRecurring { due, next_due_at, now })
}

pub(crate) fn runs(db: &Db<'_>, id: &str, limit: usize) -> SqlResult<Vec<RecurringRun>> {
    db.all(
        "SELECT body FROM jk_recurring_run WHERE recurring = ?1 ORDER BY n DESC LIMIT ?2",
        params![id, size(limit)],
        |row| row.get::<_, String>(0),
    )?
    .iter()
    .map(|body| json(body))
    .collect()
}

fn single(nominal_at: Timestamp, at: Timestamp, outcome: RunOutcome) -> RecurringRun {
    RecurringRun { nominal_at, through: nominal_at, count: 1, outcome, at }
}

/// A number that no save or pause had before.
fn new_etag(txn: &Txn<'_, '_>) -> SqlResult<u64> {
    let etag = txn.meta("etag")? + 1;
    txn.set_meta("etag", etag)?;
    Ok(etag)
}

fn save_one(txn: &mut Txn<'_, '_>, save: &SaveRecurring, now: Timestamp) -> SqlResult<SaveOutcome> {
    if let Err(error) = save.spec.check() {
        return Ok(SaveOutcome::Refused(error.into()));
    }
    let id = &save.spec.id;
    let stored = load(txn.db, id)?;
    let etag = stored.as_ref().map_or(0, |record| record.etag);
    if save.if_etag.is_some_and(|expected| expected != etag) {
        return Ok(SaveOutcome::Changed { etag });
    }
    if let Some(record) = stored.as_ref().filter(|record| record.spec == save.spec) {
        let next = record.next_if_unchanged(save.next);
        if next != record.next {
            set_next(txn, id, next)?;
        }
        return Ok(SaveOutcome::Unchanged { etag });
    }
    let etag = new_etag(txn)?;
    let spec = serde_json::to_string(&save.spec)?;
    let (next, dropped) = match &stored {
        Some(record) => record.next_if_replaced(&save.spec, save.next, now),
        None => (save.next, Vec::new()),
    };
    let nominal = next.map(|next| next.nominal_at.as_micros());
    let due = next.map(|next| next.due_at.as_micros());
    record_dropped(txn, id, &dropped)?;
    if stored.is_some() {
        txn.db.run(
            "UPDATE jk_recurring SET spec = ?2, etag = ?3, next_nominal = ?4, next_due = ?5 \
             WHERE id = ?1",
            params![id, spec, int(etag), nominal, due],
        )?;
    } else {
        // A removed schedule leaves its last instant.
        txn.db.run(
            "INSERT INTO jk_recurring (id, spec, etag, next_nominal, next_due, created_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (id) DO UPDATE SET \
             spec = excluded.spec, etag = excluded.etag, next_nominal = excluded.next_nominal, \
             next_due = excluded.next_due, created_at = excluded.created_at",
            params![id, spec, int(etag), nominal, due, now.as_micros()],
        )?;
    }
    if let Some(next) = next {
        txn.pushes.push(Push::Due(next.due_at));
    }
    Ok(match stored {
        Some(_) => SaveOutcome::Replaced { etag },
        None => SaveOutcome::Created { etag },
    })
}

/// Sets the next occurrence alone.
fn set_next(txn: &mut Txn<'_, '_>, id: &str, next: Option<NextRun>) -> SqlResult {
    txn.db.run(
        "UPDATE jk_recurring SET next_nominal = ?2, next_due = ?3 WHERE id = ?1",
        params![
            id,
            next.map(|next| next.nominal_at.as_micros()),
            next.map(|next| next.due_at.as_micros()),
        ],
    )?;
    if let Some(next) = next {
        txn.pushes.push(Push::Due(next.due_at));
    }
    Ok(())
}

fn remove(txn: &Txn<'_, '_>, id: &str, now: Timestamp) -> SqlResult<bool> {
    // A schedule that cannot be read can be removed all the same.
    let record = match load(txn.db, id) {
        Err(fault) if !fault.is_corrupt_row() => return Err(fault),
        read => read.ok().flatten(),
    };
    let dropped = record.map(|record| record.dropped(&RunOutcome::Replaced, now));
    let removed = txn.db.run(
        "UPDATE jk_recurring SET spec = NULL, next_nominal = NULL, next_due = NULL, \
         last_job = NULL, pause = NULL WHERE id = ?1 AND spec IS NOT NULL",
        [id],
    )?;
    if removed > 0 {
        txn.db.run("DELETE FROM jk_recurring_run WHERE recurring = ?1", [id])?;
        // Kept until it is saved again.
        record_dropped(txn, id, &dropped.unwrap_or_default())?;
        txn.db.run("DELETE FROM jk_recurring WHERE id = ?1 AND last_nominal IS NULL", [id])?;
    }
    Ok(removed > 0)
}

/// Records occurrences that were due and will not be fired.
fn record_dropped(txn: &Txn<'_, '_>, id: &str, dropped: &[RecurringRun]) -> SqlResult {
    for range in dropped {
        record_run(txn, id, range)?;
    }
    if let Some(range) = dropped.last() {
        txn.db.run(
            "UPDATE jk_recurring SET last_nominal = ?2 WHERE id = ?1",
            params![id, range.through.as_micros()],
        )?;
    }
    Ok(())
}

fn pause(txn: &mut Txn<'_, '_>, id: &str, change: &PauseChange, now: Timestamp) -> SqlResult<bool> {
    let Some(record) = load(txn.db, id)? else { return Ok(false) };
    match change {
        PauseChange::Pause(pause) => {
            let pause = Pause { since: now, ..pause.clone() };
            txn.db.run(
                "UPDATE jk_recurring SET pause = ?2, etag = ?3 WHERE id = ?1",
                params![id, serde_json::to_string(&pause)?, int(new_etag(txn)?)],
            )?;
        }
        // A repeated call changes nothing: the first one set the next occurrence.
        PauseChange::Resume { .. } if record.pause.is_none() => {}
        PauseChange::Resume { next } => {
            record_dropped(txn, id, &record.dropped(&RunOutcome::Misfired, now))?;
            txn.db.run(
                "UPDATE jk_recurring SET pause = NULL, etag = ?2 WHERE id = ?1",
                params![id, int(new_etag(txn)?)],
            )?;
            set_next(txn, id, *next)?;
        }
    }
    Ok(true)
}

/// Fires one of several schedules; a row that cannot be read must not fail the others. Such an
/// occurrence is recorded as refused, so that its schedule continues.
fn fire_apart(txn: &mut Txn<'_, '_>, fire: &Fire, now: Timestamp) -> SqlResult<FireOutcome> {
    if let Some(job) = &fire.job {
        // Names stay known after a rollback of this part, so they are stored before it.
        txn.db.intern(&job.job.queue)?;
        txn.db.intern(&job.job.kind)?;
    }
    let mut unfit = None;
    loop {
        let savepoint = txn.savepoint()?;
        let fault = match fire_one(txn, fire, unfit.as_deref(), now) {
            Ok(outcome) => {
                txn.release()?;
                return Ok(outcome);
            }
            Err(fault) if !fault.concerns_one_item() => return Err(fault),
            Err(fault) => fault,
        };
        txn.rollback_to(savepoint)?;
        let reason = format!("something stored cannot be read: {fault}");
        tracing::warn!(recurring = %fire.id, error = %fault, "an occurrence cannot be fired");
        if unfit.replace(reason.clone()).is_some() {
            return Ok(FireOutcome::Failed(reason));
        }
    }
}

/// Fires or skips an occurrence; `unfit` says why its job cannot be created.
fn fire_one(
    txn: &mut Txn<'_, '_>,
    fire: &Fire,
    unfit: Option<&str>,
    now: Timestamp,
) -> SqlResult<FireOutcome> {
    let id = fire.id.as_str();
    let Some(mut record) = load(txn.db, id)? else { return Ok(FireOutcome::Stale) };
    if !fire.fits(&record, now) {
        return Ok(FireOutcome::Stale);
    }
    // Removed and saved again, or after the clock went back, a schedule may meet an occurrence that was
    // fired before.
    let job = fire.job.as_ref().filter(|job| !record.has_fired(job.nominal_at, now));
    fire.move_on(&mut record, now);
    for skipped in &fire.skipped {
        record_run(txn, id, &RecurringRun { at: now, ..skipped.clone() })?;
    }
    let mut outcome = FireOutcome::Skipped;
    if let Some(job) = job {
        let run;
        (outcome, run) = match unfit {
            None => fire_job(txn, job, record.last_job, now)?,
            Some(reason) => {
                (FireOutcome::Skipped, RunOutcome::Refused { reason: reason.to_owned() })
            }
        };
        record_run(txn, id, &single(job.nominal_at, now, run))?;
        record.note_fired(job.nominal_at);
        if let FireOutcome::Fired(job) = outcome {
            record.last_job = Some(job);
        }
    }
    txn.db.run(
        "UPDATE jk_recurring SET next_nominal = ?2, next_due = ?3, last_nominal = ?4, \
         last_job = ?5, fired = ?6 WHERE id = ?1",
        params![
            id,
            record.next.map(|next| next.nominal_at.as_micros()),
            record.next.map(|next| next.due_at.as_micros()),
            record.last_nominal_at.map(Timestamp::as_micros),
            record.last_job.as_ref().map(|job| &job.as_bytes()[..]),
            fired_text(&record.fired)?,
        ],
    )?;
    Ok(outcome)
}

fn fire_job(
    txn: &mut Txn<'_, '_>,
    fire: &FireJob,
    last_job: Option<JobId>,
    now: Timestamp,
) -> SqlResult<(FireOutcome, RunOutcome)> {
    if fire.overlap == Overlap::Skip
        && let Some(job) = last_job
        && state_of(txn.db, job)?.is_some_and(|state| !state.is_finished())
    {
        return Ok((FireOutcome::Skipped, RunOutcome::Overlapping { job }));
    }
    let job = fire.job.id;
    Ok(match submit::submit_one(txn, &fire.job, now)? {
        Ok(JobSubmitted::Existing(holder)) | Err(Refusal::UniqueConflict { holder }) => {
            (FireOutcome::Skipped, RunOutcome::KeyHeld { holder })
        }
        Ok(_) => (FireOutcome::Fired(job), RunOutcome::Fired { job }),
        Err(refusal) => (FireOutcome::Skipped, RunOutcome::Refused { reason: refusal.to_string() }),
    })
}

fn trigger(
    txn: &mut Txn<'_, '_>,
    id: &str,
    job: &NewRecord,
    now: Timestamp,
) -> SqlResult<TriggerOutcome> {
    if load(txn.db, id)?.is_none() {
        return Ok(TriggerOutcome::NotFound);
    }
    match submit::submit_one(txn, job, now)? {
        Ok(JobSubmitted::Existing(holder)) => Ok(TriggerOutcome::Existing(holder)),
        // The answer of the first call was lost.
        Ok(JobSubmitted::Already(_)) => Ok(TriggerOutcome::Created(job.id)),
        Ok(JobSubmitted::Created(_)) => {
            record_run(txn, id, &single(now, now, RunOutcome::Triggered { job: job.id }))?;
            Ok(TriggerOutcome::Created(job.id))
        }
        Err(refusal) => Ok(TriggerOutcome::Refused(refusal)),
    }
}

fn record_run(txn: &Txn<'_, '_>, id: &str, run: &RecurringRun) -> SqlResult {
    let last = txn
        .db
        .one("SELECT max(n) FROM jk_recurring_run WHERE recurring = ?1", [id], |row| {
            row.get::<_, Option<i64>>(0)
        })?
        .flatten();
    let n = last.unwrap_or(0).saturating_add(1);
    txn.db.run(
        "INSERT INTO jk_recurring_run (recurring, n, body) VALUES (?1, ?2, ?3)",
        params![id, n, serde_json::to_string(run)?],
    )?;
    txn.db.run(
        "DELETE FROM jk_recurring_run WHERE recurring = ?1 AND n <= ?2",
        params![id, n - size(bounds::RECURRING_RUNS)],
    )?;
    Ok(())
}

#[async_trait]
impl RecurringStore for SqliteStorage {
    async fn save_recurring(
        &self,
        call: &Call,
        saves: &[SaveRecurring],
    ) -> Result<Vec<SaveOutcome>> {
        check_items("saves", saves.len())?;
        let saves = saves.to_vec();
        self.writer()
            .call_at("save_recurring", call, move |txn, now| {
                saves.iter().map(|save| save_one(txn, save, now)).collect()
            })
            .await
    }

    async fn remove_recurring(&self, call: &Call, id: &str) -> Result<bool> {
        let id = id.to_owned();
        self.writer().call_at("remove_recurring", call, move |txn, now| remove(txn, &id, now)).await
    }

    async fn pause_recurring(&self, call: &Call, id: &str, change: PauseChange) -> Result<bool> {
        if let PauseChange::Pause(pause) = &change {
            pause.check()?;
        }
        let id = id.to_owned();
        self.writer()
            .call_at("pause_recurring", call, move |txn, now| pause(txn, &id, &change, now))
            .await
    }

    async fn due_recurring(&self, call: &Call, max: usize) -> Result<DueRecurring> {
        let now = call.time(self.clock());
        self.read("due_recurring", move |db| due(db, max, now)).await
    }

    async fn fire_recurring(&self, call: &Call, fires: &[Fire]) -> Result<Vec<FireOutcome>> {
        check_items("fires", fires.len())?;
        let fires = fires.to_vec();
        self.writer()
            .call_at("fire_recurring", call, move |txn, now| {
                fires.iter().map(|fire| fire_apart(txn, fire, now)).collect()
            })
            .await
    }

    async fn trigger_recurring(
        &self,
        call: &Call,
        id: &str,
        job: &NewRecord,
    ) -> Result<TriggerOutcome> {
        let (id, job) = (id.to_owned(), job.clone());
        self.writer()
            .call_at("trigger_recurring", call, move |txn, now| trigger(txn, &id, &job, now))
            .await
    }

    async fn list_recurring(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<RecurringRecord>> {
        let after = after.unwrap_or_default().to_owned();
        self.read("list_recurring", move |db| {
            read_sound(
                db,
                select_recurring!("WHERE id > ?1 AND spec IS NOT NULL ORDER BY id LIMIT ?2"),
                params![after, size(limit)],
            )
        })
        .await
    }

    async fn recurring(&self, id: &str) -> Result<Option<RecurringRecord>> {
        let id = id.to_owned();
        self.read("recurring", move |db| load(db, &id)).await
    }

    async fn recurring_runs(&self, id: &str, limit: usize) -> Result<Vec<RecurringRun>> {
        let id = id.to_owned();
        self.read("recurring_runs", move |db| runs(db, &id, limit)).await
    }
}

/// How many schedules are not paused.
pub(crate) fn running(db: &Db<'_>, now: Timestamp) -> SqlResult<u32> {
    let pauses = db.all("SELECT pause FROM jk_recurring WHERE spec IS NOT NULL", [], |row| {
        row.get::<_, Option<String>>(0)
    })?;
    let mut running = 0;
    for pause in pauses {
        let pause = pause.as_deref().map(json::<Pause>).transpose()?;
        running += u32::from(!pause.is_some_and(|pause| pause.holds(now)));
    }
    Ok(running)
}
