//! Admission: which waiters become claimable when a limit has capacity. Waiters of lanes that a live
//! server serves come first.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jobkit_core::Timestamp;
use rusqlite::params;

use super::limit_row::{LimitRow, select_limit};
use super::slots;
use super::windows::{self, SKEW};
use crate::codec::sql_text::sql;
use crate::codec::{at, size};
use crate::error::SqlResult;
use crate::operations::pauses::Paused;
use crate::txn::Txn;

/// The most waiters of a limit that one step admits; sweeps admit the rest.
const ADMITTED_AT_ONCE: usize = 500;
/// The most limits that one step of a sweep looks at.
const LIMITS_SWEPT: usize = 100;
/// The most lanes of a limit that a step scans when it frees capacity; sweeps scan the rest.
const LANES_AT_ONCE: usize = 64;
/// The most lanes that one step of a sweep scans.
const LANES_SWEPT: usize = 500;
/// Admitted of a lane that no server serves: enough for a new server to find it.
const UNSERVED: usize = 1;
/// Two polls. A server that has not claimed what was admitted for it by then has no free worker, and
/// the capacity is offered to others.
const UNCLAIMED: Duration = Duration::from_secs(10);
/// No lane is live: the limit is idle until something changes.
const IDLE: i64 = 1;
/// No lane that this round of scans has reached is live.
const IDLE_SO_FAR: i64 = 2;

/// A scan of the lanes of a limit.
struct LaneScan {
    limit: i64,
    /// The most that are admitted.
    max: usize,
    /// The free capacity, and what of it was not given to anybody a moment before.
    room: usize,
    live_room: usize,
    /// Jobs that were admitted before this and are not claimed yet do not reserve capacity.
    since: i64,
    paused: Paused,
    /// No scanned lane is served.
    none_live: bool,
    seen: HashSet<(i64, i64)>,
    /// Candidates: rank, sequence, queue and kind.
    live: Vec<(i64, i64, i64, i64)>,
    others: Vec<(i64, i64, i64, i64)>,
}

/// Admits waiters at the limits to which this step gave capacity.
pub(crate) fn admit_waiters(txn: &mut Txn<'_, '_>, now: Timestamp) -> SqlResult {
    while let Some(limit) = txn.dirty_limits.pop_first() {
        let (_, more) = admit_at(txn, limit, now, ADMITTED_AT_ONCE, &mut { LANES_AT_ONCE })?;
        txn.marks |= more;
    }
    Ok(())
}

/// Looks at all limits with waiters, since other lanes are live now. What exceeds a bound is left to
/// the next sweep.
pub(crate) fn admit_everywhere(txn: &mut Txn<'_, '_>, now: Timestamp) -> SqlResult {
    txn.db.run("UPDATE jk_limit INDEXED BY jk_limit_asleep SET asleep = 0 WHERE asleep > 0", [])?;
    let (_, left) = admit_at_open_limits(txn, 0, ADMITTED_AT_ONCE, now)?;
    txn.marks |= left.is_some();
    Ok(())
}

/// Looks at limits with waiters and possible capacity, by number after `from`. Returns how many waiters
/// were admitted, and where to continue if some limits are left.
pub(crate) fn admit_at_open_limits(
    txn: &mut Txn<'_, '_>,
    mut from: i64,
    max: usize,
    now: Timestamp,
) -> SqlResult<(usize, Option<i64>)> {
    let limits = txn.db.all(
        "SELECT id FROM jk_limit INDEXED BY jk_limit_room \
         WHERE waiting > 0 AND asleep <> 1 AND ((win = 0 AND used < max) OR (win > 0 AND started < max)) \
         AND id > ?1 ORDER BY id LIMIT ?2",
        [from, size(LIMITS_SWEPT)],
        |row| row.get::<_, i64>(0),
    )?;
    let full = limits.len() == LIMITS_SWEPT;
    // Capacity that time has brought is not noted in the row yet.
    let mut done = admit_at_due_limits(txn, max, now)?;
    let mut lanes = LANES_SWEPT;
    for limit in limits {
        if done >= max || lanes == 0 {
            return Ok((done, Some(from)));
        }
        let (admitted, more) = admit_at(txn, limit, now, max - done, &mut lanes)?;
        done += admitted;
        if more {
            return Ok((done, Some(from)));
        }
        from = limit;
    }
    Ok((done, full.then_some(from)))
}

