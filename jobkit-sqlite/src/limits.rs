//! `LimitStore`, and how slots are taken and freed.

use std::collections::HashMap;

use async_trait::async_trait;
use jobkit_core::limit::{Limit, Window};
use jobkit_core::state::StateName;
use jobkit_core::storage::{LimitHolder, LimitStore, LimitUsage};
use jobkit_core::{Error, Result, Timestamp};
use rusqlite::params;

use crate::codec::{Job, at, index, length, micros, select_job, size, small, uint};
use crate::connection::Db;
use crate::error::Done;
use crate::operations::Paused;
use crate::storage::SqliteStorage;
use crate::writer::{Flight, Push};

/// The most waiters of a limit that one step makes claimable; the rest is left to sweeps.
const ADMITTED_AT_ONCE: usize = 500;
/// The most limits that one step of a sweep looks at.
const LIMITS_SWEPT: usize = 100;

/// A limit, as deciding about its room needs it.
struct Row {
    id: i64,
    max: i64,
    used: i64,
    waiting: i64,
    window: Option<Window>,
    /// Starts that counted when the limit was looked at last.
    started: i64,
    /// When the first of these starts does not count any more.
    room_at: Option<i64>,
}

/// The columns of a [`Row`].
macro_rules! select_limit {
    ($rest:literal) => {
        concat!("SELECT id, max, used, waiting, win, len, started, room_at FROM jk_limit ", $rest)
    };
}

impl Row {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            max: row.get(1)?,
            used: row.get(2)?,
            waiting: row.get(3)?,
            window: window_at(row.get(4)?, row.get(5)?),
            started: row.get(6)?,
            room_at: row.get(7)?,
        })
    }
}

/// The columns of a limit's window: its kind, and its length.
fn window_numbers(window: Option<Window>) -> (i64, i64) {
    let kind = match window {
        None => 0,
        Some(Window::Fixed(_)) => 1,
        // As strict as the strictest: a kind that this release does not know.
        Some(_) => 2,
    };
    (kind, window.map_or(0, |window| micros(window.length())))
}

fn window_at(kind: i64, len: i64) -> Option<Window> {
    match kind {
        0 => None,
        1 => Some(Window::Fixed(length(len))),
        _ => Some(Window::Sliding(length(len))),
    }
}

impl Flight<'_, '_> {
    /// The first submit that names a limit defines it.
    pub(crate) fn define_default(&self, limit: &Limit) -> Done {
        let (win, len) = window_numbers(limit.window);
        self.db.run(
            "INSERT INTO jk_limit (name, max, win, len) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (name) DO NOTHING",
            params![limit.name, limit.max, win, len],
        )?;
        Ok(())
    }

    /// Takes a slot or start of every limit, or of none: then the number of the first that is full.
    pub(crate) fn take_slots(&mut self, limits: &[Limit], now: Timestamp) -> Done<Option<i64>> {
        let mut taken = Vec::with_capacity(limits.len());
        for limit in limits {
            let mut row = match self.limit_row(&limit.name)? {
                Some(row) => row,
                None => {
                    self.define_default(limit)?;
                    self.limit_row(&limit.name)?
                        .ok_or_else(|| Error::corrupt("a limit was not kept"))?
                }
            };
            let before = row.room_at;
            let room = self.room(&mut row, now)?;
            if row.room_at != before && row.waiting > 0 {
                // Time has brought room for those who wait, too.
                self.refills.insert(row.id);
            }
            if room == 0 {
                return Ok(Some(row.id));
            }
            taken.push(row);
        }
        for row in taken {
            match row.window {
                None => {
                    self.db.run("UPDATE jk_limit SET used = used + 1 WHERE id = ?1", [row.id])?;
                }
                Some(window) => self.count_start(&row, window, now)?,
            }
        }
        Ok(None)
    }

    fn count_start(&mut self, row: &Row, window: Window, now: Timestamp) -> Done {
        let from = window.counts_from(now);
        let end = from.plus(window.length());
        self.db.run(
            "INSERT INTO jk_limit_start (lim, at, n) VALUES (?1, ?2, 1) \
             ON CONFLICT (lim, at) DO UPDATE SET n = n + 1",
            [row.id, from.as_micros()],
        )?;
        self.db.run(
            "UPDATE jk_limit SET used = used + 1, started = started + 1, \
             room_at = min(COALESCE(room_at, ?2), ?2) WHERE id = ?1",
            [row.id, end.as_micros()],
        )?;
        if row.room_at.is_none() && row.waiting > 0 {
            self.pushes.push(Push::Due(end));
        }
        Ok(())
    }

