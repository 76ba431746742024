//! Statistics: the cells that folds have added up, and the deltas since the last fold.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jobkit_core::state::StateName;
use jobkit_core::stats::{Cell, Delta, Histogram, Scope, Step, Tally};
use jobkit_core::{Name, Timestamp};
use rusqlite::params;

use crate::codec::sql_text::sql;
use crate::codec::{at, json, size, uint};
use crate::connection::Db;
use crate::error::SqlResult;
use crate::txn::Txn;
use crate::txn::counters::{cells, scope_text, scopes, step_number};

/// How long histograms are kept.
const HISTOGRAMS_KEPT: Duration = Duration::from_secs(72 * 3600);
/// Buckets removed in one step.
const BUCKETS: usize = 1_000;

/// Every scope that is stored, by a seek for each: the table is ordered by scope.
fn all_scopes(db: &Db<'_>) -> SqlResult<Vec<String>> {
    let mut all = vec![String::new()];
    all.extend(scopes(db, "k:")?);
    all.extend(scopes(db, "q:")?);
    Ok(all)
}

/// Removes buckets past their retention, and the histograms of hours that have reached their age since
/// `stripped`; returns how far they are stripped now.
pub(crate) fn prune(db: &Db<'_>, stripped: Timestamp, now: Timestamp) -> SqlResult<Timestamp> {
    let mut left = BUCKETS;
    let strip_until = Step::Hour.bucket(now.minus(HISTOGRAMS_KEPT)).max(stripped);
    for scope in all_scopes(db)? {
        for step in Step::ALL {
            let Some(kept) = step.kept() else { continue };
            let removed = db.run(
                "DELETE FROM jk_stat WHERE scope = ?1 AND step = ?2 AND bucket IN \
                 (SELECT bucket FROM jk_stat WHERE scope = ?1 AND step = ?2 AND bucket < ?3 \
                  ORDER BY bucket LIMIT ?4)",
                params![
                    scope,
                    step_number(step),
                    Step::Hour.bucket(now.minus(kept)).as_micros(),
                    size(left)
                ],
            )?;
            left = left.saturating_sub(removed);
        }
        if strip_until > stripped {
            strip(db, &scope, stripped, strip_until)?;
        }
    }
    Ok(strip_until)
}

/// Takes the histograms out of the hours from `from` to `until`.
fn strip(db: &Db<'_>, scope: &str, from: Timestamp, until: Timestamp) -> SqlResult {
    let hour = step_number(Step::Hour);
    let hours = db.all(
        "SELECT bucket, body FROM jk_stat \
         WHERE scope = ?1 AND step = ?2 AND bucket >= ?3 AND bucket < ?4",
        params![scope, hour, from.as_micros(), until.as_micros()],
        |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)),
    )?;
    for (bucket, body) in hours {
        let mut tally: Tally = json(&body)?;
        tally.wait = Histogram::default();
        tally.run = Histogram::default();
        db.run(
            "UPDATE jk_stat SET body = ?4 WHERE scope = ?1 AND step = ?2 AND bucket = ?3",
            params![scope, hour, bucket, serde_json::to_string(&tally)?],
        )?;
    }
    Ok(())
}

/// The cells of what is not folded yet.
pub(crate) fn tail(db: &Db<'_>) -> SqlResult<BTreeMap<Cell, Tally>> {
    let deltas = db
        .all("SELECT body FROM jk_delta WHERE body IS NOT NULL", [], |row| row.get::<_, String>(0))?
        .iter()
        .map(|body| json::<Delta>(body))
        .collect::<SqlResult<Vec<_>>>()?;
    Ok(cells(deltas.into_iter()))
}

/// All transitions of a scope.
pub(crate) fn total(db: &Db<'_>, tail: &BTreeMap<Cell, Tally>, scope: &Scope) -> SqlResult<Tally> {
    let stored = db.one(
        "SELECT body FROM jk_stat WHERE scope = ?1 AND step = 0 AND bucket = 0",
        [scope_text(scope)],
        |row| row.get::<_, String>(0),
    )?;
    let mut sum: Tally = stored.as_deref().map(json).transpose()?.unwrap_or_default();
    let cell = Cell { scope: scope.clone(), step: Step::AllTime, bucket: Timestamp::MIN };
    if let Some(tally) = tail.get(&cell) {
        sum.add(tally);
    }
    Ok(sum)
}

/// How many jobs are Succeeded, Failed and Deleted, in a transaction that may have counted some of them.
pub(crate) fn finished_now(txn: &Txn<'_, '_>) -> SqlResult<[u64; 3]> {
    let total = total(txn.db, &tail(txn.db)?, &Scope::Total)?;
    Ok([StateName::Succeeded, StateName::Failed, StateName::Deleted]
        .map(|state| uint(total.gauge[state.index()] + txn.counters.gauge(state))))
}

/// The cells of a scope whose buckets begin in a range.
pub(crate) fn range(
    db: &Db<'_>,
    scope: &Scope,
    step: Step,
    from: Timestamp,
    to: Timestamp,
) -> SqlResult<BTreeMap<Timestamp, Tally>> {
    let mut cells: BTreeMap<Timestamp, Tally> = db
        .all(
            "SELECT bucket, body FROM jk_stat \
             WHERE scope = ?1 AND step = ?2 AND bucket >= ?3 AND bucket < ?4 ORDER BY bucket",
            params![scope_text(scope), step_number(step), from.as_micros(), to.as_micros()],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)),
        )?
        .into_iter()
        .map(|(bucket, body)| Ok((at(bucket), json::<Tally>(&body)?)))
        .collect::<SqlResult<_>>()?;
    for (cell, tally) in tail(db)? {
        if cell.scope == *scope && cell.step == step && (from..to).contains(&cell.bucket) {
            cells.entry(cell.bucket).or_default().add(&tally);
        }
    }
    Ok(cells)
}

/// The queues that have statistics of their own.
pub(crate) fn queues(db: &Db<'_>, tail: &BTreeMap<Cell, Tally>) -> SqlResult<BTreeSet<Name>> {
    let mut queues: BTreeSet<Name> = scopes(db, "q:")?
        .iter()
        .filter_map(|scope| scope.strip_prefix("q:"))
        .map(Name::from_stored)
        .collect();
    queues.extend(tail.keys().filter_map(|cell| match &cell.scope {
        Scope::Queue(name) => Some(name.clone()),
        _ => None,
    }));
    Ok(queues)
}

/// Held leases by queue. The statistics count these jobs as Enqueued until their claim ends.
pub(super) fn held(db: &Db<'_>) -> SqlResult<BTreeMap<i64, i64>> {
    Ok(db
        .all(
            sql!("SELECT queue, count(*) FROM jk_job INDEXED BY jk_held WHERE state = {processing} GROUP BY queue"),
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?
        .into_iter()
        .collect())
}

/// Jobs in each state, from the counted transitions.
pub(super) fn by_state(total: &Tally, held: i64) -> [u64; 7] {
    let mut by_state = total.gauge.map(uint);
    let enqueued = StateName::Enqueued.index();
    by_state[enqueued] = uint(total.gauge[enqueued] - held);
    by_state[StateName::Processing.index()] = uint(held);
    by_state
}

/// Exactly how many jobs are in a state.
pub(super) fn count(db: &Db<'_>, state: StateName) -> SqlResult<u64> {
    let total = total(db, &tail(db)?, &Scope::Total)?;
    Ok(by_state(&total, held(db)?.values().sum())[state.index()])
}