/// Admits waiters at rate limits to which time has brought capacity; returns how many.
pub(crate) fn admit_at_due_limits(
    txn: &mut Txn<'_, '_>,
    max: usize,
    now: Timestamp,
) -> SqlResult<usize> {
    let ahead = txn.db.all(
        "SELECT id FROM jk_limit INDEXED BY jk_limit_first \
         WHERE waiting > 0 AND room_at IS NOT NULL AND room_at - len > ?1 LIMIT ?2",
        [now.plus(SKEW).as_micros(), size(LIMITS_SWEPT)],
        |row| row.get::<_, i64>(0),
    )?;
    for limit in ahead {
        if let Some(mut row) =
            txn.db.one(select_limit!("WHERE id = ?1"), [limit], LimitRow::read)?
        {
            windows::pull_back(txn, &mut row, now)?;
        }
    }
    let due = txn.db.all(
        "SELECT id FROM jk_limit INDEXED BY jk_limit_room_at \
         WHERE waiting > 0 AND room_at IS NOT NULL AND room_at <= ?1 ORDER BY room_at LIMIT ?2",
        [now.as_micros(), size(LIMITS_SWEPT.min(max))],
        |row| row.get::<_, i64>(0),
    )?;
    let mut done = 0;
    for limit in due {
        if done < max {
            let (admitted, more) = admit_at(txn, limit, now, max - done, &mut { LANES_AT_ONCE })?;
            done += admitted;
            txn.marks |= more;
        }
    }
    Ok(done)
}

/// When the first rate limit with parked jobs has capacity again.
pub(crate) fn next_room_at(txn: &Txn<'_, '_>) -> SqlResult<Option<i64>> {
    let next = txn.db.one(
        "SELECT min(room_at) FROM jk_limit INDEXED BY jk_limit_room_at \
         WHERE waiting > 0 AND room_at IS NOT NULL",
        [],
        |row| row.get::<_, Option<i64>>(0),
    )?;
    Ok(next.flatten())
}