    fn limit_row(&self, name: &str) -> Done<Option<Row>> {
        Ok(self.db.one(select_limit!("WHERE name = ?1"), [name], Row::read)?)
    }

    /// How many more may take it now. Starts that do not count any more are forgotten on the way.
    fn room(&self, row: &mut Row, now: Timestamp) -> Done<usize> {
        let Some(window) = row.window else { return Ok(index((row.max - row.used).max(0))) };
        if row.room_at.is_some_and(|at| at <= now.as_micros()) {
            self.db.run(
                "DELETE FROM jk_limit_start WHERE lim = ?1 AND at <= ?2",
                [row.id, now.minus(window.length()).as_micros()],
            )?;
            self.recount_starts(row)?;
        }
        Ok(index((row.max - row.started).max(0)))
    }

    /// Notes what the starts that are kept amount to.
    fn recount_starts(&self, row: &mut Row) -> Done {
        let kept = self.db.one(
            "SELECT sum(n), min(at) FROM jk_limit_start WHERE lim = ?1",
            [row.id],
            |row| Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, Option<i64>>(1)?)),
        )?;
        let (started, first) = kept.unwrap_or_default();
        row.started = started.unwrap_or(0);
        row.room_at = match (row.window, first) {
            (Some(window), Some(first)) => Some(at(first).plus(window.length()).as_micros()),
            _ => None,
        };
        self.db.run(
            "UPDATE jk_limit SET started = ?2, room_at = ?3 WHERE id = ?1",
            params![row.id, row.started, row.room_at],
        )?;
        Ok(())
    }

    /// Frees a slot; who waits for it is let go when the step ends. Nothing but time gives back a start.
    pub(crate) fn free_slot(&mut self, name: &str) -> Done {
        let waited_for = self.db.one(
            "UPDATE jk_limit SET used = max(used - 1, 0) WHERE name = ?1 \
             RETURNING id, waiting > 0 AND win = 0",
            [name],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, bool>(1)?)),
        )?;
        self.refills.extend(waited_for.filter(|(_, waited_for)| *waited_for).map(|(id, _)| id));
        Ok(())
    }

    fn count_waiting(&self, limit: i64, by: i64) -> Done {
        self.db
            .run("UPDATE jk_limit SET waiting = max(waiting + ?2, 0) WHERE id = ?1", [limit, by])?;
        Ok(())
    }

    /// An operator's number and window.
    fn redefine(&mut self, limit: &Limit, now: Timestamp) -> Done {
        let (win, len) = window_numbers(limit.window);
        self.db.run(
            "INSERT INTO jk_limit (name, max, win, len, by_operator) VALUES (?1, ?2, ?3, ?4, 1) \
             ON CONFLICT (name) DO UPDATE SET max = excluded.max, win = excluded.win, \
             len = excluded.len, by_operator = 1",
            params![limit.name, limit.max, win, len],
        )?;
        let Some(mut row) = self.limit_row(&limit.name)? else { return Ok(()) };
        if row.window.is_none() {
            self.db.run("DELETE FROM jk_limit_start WHERE lim = ?1", [row.id])?;
        }
        self.recount_starts(&mut row)?;
        if let Some(room_at) = row.room_at.filter(|_| row.waiting > 0) {
            self.pushes.push(Push::Due(at(room_at)));
        }
        self.refills.insert(row.id);
        self.refill(now)
    }

    pub(crate) fn park(&mut self, job: &Job, limit: i64) -> Done {
        self.db.run("UPDATE jk_job SET parked = ?2 WHERE seq = ?1", [job.seq, limit])?;
        let first = self.db.one(
            "UPDATE jk_limit SET waiting = waiting + 1 WHERE id = ?1 RETURNING waiting, room_at",
            [limit],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?)),
        )?;
        if let Some((1, Some(room_at))) = first {
            self.pushes.push(Push::Due(at(room_at)));
        }
        self.withdraw(job.seq)
    }

    /// A job does not use the room that a limit let it go for: another one may.
    pub(crate) fn withdraw(&mut self, seq: i64) -> Done {
        let admitted =
            self.db.one("DELETE FROM jk_admitted WHERE seq = ?1 RETURNING lim", [seq], |row| {
                row.get::<_, i64>(0)
            })?;
        self.refills.extend(admitted);
        Ok(())
    }

    /// What an Enqueued job under limits leaves behind when its state or queue changes.
    pub(crate) fn leave_line(&mut self, job: &mut Job, to: StateName) -> Done {
        match (to, job.parked) {
            (StateName::Enqueued, _) => {
                self.db.run(
                    "UPDATE jk_admitted SET queue = ?2 WHERE seq = ?1",
                    [job.seq, job.queue],
                )?;
            }
            (_, Some(limit)) => {
                job.parked = None;
                self.count_waiting(limit, -1)?;
            }
            // The claim has taken the room.
            (StateName::Processing, None) => {
                self.db.run("DELETE FROM jk_admitted WHERE seq = ?1", [job.seq])?;
            }
            (_, None) => self.withdraw(job.seq)?,
        }
        Ok(())
    }

    /// Lets go who waits at the limits where this step made room.
    pub(crate) fn refill(&mut self, now: Timestamp) -> Done {
        while let Some(limit) = self.refills.pop_first() {
            self.admit(limit, now, ADMITTED_AT_ONCE)?;
        }
        Ok(())
    }

    /// Looks at the limits that have waiters, since other lanes are live now; what is beyond a bound
    /// is left to the next sweep.
    pub(crate) fn refill_all(&mut self, now: Timestamp) -> Done {
        let (_, left) = self.fill_limits(0, ADMITTED_AT_ONCE, now)?;
        // Whoever hears of work sweeps soon.
        self.work |= left.is_some();
        Ok(())
    }

    /// Looks at limits that have waiters and may have room, by number after `from`: how many waiters
    /// were let go, and where to go on if some limits are left.
    pub(crate) fn fill_limits(
        &mut self,
        mut from: i64,
        max: usize,
        now: Timestamp,
    ) -> Done<(usize, Option<i64>)> {
        let limits = self.db.all(
            "SELECT id FROM jk_limit INDEXED BY jk_limit_room \
             WHERE waiting > 0 AND ((win = 0 AND used < max) OR (win > 0 AND started < max)) \
             AND id > ?1 ORDER BY id LIMIT ?2",
            [from, size(LIMITS_SWEPT)],
            |row| row.get::<_, i64>(0),
        )?;
        let full = limits.len() == LIMITS_SWEPT;
        // What time has brought is no room yet by what is noted.
        let mut done = self.fill_due_limits(max, now)?;
        for limit in limits {
            if done < max {
                done += self.admit(limit, now, max - done)?;
            }
            if done >= max {
                // There may be more at this one.
                return Ok((done, Some(from)));
            }
            from = limit;
        }
        Ok((done, full.then_some(from)))
    }

    /// Lets go who waits at rate limits to which time has brought room; how many.
    pub(crate) fn fill_due_limits(&mut self, max: usize, now: Timestamp) -> Done<usize> {
        let due = self.db.all(
            "SELECT id FROM jk_limit INDEXED BY jk_limit_room_at \
             WHERE waiting > 0 AND room_at IS NOT NULL AND room_at <= ?1 ORDER BY room_at LIMIT ?2",
            [now.as_micros(), size(LIMITS_SWEPT.min(max))],
            |row| row.get::<_, i64>(0),
        )?;
        let mut done = 0;
        for limit in due {
            if done < max {
                done += self.admit(limit, now, max - done)?;
            }
        }
        Ok(done)
    }

    /// When the first rate limit at which jobs are parked has room again.
    pub(crate) fn next_room_at(&self) -> Done<Option<i64>> {
        let next = self.db.one(
            "SELECT min(room_at) FROM jk_limit INDEXED BY jk_limit_room_at \
             WHERE waiting > 0 AND room_at IS NOT NULL",
            [],
            |row| row.get::<_, Option<i64>>(0),
        )?;
        Ok(next.flatten())
    }

    /// Makes the next waiters of a limit claimable, as many as have room; how many.
    ///
    /// Those that a live server would take, in the order of claims, less those that were let go before
    /// and are not claimed yet. What no live server takes, since nobody serves it or it is paused,
    /// holds no slot while it stands in line: it takes nothing of that room, and each such lane is let
    /// go as far as there is room for it alone, so that a server that comes finds it claimable.
    fn admit(&mut self, limit: i64, now: Timestamp, max: usize) -> Done<usize> {
        let row = self.db.one(select_limit!("WHERE id = ?1"), [limit], Row::read)?;
        let Some(mut row) = row.filter(|row| row.waiting > 0) else { return Ok(0) };
        let room = self.room(&mut row, now)?;
        if room == 0 {
            return Ok(0);
        }
        let admitted = self.db.all(
            "SELECT queue, kind, count(*) FROM jk_admitted INDEXED BY jk_admitted_lane \
             WHERE lim = ?1 GROUP BY queue, kind",
            [limit],
            |row| Ok(((row.get(0)?, row.get(1)?), index(row.get(2)?))),
        )?;
        let mut admitted: HashMap<(i64, i64), usize> = admitted.into_iter().collect();
        let paused = Paused::read(self.db, now)?;
        let mut live_room = room;
        for ((queue, kind), count) in &admitted {
            if self.is_live(*queue, *kind, &paused)? {
                live_room = live_room.saturating_sub(*count);
            }
        }
        let (mut live, mut others) = (Vec::new(), Vec::new());
        let mut lane = self.next_parked_lane(limit, (i64::MIN, i64::MIN))?;
        while let Some((queue, kind)) = lane {
            let is_live = self.is_live(queue, kind, &paused)?;
            let before = admitted.remove(&(queue, kind)).unwrap_or(0);
            let most = if is_live { live_room } else { room.saturating_sub(before) };
            let waiters = self.db.all(
                "SELECT rank, seq FROM jk_job INDEXED BY jk_parked_lane \
                 WHERE state = 2 AND parked IS NOT NULL AND parked = ?1 AND queue = ?2 AND kind = ?3 \
                 ORDER BY rank, seq LIMIT ?4",
                params![limit, queue, kind, size(most.min(max))],
                |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, queue, kind)),
            )?;
            if is_live { &mut live } else { &mut others }.extend(waiters);
            lane = self.next_parked_lane(limit, (queue, kind))?;
        }
        live.sort_unstable();
        live.truncate(live_room);
        live.extend(others);
        live.truncate(max);
        for (_, seq, queue, kind) in &live {
            self.db.run("UPDATE jk_job SET parked = NULL WHERE seq = ?1", [seq])?;
            self.db.run(
                "INSERT OR REPLACE INTO jk_admitted (seq, lim, queue, kind) VALUES (?1, ?2, ?3, ?4)",
                [*seq, limit, *queue, *kind],
            )?;
        }
        if !live.is_empty() {
            self.count_waiting(limit, -size(live.len()))?;
            self.work = true;
        }
        Ok(live.len())
    }

    /// The next lane of which jobs are parked at a limit.
    fn next_parked_lane(&self, limit: i64, (queue, kind): (i64, i64)) -> Done<Option<(i64, i64)>> {
        let next = self.db.one(
            "SELECT queue, kind FROM jk_job INDEXED BY jk_parked_lane \
             WHERE state = 2 AND parked IS NOT NULL AND parked = ?1 AND queue = ?2 AND kind > ?3 \
             ORDER BY kind LIMIT 1",
            [limit, queue, kind],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        if next.is_some() {
            return Ok(next);
        }
        Ok(self.db.one(
            "SELECT queue, kind FROM jk_job INDEXED BY jk_parked_lane \
             WHERE state = 2 AND parked IS NOT NULL AND parked = ?1 AND queue > ?2 \
             ORDER BY queue, kind LIMIT 1",
            [limit, queue],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?)
    }

    /// Whether an announced server would claim what stands in a lane.
    fn is_live(&self, queue: i64, kind: i64, paused: &Paused) -> Done<bool> {
        if paused.queues.contains(&queue) || paused.kinds.contains(&kind) {
            return Ok(false);
        }
        let server = self.db.one(
            "SELECT 1 FROM jk_serves q JOIN jk_serves k \
             ON k.name = ?2 AND k.of_kind = 1 AND k.server = q.server \
             WHERE q.name = ?1 AND q.of_kind = 0 LIMIT 1",
            [queue, kind],
            |_| Ok(()),
        )?;
        Ok(server.is_some())
    }
}

/// The columns that [`usage`] reads.
macro_rules! select_usage {
    ($rest:literal) => {
        concat!("SELECT id, name, max, used, waiting, by_operator, win, len FROM jk_limit ", $rest)
    };
}

fn usage(
    db: &Db<'_>,
    text: &'static str,
    params: impl rusqlite::Params,
    now: Timestamp,
) -> Done<Vec<LimitUsage>> {
    let rows = db.all(text, params, |row| {
        let window = window_at(row.get(6)?, row.get(7)?);
        let limit = Limit { name: row.get(1)?, max: small(row.get(2)?), window };
        let usage = LimitUsage {
            limit,
            used: small(row.get(3)?),
            room_at: None,
            waiting: uint(row.get(4)?),
            defined_by_operator: row.get::<_, i64>(5)? != 0,
        };
        Ok((row.get::<_, i64>(0)?, usage))
    })?;
    let with_starts = |(id, mut usage): (i64, LimitUsage)| {
        if let Some(window) = usage.limit.window {
            (usage.used, usage.room_at) = starts(db, id, usage.limit.max, window, now)?;
        }
        Ok(usage)
    };
    rows.into_iter().map(with_starts).collect()
}

/// The starts that count now, and if these are all that may, when there is room again.
fn starts(
    db: &Db<'_>,
    limit: i64,
    max: u32,
    window: Window,
    now: Timestamp,
) -> Done<(u32, Option<Timestamp>)> {
    let starts = db.all(
        "SELECT at, n FROM jk_limit_start WHERE lim = ?1 AND at > ?2 ORDER BY at",
        [limit, now.minus(window.length()).as_micros()],
        |row| Ok((at(row.get(0)?), row.get::<_, i64>(1)?)),
    )?;
    let used: i64 = starts.iter().map(|(_, count)| count).sum();
    let (mut left, mut room_at) = (used, None);
    for (from, count) in starts {
        if left < i64::from(max) {
            break;
        }
        left -= count;
        room_at = Some(from.plus(window.length()));
    }
    Ok((small(used), room_at))
}

fn holders(db: &Db<'_>, name: &str, limit: usize) -> Done<Vec<LimitHolder>> {
    let slots = db.one("SELECT 1 FROM jk_limit WHERE name = ?1 AND win = 0", [name], |_| Ok(()))?;
    if slots.is_none() {
        return Ok(Vec::new());
    }
    let mut statement = db.prepare(select_job!(
        "INDEXED BY jk_held WHERE state = 3 AND limits IS NOT NULL ORDER BY claimed_at, seq"
    ))?;
    let mut rows = statement.query([])?;
    let mut holders = Vec::new();
    while let Some(row) = rows.next()? {
        if holders.len() >= limit {
            break;
        }
        let job = Job::read(db, row)?;
        if job.limits()?.iter().any(|limit| limit.name == name) {
            holders.push(LimitHolder {
                job: job.id,
                fence: job.head.fence,
                claimed_at: job.claimed_at.unwrap_or(job.head.entered_at),
                expires_at: at(row.get(28)?),
            });
        }
    }
    Ok(holders)
}

#[async_trait]
impl LimitStore for SqliteStorage {
    async fn define_limit(&self, limit: &Limit) -> Result<()> {
        limit.check()?;
        let limit = limit.clone();
        self.writer()
            .call("define_limit", move |flight| {
                let now = flight.now(None);
                flight.redefine(&limit, now)
            })
            .await
    }

    async fn limits(&self, after: Option<&str>, limit: usize) -> Result<Vec<LimitUsage>> {
        let after = after.unwrap_or_default().to_owned();
        let now = self.clock().now();
        self.read("limits", move |db| {
            let text = select_usage!("WHERE name > ?1 ORDER BY name LIMIT ?2");
            usage(db, text, params![after, size(limit)], now)
        })
        .await
    }

    async fn limit(&self, name: &str) -> Result<Option<LimitUsage>> {
        let name = name.to_owned();
        let now = self.clock().now();
        self.read("limit", move |db| {
            Ok(usage(db, select_usage!("WHERE name = ?1"), [name], now)?.pop())
        })
        .await
    }

    async fn limit_holders(&self, name: &str, limit: usize) -> Result<Vec<LimitHolder>> {
        let name = name.to_owned();
        self.read("limit_holders", move |db| holders(db, &name, limit)).await
    }
}
