//! Importing whole records.

use std::collections::HashSet;

use jobkit_core::edge::Edge;
use jobkit_core::record::{EdgeStatus, History, HistoryEntry, JobDetails};
use jobkit_core::state::{State, StateName};
use jobkit_core::storage::{Imported, Whole, WholeJob, WholeRecurring};
use jobkit_core::{BatchId, Error, Timestamp};
use rusqlite::params;

use super::pauses::target_key;
use crate::batches::{batch_row, touched};
use crate::codec::job_row::{
    CHILDREN, ENDED, HAS_SIDE_ROWS, INLINE_BYTES, RESULT_OVERFLOWS, TIMED, args_overflow_id,
    result_overflow_id,
};
use crate::codec::{
    decided_number, int, micros, on_number, parent_columns, rank_of, size, start_number, to_json,
};
use crate::error::SqlResult;
use crate::jobs::unique_keys;
use crate::limits::limit_row::window_numbers;
use crate::limits::slots;
use crate::log::lines;
use crate::recurring;
use crate::txn::{Push, Txn};

pub(crate) fn import(
    txn: &mut Txn<'_, '_>,
    items: &[Whole],
    now: Timestamp,
) -> SqlResult<Vec<Imported>> {
    // Checked first, so that nothing of a call is stored if any of it is wrong.
    let mut coming: HashSet<BatchId> = HashSet::new();
    for item in items {
        match item {
            Whole::Batch(batch) => {
                coming.insert(batch.record.id);
            }
            Whole::Job(job) => {
                let known = match job.details.record.batch {
                    Some(batch) => coming.contains(&batch) || touched::batch(txn, batch)?.is_some(),
                    None => true,
                };
                job.check(|_| known)?;
            }
            _ => {}
        }
    }
    let import = |item| {
        let stored = import_one(txn, item, now)?;
        Ok(if stored { Imported::Stored } else { Imported::Already })
    };
    items.iter().map(import).collect()
}

/// Returns whether it is new.
fn import_one(txn: &mut Txn<'_, '_>, item: &Whole, now: Timestamp) -> SqlResult<bool> {
    Ok(match item {
        Whole::Limit { limit, by_operator } => {
            let (win, len) = window_numbers(limit.window);
            txn.db.run(
                "INSERT INTO jk_limit (name, max, win, len, by_operator) \
                 VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (name) DO NOTHING",
                params![limit.name, limit.max, win, len, by_operator],
            )? > 0
        }
        Whole::Pause { target, pause } => {
            let (of_kind, name) = target_key(target);
            txn.db.run(
                "INSERT INTO jk_pause (of_kind, name, body) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (of_kind, name) DO NOTHING",
                params![of_kind, name.as_str(), serde_json::to_string(pause)?],
            )? > 0
        }
        Whole::Recurring(whole) => import_recurring(txn, whole)?,
        Whole::Batch(whole) => batch_row::import(txn.db, whole)?,
        Whole::Key { hash, job, until } => {
            let held = unique_keys::holder(txn, &hash.0, now)?;
            held.is_none()
                && txn.db.run(
                    "INSERT OR REPLACE INTO jk_ukey (hash, job, until, holder) \
                     VALUES (?1, 0, ?2, ?3)",
                    params![&hash.0[..], until.as_micros(), &job.as_bytes()[..]],
                )? > 0
        }
        Whole::Job(whole) => import_job(txn, whole, now)?,
        _ => return Err(Error::unsupported("importing what this release does not know").into()),
    })
}

fn import_recurring(txn: &mut Txn<'_, '_>, whole: &WholeRecurring) -> SqlResult<bool> {
    let record = whole.record.as_ref();
    let next = record.and_then(|record| record.next);
    let spec = record.map(|record| serde_json::to_string(&record.spec)).transpose()?;
    let pause = record.and_then(|record| record.pause.as_ref());
    let stored = txn.db.run(
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
        txn.set_meta("etag", txn.meta("etag")?.max(record.etag))?;
    }
    for (n, run) in whole.runs.iter().rev().enumerate() {
        txn.db.run(
            "INSERT INTO jk_recurring_run (recurring, n, body) VALUES (?1, ?2, ?3)",
            params![whole.id, size(n + 1), serde_json::to_string(run)?],
        )?;
    }
    if let Some(next) = next {
        txn.pushes.push(Push::Due(next.due_at));
    }
    Ok(true)
}