/// Admits the next waiters of a limit, as many as it has capacity for. Returns how many, and whether
/// more lanes are to be scanned.
///
/// Waiters that a live server would take are admitted in the order of claims, less those that were
/// admitted a moment before and are not claimed yet. What no live server takes, because no server
/// serves it or it is paused, uses no capacity while it waits; one job of each such lane is admitted,
/// so that a new server finds it. A lane whose servers leave admitted jobs unclaimed does not keep that
/// capacity from others either.
fn admit_at(
    txn: &mut Txn<'_, '_>,
    limit: i64,
    now: Timestamp,
    max: usize,
    lanes: &mut usize,
) -> SqlResult<(usize, bool)> {
    let row = txn.db.one(select_limit!("WHERE id = ?1"), [limit], LimitRow::read)?;
    let Some(mut row) = row.filter(|row| row.waiting > 0) else { return Ok((0, false)) };
    let room = windows::room(txn, &mut row, now)?;
    if room == 0 || row.idle == IDLE {
        return Ok((0, false));
    }
    let paused = Paused::read(txn.db, now)?;
    let since = now.minus(UNCLAIMED).as_micros();
    let recent = txn.db.all(
        "SELECT at, queue, kind FROM jk_admitted INDEXED BY jk_admitted_recent \
         WHERE live = 1 AND lim = ?1 AND at > ?2 AND at <= ?3 ORDER BY at LIMIT ?4",
        [limit, since, now.plus(SKEW).as_micros(), size(room + 1)],
        |row| Ok((at(row.get(0)?), (row.get(1)?, row.get(2)?))),
    )?;
    let oldest = recent.first().map(|(at, _)| at.plus(UNCLAIMED));
    let mut counts: HashMap<(i64, i64), usize> = HashMap::new();
    for (_, lane) in recent {
        *counts.entry(lane).or_default() += 1;
    }
    let mut live_room = room;
    for ((queue, kind), count) in counts {
        if is_live(txn, queue, kind, &paused)? {
            live_room = live_room.saturating_sub(count);
        }
    }

    let mut scan = LaneScan {
        limit,
        max,
        room,
        live_room,
        since,
        paused,
        // A pause that ends by itself triggers nothing.
        none_live: row.lane.is_none() || row.idle == IDLE_SO_FAR,
        seen: HashSet::new(),
        live: Vec::new(),
        others: Vec::new(),
    };
    scan.none_live &= !scan.paused.ends;
    let mut reached = row.lane.unwrap_or((i64::MIN, i64::MIN));
    let mut lane = next_parked_lane(txn, limit, reached)?;
    while let Some(next) = lane.filter(|_| *lanes > 0) {
        *lanes -= 1;
        reached = next;
        scan_lane(txn, &mut scan, reached)?;
        lane = next_parked_lane(txn, limit, reached)?;
    }
    if lane.is_some() || row.lane.is_some() {
        // There are many lanes: those of served queues come first, wherever they are.
        scan_served(txn, &mut scan)?;
    }

    let LaneScan { mut live, others, mut none_live, .. } = scan;
    live.sort_unstable();
    live.truncate(live_room);
    let admitted = live.into_iter().map(|it| (it, true));
    let mut admitted: Vec<_> = admitted.chain(others.into_iter().map(|it| (it, false))).collect();
    let mut more = lane.is_some() || admitted.len() > max;
    none_live &= admitted.len() <= max;
    admitted.truncate(max);
    // A scan that began behind other lanes may have admitted some of these.
    more |= row.lane.is_some() && !none_live && !admitted.is_empty();
    let (next, idle) = match (lane, none_live) {
        (Some(_), true) => (Some(reached), IDLE_SO_FAR),
        (Some(_), false) => (Some(reached), 0),
        (None, true) => (None, IDLE),
        (None, false) => (None, 0),
    };
    if (next, idle) != (row.lane, row.idle) {
        txn.db.run(
            "UPDATE jk_limit SET lane_queue = ?2, lane_kind = ?3, asleep = ?4 WHERE id = ?1",
            params![limit, next.map(|it| it.0), next.map(|it| it.1), idle],
        )?;
    }
    for ((_, seq, queue, kind), takes_room) in &admitted {
        txn.db.run("UPDATE jk_job SET parked = NULL WHERE seq = ?1", [seq])?;
        txn.db.run(
            "INSERT OR REPLACE INTO jk_admitted (seq, lim, queue, kind, at, live) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![*seq, limit, *queue, *kind, now.as_micros(), takes_room],
        )?;
    }
    if !admitted.is_empty() {
        slots::count_waiting(txn, limit, -size(admitted.len()))?;
        txn.work = true;
    }
    if !none_live && row.waiting > size(admitted.len()) {
        // Capacity that is not claimed by then is offered to others.
        txn.recheck_limits_at = txn.recheck_limits_at.into_iter().chain(oldest).min();
    }
    Ok((admitted.len(), more))
}

fn scan_lane(txn: &Txn<'_, '_>, scan: &mut LaneScan, lane: (i64, i64)) -> SqlResult {
    if !scan.seen.insert(lane) {
        return Ok(());
    }
    let (queue, kind) = lane;
    let is_live = is_live(txn, queue, kind, &scan.paused)?;
    scan.none_live &= !is_live;
    let takes_room = is_live && !is_unclaimed(txn, scan.limit, lane, scan.since)?;
    let most = if takes_room {
        scan.live_room
    } else {
        let alone = if is_live { scan.room } else { UNSERVED };
        alone.saturating_sub(admitted_in(txn, scan.limit, lane, alone)?)
    };
    let waiters = match most.min(scan.max) {
        0 => return Ok(()),
        most => txn.db.all(
            sql!("SELECT rank, seq FROM jk_job INDEXED BY jk_parked_lane \
             WHERE state = {enqueued} AND parked IS NOT NULL AND parked = ?1 AND queue = ?2 AND kind = ?3 \
             ORDER BY rank, seq LIMIT ?4"),
            params![scan.limit, queue, kind, size(most)],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, queue, kind)),
        )?,
    };
    if takes_room { &mut scan.live } else { &mut scan.others }.extend(waiters);
    Ok(())
}

