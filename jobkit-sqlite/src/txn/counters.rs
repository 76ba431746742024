//! What a transaction counts: transitions, and failures by fingerprint. How that is written, and how
//! folds add it up.

use std::collections::{BTreeMap, HashMap};

use jobkit_core::error_group::ErrorGroup;
use jobkit_core::failure::Fingerprint;
use jobkit_core::state::StateName;
use jobkit_core::stats::{Cell, Delta, Scope, Step, Tally};
use jobkit_core::{Error, Incarnation, Name, Timestamp, bounds};
use rusqlite::params;

use crate::codec::{json, size};
use crate::connection::Db;
use crate::error::SqlResult;

/// A row of deltas with more lanes than this is not extended.
const TAIL_LANES: usize = 16;

/// What a transaction has counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters {
    deltas: Vec<Delta>,
    failures: BTreeMap<Fingerprint, ErrorGroup>,
}

/// The row of what this process has counted since the last fold.
#[derive(Clone, Debug)]
pub(crate) struct Tail {
    id: i64,
    delta: Delta,
}

impl Tail {
    /// Whether another delta may be added: of the same minute, and while the row is small.
    fn takes(&self, delta: &Delta) -> bool {
        self.delta.at == delta.at && self.delta.lanes.len() <= TAIL_LANES
    }
}

impl Counters {
    /// Where transitions are counted. Calls of one minute share a delta: no bucket is shorter.
    pub(crate) fn delta(&mut self, now: Timestamp) -> &mut Delta {
        let bucket = Step::Minute.bucket(now);
        let found = self.deltas.iter().position(|delta| delta.at == bucket.as_micros());
        let index = found.unwrap_or_else(|| {
            self.deltas.push(Delta::at(bucket));
            self.deltas.len() - 1
        });
        &mut self.deltas[index]
    }

    /// How many jobs more, or fewer, are in a state by what was counted and is not written yet.
    pub(crate) fn gauge(&self, state: StateName) -> i64 {
        let lanes = self.deltas.iter().flat_map(|delta| &delta.lanes);
        lanes.map(|(_, _, tally)| tally.gauge[state.index()]).sum()
    }

    /// Counts a failed attempt. Those of one group share a row.
    pub(crate) fn count_failure(&mut self, failed: ErrorGroup) {
        match self.failures.get_mut(&failed.fingerprint) {
            Some(group) => group.add(&failed),
            None => {
                self.failures.insert(failed.fingerprint, failed);
            }
        }
    }

    /// Writes what was counted; the tail as it is then.
    pub(super) fn write(&mut self, db: &Db<'_>, tail: Option<&Tail>) -> SqlResult<Option<Tail>> {
        let tail = self.write_deltas(db, tail)?;
        for (_, group) in std::mem::take(&mut self.failures) {
            add_failures(db, group)?;
        }
        Ok(tail)
    }

    /// Writes the deltas into the row of what this process has counted since the last fold. One row is
    /// written again and again, so that there are few to read. Returns the row as it is then.
    fn write_deltas(&mut self, db: &Db<'_>, tail: Option<&Tail>) -> SqlResult<Option<Tail>> {
        let mut tail = tail.cloned();
        for delta in self.deltas.drain(..).filter(|delta| !delta.is_empty()) {
            if let Some(tail) = tail.as_mut().filter(|tail| tail.takes(&delta)) {
                let mut sum = tail.delta.clone();
                for (queue, kind, tally) in &delta.lanes {
                    sum.lane(queue, kind).add(tally);
                }
                let body = serde_json::to_string(&sum)?;
                let written =
                    db.run("UPDATE jk_delta SET body = ?2 WHERE id = ?1", params![tail.id, body])?;
                // Otherwise another process has folded it.
                if written > 0 {
                    tail.delta = sum;
                    continue;
                }
            }
            // An id that no other process has, so that none overwrites the row.
            let id = Incarnation::new().as_i64();
            let body = serde_json::to_string(&delta)?;
            db.run("INSERT INTO jk_delta (id, body) VALUES (?1, ?2)", params![id, body])?;
            tail = Some(Tail { id, delta });
        }
        Ok(tail)
    }
}

/// Adds what a transaction counted to the row of its group. A row that cannot be read begins again: it
/// must keep no job from being settled.
fn add_failures(db: &Db<'_>, counted: ErrorGroup) -> SqlResult {
    let fingerprint = counted.fingerprint.0.cast_signed();
    let stored =
        db.one("SELECT body FROM jk_failure WHERE fingerprint = ?1", [fingerprint], |row| {
            row.get::<_, String>(0)
        });
    let stored = stored.ok().flatten().and_then(|body| json::<ErrorGroup>(&body).ok());
    let is_new = stored.is_none();
    let group = match stored {
        Some(mut stored) => {
            stored.add(&counted);
            stored
        }
        None => counted,
    };
    db.run(
        "INSERT INTO jk_failure (fingerprint, last_seen, body) VALUES (?1, ?2, ?3) \
         ON CONFLICT (fingerprint) DO UPDATE SET \
         last_seen = excluded.last_seen, body = excluded.body",
        params![fingerprint, group.last_seen_at.as_micros(), serde_json::to_string(&group)?],
    )?;
    if is_new {
        db.run(
            "DELETE FROM jk_failure WHERE fingerprint IN (SELECT fingerprint \
             FROM jk_failure INDEXED BY jk_failure_seen \
             ORDER BY last_seen DESC, fingerprint DESC LIMIT -1 OFFSET ?1)",
            [size(bounds::ERROR_GROUPS)],
        )?;
    }
    Ok(())
}