fn import_job(txn: &mut Txn<'_, '_>, whole: &WholeJob, now: Timestamp) -> SqlResult<bool> {
    let details = &whole.details;
    let record = &details.record;
    let id = &record.id.as_bytes()[..];
    if txn.db.one("SELECT 1 FROM jk_job WHERE id = ?1", [id], |_| Ok(()))?.is_some() {
        return Ok(false);
    }
    let seq = txn.next_seq()?;
    insert_whole(txn, seq, whole)?;
    import_edges(txn, seq, record.state(), &details.parents)?;
    import_side_rows(txn, seq, whole)?;
    if let Some(unique) = record.unique.as_ref().filter(|_| whole.holds_key) {
        txn.db.run(
            "INSERT OR IGNORE INTO jk_ukey (hash, job) VALUES (?1, ?2)",
            params![&unique.hash().0[..], seq],
        )?;
    }
    if let Some(unique) = &record.unique {
        // A key that is held for a period was imported before its job.
        txn.db.run(
            "UPDATE jk_ukey SET job = ?3 WHERE hash = ?1 AND holder = ?2 AND until IS NOT NULL",
            params![&unique.hash().0[..], id, seq],
        )?;
    }
    for limit in &record.limits {
        slots::define_default(txn, limit)?;
    }
    if let Some(batch) = &record.batch {
        txn.db.run(
            "UPDATE jk_batch SET members = members + 1 WHERE id = ?1",
            [&batch.as_bytes()[..]],
        )?;
    }
    let state = record.state();
    txn.counters.delta(now).count_imported(&record.queue, &record.kind, state);
    txn.work |= state == StateName::Enqueued;
    if let State::Scheduled { run_at } = record.head.state {
        txn.pushes.push(Push::Due(run_at));
    }
    Ok(true)
}

fn insert_whole(txn: &Txn<'_, '_>, seq: i64, whole: &WholeJob) -> SqlResult {
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
    let result_overflows = result.as_ref().is_some_and(|result| result.len() > INLINE_BYTES);
    let flags = flags_of(txn, whole, last, result_overflows)?;
    let server = last.and_then(|last| last.server.as_ref());
    let server = server.map(|server| txn.db.intern(server)).transpose()?;
    let duration = last.and_then(|last| last.duration).or(record.duration);
    txn.db.run(
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
            txn.db.intern(&record.queue)?,
            txn.db.intern(&record.kind)?,
            rank_of(record.priority),
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
            result.as_ref().filter(|_| !result_overflows).map(|result| result.as_bytes()),
            (!older.entries.is_empty()).then(|| to_json(&older)).flatten(),
        ],
    )?;
    let payloads = [
        (args_overflow_id(seq), (args.len() > INLINE_BYTES).then_some(args)),
        (result_overflow_id(seq), result.as_ref().filter(|_| result_overflows)),
    ];
    for (id, body) in payloads {
        if let Some(body) = body {
            txn.db.run(
                "INSERT INTO jk_payload (id, body) VALUES (?1, ?2)",
                params![id, body.as_bytes()],
            )?;
        }
    }
    Ok(())
}

fn flags_of(
    txn: &Txn<'_, '_>,
    whole: &WholeJob,
    last: Option<&HistoryEntry>,
    result_overflows: bool,
) -> SqlResult<i64> {
    let details = &whole.details;
    let has_side_rows = result_overflows
        || details.args.len() > INLINE_BYTES
        || !details.errors.is_empty()
        || !details.progress.is_empty()
        || !whole.memos.is_empty()
        || !whole.logs.is_empty()
        || whole.checkpoint.is_some();
    let has_children = txn.db.one(
        "SELECT 1 FROM jk_edge INDEXED BY jk_edge_parent WHERE parent = ?1 AND batch = 0 LIMIT 1",
        [&details.record.id.as_bytes()[..]],
        |_| Ok(()),
    )?;
    let flags = [
        (HAS_SIDE_ROWS, has_side_rows),
        (RESULT_OVERFLOWS, result_overflows),
        (CHILDREN, has_children.is_some()),
        (ENDED, last.is_some_and(|last| last.fence.is_some())),
        (TIMED, last.is_some_and(|last| last.duration.is_some())),
    ];
    Ok(flags.into_iter().filter(|(_, set)| *set).map(|(flag, _)| flag).sum())
}

fn import_edges(txn: &Txn<'_, '_>, seq: i64, state: StateName, edges: &[EdgeStatus]) -> SqlResult {
    for (n, EdgeStatus { edge: Edge { parent, on }, decided }) in edges.iter().enumerate() {
        let (id, batch) = parent_columns(parent);
        let decided = decided_number(*decided, state.is_finished());
        txn.db.run(
            "INSERT INTO jk_edge (child, n, parent, batch, cond, decided) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![seq, size(n), &id[..], batch, on_number(*on), decided],
        )?;
        if batch == 0 {
            txn.db.run(
                "UPDATE jk_job SET flags = flags | ?2 WHERE id = ?1 AND flags & ?2 = 0",
                params![&id[..], CHILDREN],
            )?;
        }
    }
    Ok(())
}

/// Stores the rows of other tables.
fn import_side_rows(txn: &Txn<'_, '_>, seq: i64, whole: &WholeJob) -> SqlResult {
    let details = &whole.details;
    for error in &details.errors {
        txn.db.run(
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
    lines::set_progress(txn, seq, &details.progress)?;
    for (fence, lines, dropped) in &whole.logs {
        lines::append(txn, seq, *fence, lines, *dropped)?;
    }
    for (key, value) in &whole.memos {
        txn.db.run(
            "INSERT INTO jk_memo (seq, run, key, value) VALUES (?1, ?2, ?3, ?4)",
            params![seq, details.record.head.run, key, value.as_bytes()],
        )?;
    }
    if let Some(checkpoint) = &whole.checkpoint {
        txn.db.run(
            "INSERT INTO jk_checkpoint (seq, value) VALUES (?1, ?2)",
            params![seq, checkpoint.as_bytes()],
        )?;
    }
    Ok(())
}
