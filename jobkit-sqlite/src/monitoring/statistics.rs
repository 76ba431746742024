//! What is counted: cells that folds have added up, and the deltas since the last one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use jobkit_core::stats::{Cell, Delta, Histogram, Scope, Step, Tally};
use jobkit_core::{Name, Timestamp, bounds};
use rusqlite::params;

use crate::codec::{at, json, size};
use crate::connection::Db;
use crate::error::Done;

/// How long histograms are kept.
const HISTOGRAMS_KEPT: Duration = Duration::from_secs(72 * 3600);
/// Buckets removed in one step.
const BUCKETS: usize = 1_000;

const fn step_number(step: Step) -> i64 {
    match step {
        Step::AllTime => 0,
        Step::Minute => 1,
        Step::Hour => 2,
        Step::Day => 3,
    }
}

fn scope_text(scope: &Scope) -> String {
    match scope {
        Scope::Total => String::new(),
        Scope::Queue(name) => format!("q:{name}"),
        Scope::Kind(name) => format!("k:{name}"),
    }
}

/// Cells of several deltas, added up. Many deltas share a minute, and few lanes: they are added
/// before they are spread over scopes and spans.
fn cells(deltas: impl Iterator<Item = Delta>) -> BTreeMap<Cell, Tally> {
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

/// Adds deltas to the stored cells.
pub(crate) fn fold<'a>(db: &Db<'_>, deltas: impl Iterator<Item = &'a str>) -> Done {
    let deltas = deltas.map(json::<Delta>).collect::<Done<Vec<_>>>()?;
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

/// The scope itself, or that of the rest when there are too many.
fn admitted(db: &Db<'_>, scope: &str, known: &mut HashMap<String, String>) -> Done<String> {
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

/// The scopes of queues (`q:`) or kinds (`k:`) that are stored, by a seek for each.
fn scopes(db: &Db<'_>, family: &str) -> Done<Vec<String>> {
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

/// Every scope that is stored, by a seek for each: the table is ordered by scope.
fn all_scopes(db: &Db<'_>) -> Done<Vec<String>> {
    let mut scopes = vec![String::new()];
    scopes.extend(self::scopes(db, "k:")?);
    scopes.extend(self::scopes(db, "q:")?);
    Ok(scopes)
}

/// Removes buckets that are kept no longer, and histograms of hours that came of age since
/// `stripped`; how far they are stripped now.
pub(crate) fn prune(db: &Db<'_>, stripped: Timestamp, now: Timestamp) -> Done<Timestamp> {
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
fn strip(db: &Db<'_>, scope: &str, from: Timestamp, until: Timestamp) -> Done {
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

/// What is not folded yet.
pub(crate) fn tail(db: &Db<'_>) -> Done<BTreeMap<Cell, Tally>> {
    let deltas = db
        .all("SELECT body FROM jk_delta WHERE body IS NOT NULL", [], |row| row.get::<_, String>(0))?
        .iter()
        .map(|body| json::<Delta>(body))
        .collect::<Done<Vec<_>>>()?;
    Ok(cells(deltas.into_iter()))
}

/// All transitions of a scope.
pub(crate) fn total(db: &Db<'_>, tail: &BTreeMap<Cell, Tally>, scope: &Scope) -> Done<Tally> {
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

/// The cells of a scope whose buckets begin in a range.
pub(crate) fn range(
    db: &Db<'_>,
    scope: &Scope,
    step: Step,
    from: Timestamp,
    to: Timestamp,
) -> Done<BTreeMap<Timestamp, Tally>> {
    let mut cells: BTreeMap<Timestamp, Tally> = db
        .all(
            "SELECT bucket, body FROM jk_stat \
             WHERE scope = ?1 AND step = ?2 AND bucket >= ?3 AND bucket < ?4 ORDER BY bucket",
            params![scope_text(scope), step_number(step), from.as_micros(), to.as_micros()],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)),
        )?
        .into_iter()
        .map(|(bucket, body)| Ok((at(bucket), json::<Tally>(&body)?)))
        .collect::<Done<_>>()?;
    for (cell, tally) in tail(db)? {
        if cell.scope == *scope && cell.step == step && (from..to).contains(&cell.bucket) {
            cells.entry(cell.bucket).or_default().add(&tally);
        }
    }
    Ok(cells)
}

/// The queues that have statistics of their own.
pub(crate) fn queues(db: &Db<'_>, tail: &BTreeMap<Cell, Tally>) -> Done<BTreeSet<Name>> {
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