/// Folds in a savepoint of its own: statistics that cannot be read must not stop any job. The deltas
/// wait until they can be folded.
pub(super) fn fold_apart(db: &Db<'_>) -> SqlResult<bool> {
    db.run("SAVEPOINT fold", [])?;
    match fold_deltas(db) {
        Ok(folded) => {
            db.run("RELEASE fold", [])?;
            Ok(folded)
        }
        Err(fault) => {
            db.run("ROLLBACK TO fold", [])?;
            db.run("RELEASE fold", [])?;
            let error = Error::from(fault);
            tracing::warn!(%error, "statistics cannot be updated at the moment");
            Ok(false)
        }
    }
}

/// Folds the deltas; returns whether there were any.
fn fold_deltas(db: &Db<'_>) -> SqlResult<bool> {
    let deltas = db.all("SELECT body FROM jk_delta WHERE body IS NOT NULL", [], |row| {
        row.get::<_, String>(0)
    })?;
    if deltas.is_empty() {
        return Ok(false);
    }
    fold(db, deltas.iter().map(String::as_str))?;
    db.run("DELETE FROM jk_delta WHERE body IS NOT NULL", [])?;
    Ok(true)
}

/// Adds deltas to the stored cells.
fn fold<'a>(db: &Db<'_>, deltas: impl Iterator<Item = &'a str>) -> SqlResult {
    let deltas = deltas.map(json::<Delta>).collect::<SqlResult<Vec<_>>>()?;
    let mut known = HashMap::new();
    for (cell, tally) in cells(deltas.into_iter()) {
        let scope = admitted(db, &scope_text(&cell.scope), &mut known)?;
        let key = params![scope, step_number(cell.step), cell.bucket.as_micros()];
        let stored = db.one(
            "SELECT body FROM jk_stat WHERE scope = ?1 AND step = ?2 AND bucket = ?3",
            key,
            |row| row.get::<_, String>(0),
        )?;
        let mut sum: Tally = stored.as_deref().map(json).transpose()?.unwrap_or_default();
        sum.add(&tally);
        db.run(
            "INSERT INTO jk_stat (scope, step, bucket, body) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (scope, step, bucket) DO UPDATE SET body = excluded.body",
            params![
                scope,
                step_number(cell.step),
                cell.bucket.as_micros(),
                serde_json::to_string(&sum)?
            ],
        )?;
    }
    Ok(())
}

/// The scope itself, or the common one for the rest when there are too many.
fn admitted(db: &Db<'_>, scope: &str, known: &mut HashMap<String, String>) -> SqlResult<String> {
    if scope.is_empty() {
        return Ok(String::new());
    }
    if let Some(admitted) = known.get(scope) {
        return Ok(admitted.clone());
    }
    let is_known = db.one(
        "SELECT 1 FROM jk_stat WHERE scope = ?1 AND step = 0 AND bucket = 0",
        [scope],
        |_| Ok(()),
    )?;
    let (family, _) = scope.split_at(2);
    let admitted = if is_known.is_some() || scopes(db, family)?.len() < bounds::STATISTICS_SCOPES {
        scope.to_owned()
    } else {
        format!("{family}{}", bounds::OTHER)
    };
    // Its all-time cell comes first, so that it counts from now on.
    known.insert(scope.to_owned(), admitted.clone());
    Ok(admitted)
}

pub(crate) const fn step_number(step: Step) -> i64 {
    match step {
        Step::AllTime => 0,
        Step::Minute => 1,
        Step::Hour => 2,
        Step::Day => 3,
    }
}

pub(crate) fn scope_text(scope: &Scope) -> String {
    match scope {
        Scope::Total => String::new(),
        Scope::Queue(name) => format!("q:{name}"),
        Scope::Kind(name) => format!("k:{name}"),
    }
}

/// Cells of several deltas, added up. Many deltas share a minute, and few lanes: they are added
/// before they are spread over scopes and spans.
pub(crate) fn cells(deltas: impl Iterator<Item = Delta>) -> BTreeMap<Cell, Tally> {
    let mut minutes: BTreeMap<i64, BTreeMap<(Name, Name), Tally>> = BTreeMap::new();
    for delta in deltas {
        let lanes = minutes.entry(delta.at).or_default();
        for (queue, kind, tally) in delta.lanes {
            lanes.entry((queue, kind)).or_default().add(&tally);
        }
    }
    let mut cells: BTreeMap<Cell, Tally> = BTreeMap::new();
    for (at, lanes) in minutes {
        let lanes = lanes.into_iter().map(|((queue, kind), tally)| (queue, kind, tally)).collect();
        for (cell, tally) in (Delta { at, lanes }).cells() {
            cells.entry(cell).or_default().add(&tally);
        }
    }
    cells
}

/// The scopes of queues (`q:`) or kinds (`k:`) that are stored, by a seek for each.
pub(crate) fn scopes(db: &Db<'_>, family: &str) -> SqlResult<Vec<String>> {
    let mut scopes = Vec::new();
    let mut last = family.to_owned();
    while let Some(next) = db.one(
        "SELECT scope FROM jk_stat WHERE scope > ?1 AND step >= 0 ORDER BY scope LIMIT 1",
        [&last],
        |row| row.get::<_, String>(0),
    )? {
        if !next.starts_with(family) {
            break;
        }
        scopes.push(next.clone());
        last = next;
    }
    Ok(scopes)
}