/// Scans lanes of the queues that some server serves, as far as a step goes.
fn scan_served(txn: &Txn<'_, '_>, scan: &mut LaneScan) -> SqlResult {
    let mut lanes = LANES_AT_ONCE;
    let mut queue = i64::MIN;
    for _ in 0..LANES_AT_ONCE {
        let next = txn.db.one(
            "SELECT name FROM jk_serves INDEXED BY jk_serves_of \
             WHERE of_kind = 0 AND name > ?1 ORDER BY name LIMIT 1",
            [queue],
            |row| row.get::<_, i64>(0),
        )?;
        let Some(next) = next else { break };
        queue = next;
        let mut kind = i64::MIN;
        while lanes > 0
            && let Some(next) = next_parked_kind(txn, scan.limit, (queue, kind))?
        {
            lanes -= 1;
            kind = next;
            scan_lane(txn, scan, (queue, kind))?;
        }
    }
    Ok(())
}

/// How many jobs of a lane are admitted and not claimed yet, as far as it matters.
fn admitted_in(
    txn: &Txn<'_, '_>,
    limit: i64,
    (queue, kind): (i64, i64),
    most: usize,
) -> SqlResult<usize> {
    let admitted = txn.db.all(
        "SELECT 1 FROM jk_admitted INDEXED BY jk_admitted_lane \
         WHERE lim = ?1 AND queue = ?2 AND kind = ?3 LIMIT ?4",
        [limit, queue, kind, size(most)],
        |_| Ok(()),
    )?;
    Ok(admitted.len())
}

/// Whether jobs of a lane that were admitted before an instant are still unclaimed.
fn is_unclaimed(
    txn: &Txn<'_, '_>,
    limit: i64,
    (queue, kind): (i64, i64),
    since: i64,
) -> SqlResult<bool> {
    let unclaimed = txn.db.one(
        "SELECT 1 FROM jk_admitted INDEXED BY jk_admitted_lane \
         WHERE lim = ?1 AND queue = ?2 AND kind = ?3 AND at <= ?4 LIMIT 1",
        [limit, queue, kind, since],
        |_| Ok(()),
    )?;
    Ok(unclaimed.is_some())
}

/// The next lane with jobs parked at a limit.
fn next_parked_lane(
    txn: &Txn<'_, '_>,
    limit: i64,
    (queue, kind): (i64, i64),
) -> SqlResult<Option<(i64, i64)>> {
    if let Some(kind) = next_parked_kind(txn, limit, (queue, kind))? {
        return Ok(Some((queue, kind)));
    }
    Ok(txn.db.one(
        sql!(
            "SELECT queue, kind FROM jk_job INDEXED BY jk_parked_lane \
         WHERE state = {enqueued} AND parked IS NOT NULL AND parked = ?1 AND queue > ?2 \
         ORDER BY queue, kind LIMIT 1"
        ),
        [limit, queue],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?)
}

/// The next kind of such a lane in the same queue.
fn next_parked_kind(
    txn: &Txn<'_, '_>,
    limit: i64,
    (queue, kind): (i64, i64),
) -> SqlResult<Option<i64>> {
    Ok(txn.db.one(
        sql!("SELECT kind FROM jk_job INDEXED BY jk_parked_lane \
         WHERE state = {enqueued} AND parked IS NOT NULL AND parked = ?1 AND queue = ?2 AND kind > ?3 \
         ORDER BY kind LIMIT 1"),
        [limit, queue, kind],
        |row| row.get(0),
    )?)
}

/// Whether a live server would claim the jobs of a lane.
fn is_live(txn: &Txn<'_, '_>, queue: i64, kind: i64, paused: &Paused) -> SqlResult<bool> {
    if paused.queues.contains(&queue) || paused.kinds.contains(&kind) {
        return Ok(false);
    }
    let server = txn.db.one(
        "SELECT 1 FROM jk_serves q JOIN jk_serves k \
         ON k.name = ?2 AND k.of_kind = 1 AND k.server = q.server \
         WHERE q.name = ?1 AND q.of_kind = 0 LIMIT 1",
        [queue, kind],
        |_| Ok(()),
    )?;
    Ok(server.is_some())
}
