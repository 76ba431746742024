//! `LimitStore`, and how slots are taken and freed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use jobkit_core::limit::{Limit, Window};
use jobkit_core::state::StateName;
use jobkit_core::storage::{LimitHolder, LimitStore, LimitUsage};
use jobkit_core::{Error, Result, Timestamp};
use rusqlite::params;

use crate::codec::{Job, at, index, length, micros, select_job, size, small, uint};
use crate::connection::Db;
use crate::error::{Done, tell_of_damage};
use crate::operations::Paused;
use crate::storage::SqliteStorage;
use crate::writer::{Flight, Push};

/// The most waiters of a limit that one step makes claimable; the rest is left to sweeps.
const ADMITTED_AT_ONCE: usize = 500;
/// The most limits that one step of a sweep looks at.
const LIMITS_SWEPT: usize = 100;
/// The most lanes of a limit that a step looks at which makes room; the rest is left to sweeps.
const LANES_AT_ONCE: usize = 64;
/// The most lanes that one step of a sweep looks at.
const LANES_SWEPT: usize = 500;
/// What is let go of a lane that nobody serves: enough to be found by a server that comes.
const UNSERVED: usize = 1;
/// Two polls: a server that has not claimed by then what was let go for it has no room itself, and
/// the room is for others, too.
const UNCLAIMED: Duration = Duration::from_secs(10);
/// The most starts that one look forgets, by the instants at which they were.
const FORGOTTEN_AT_ONCE: usize = 1_000;
/// By so much may the clocks of processes differ.
const SKEW: Duration = Duration::from_secs(1);

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
    /// The lane behind which the next look goes on.
    lane: Option<(i64, i64)>,
    asleep: i64,
}

/// No lane is live: the limit is not looked at until something changes.
const ASLEEP: i64 = 1;
/// No lane that this round of looks has reached is live.
const ASLEEP_SO_FAR: i64 = 2;

/// The columns of a [`Row`].
macro_rules! select_limit {
    ($rest:literal) => {
        concat!(
            "SELECT id, max, used, waiting, win, len, started, room_at, lane_queue, lane_kind, asleep ",
            "FROM jk_limit ",
            $rest
        )
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
            lane: row.get::<_, Option<i64>>(8)?.zip(row.get(9)?),
            asleep: row.get(10)?,
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

/// A look at the lanes of a limit.
struct Look {
    limit: i64,
    /// The most that are let go.
    max: usize,
    /// What has room, and what of it nobody was given a moment before.
    room: usize,
    live_room: usize,
    /// What was let go by then and is not claimed yet is not waited for.
    since: i64,
    paused: Paused,
    /// No lane that was looked at is served.
    none_live: bool,
    seen: HashSet<(i64, i64)>,
    /// Who may be let go: rank, place, queue and kind.
    live: Vec<(i64, i64, i64, i64)>,
    others: Vec<(i64, i64, i64, i64)>,
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
            self.pull_back(&mut row, now)?;
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
        self.add_starts(row.id, from, 1)?;
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
            let over = self.db.all(
                "SELECT at, n FROM jk_limit_start WHERE lim = ?1 AND at <= ?2 ORDER BY at LIMIT ?3",
                [row.id, now.minus(window.length()).as_micros(), size(FORGOTTEN_AT_ONCE)],
                |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
            )?;
            if let Some((last, _)) = over.last() {
                self.db.run(
                    "DELETE FROM jk_limit_start WHERE lim = ?1 AND at <= ?2",
                    [row.id, *last],
                )?;
            }
            row.started = (row.started - over.iter().map(|(_, n)| n).sum::<i64>()).max(0);
            self.note_starts(row, window)?;
        }
        Ok(index((row.max - row.started).max(0)))
    }

    /// Notes how many starts count, and when the first of them ends: at once, if more are to be
    /// forgotten than one look does.
    fn note_starts(&self, row: &mut Row, window: Window) -> Done {
        let first =
            self.db.one("SELECT min(at) FROM jk_limit_start WHERE lim = ?1", [row.id], |row| {
                row.get::<_, Option<i64>>(0)
            })?;
        row.room_at = first.flatten().map(|from| at(from).plus(window.length()).as_micros());
        self.db.run(
            "UPDATE jk_limit SET started = ?2, room_at = ?3 WHERE id = ?1",
            params![row.id, row.started, row.room_at],
        )?;
        Ok(())
    }

    /// Starts that are yet to come, since the clock went back, count from now on: so none counts longer
    /// than one length.
    fn pull_back(&self, row: &mut Row, now: Timestamp) -> Done {
        let Some(window) = row.window else { return Ok(()) };
        let soon = now.plus(SKEW).as_micros();
        let last =
            self.db.one("SELECT max(at) FROM jk_limit_start WHERE lim = ?1", [row.id], |row| {
                row.get::<_, Option<i64>>(0)
            })?;
        if last.flatten().is_none_or(|last| last <= soon) {
            return Ok(());
        }
        let ahead = self.db.one(
            "SELECT sum(n) FROM jk_limit_start WHERE lim = ?1 AND at > ?2",
            [row.id, soon],
            |row| row.get::<_, i64>(0),
        )?;
        self.db.run("DELETE FROM jk_limit_start WHERE lim = ?1 AND at > ?2", [row.id, soon])?;
        self.add_starts(row.id, window.counts_from(now), ahead.unwrap_or(0))?;
        self.note_starts(row, window)
    }

    fn add_starts(&self, limit: i64, from: Timestamp, count: i64) -> Done {
        self.db.run(
            "INSERT INTO jk_limit_start (lim, at, n) VALUES (?1, ?2, ?3) \
             ON CONFLICT (lim, at) DO UPDATE SET n = n + excluded.n",
            [limit, from.as_micros(), count],
        )?;
        Ok(())
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
             RETURNING id, waiting > 0 AND win = 0 AND asleep <> 1",
            [name],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, bool>(1)?)),
        )?;
        self.refills.extend(waited_for.filter(|(_, waited_for)| *waited_for).map(|(id, _)| id));
        Ok(())
    }

    pub(crate) fn count_waiting(&self, limit: i64, by: i64) -> Done {
        self.db
            .run("UPDATE jk_limit SET waiting = max(waiting + ?2, 0) WHERE id = ?1", [limit, by])?;
        Ok(())
    }

    /// An operator's number and window.
    fn redefine(&mut self, limit: &Limit, now: Timestamp) -> Done {
        let (win, len) = window_numbers(limit.window);
        let before = self.limit_row(&limit.name)?.and_then(|row| row.window);
        self.db.run(
            "INSERT INTO jk_limit (name, max, win, len, by_operator) VALUES (?1, ?2, ?3, ?4, 1) \
             ON CONFLICT (name) DO UPDATE SET max = excluded.max, win = excluded.win, \
             len = excluded.len, by_operator = 1",
            params![limit.name, limit.max, win, len],
        )?;
        let Some(mut row) = self.limit_row(&limit.name)? else { return Ok(()) };
        match (before, row.window) {
            (_, None) => {
                self.db.run("DELETE FROM jk_limit_start WHERE lim = ?1", [row.id])?;
            }
            (Some(before), Some(window)) if before != window => {
                self.change_window(row.id, before, window, now)?;
            }
            _ => {}
        }
        self.recount_starts(&mut row)?;
        if let Some(room_at) = row.room_at.filter(|_| row.waiting > 0) {
            self.pushes.push(Push::Due(at(room_at)));
        }
        self.refills.insert(row.id);
        self.refill(now)
    }

    /// Notes the starts that count for another window. Of those in a fixed one nobody knows the instant:
    /// they count as if they were now, so that none is lost.
    fn change_window(&self, limit: i64, from: Window, to: Window, now: Timestamp) -> Done {
        self.db.run(
            "DELETE FROM jk_limit_start WHERE lim = ?1 AND at <= ?2",
            [limit, now.minus(from.length()).as_micros()],
        )?;
        if let (Window::Sliding(_), Window::Sliding(_)) = (from, to) {
            // Their instants are known.
            self.db.run(
                "DELETE FROM jk_limit_start WHERE lim = ?1 AND at <= ?2",
                [limit, now.minus(to.length()).as_micros()],
            )?;
            return Ok(());
        }
        let starts = self.db.all(
            "SELECT at, n FROM jk_limit_start WHERE lim = ?1 ORDER BY at",
            [limit],
            |row| Ok((at(row.get(0)?), row.get::<_, i64>(1)?)),
        )?;
        self.db.run("DELETE FROM jk_limit_start WHERE lim = ?1", [limit])?;
        let mut counted: BTreeMap<Timestamp, i64> = BTreeMap::new();
        for (start, count) in starts {
            let start = if matches!(from, Window::Fixed(_)) { now } else { start };
            *counted.entry(to.counts_from(start)).or_default() += count;
        }
        for (from, count) in counted {
            if from.plus(to.length()) > now {
                self.add_starts(limit, from, count)?;
            }
        }
        Ok(())
    }

    pub(crate) fn park(&mut self, job: &Job, limit: i64) -> Done {
        self.db.run("UPDATE jk_job SET parked = ?2 WHERE seq = ?1", [job.seq, limit])?;
        let first = self.db.one(
            "UPDATE jk_limit SET waiting = waiting + 1, asleep = 0 WHERE id = ?1 \
             RETURNING waiting, room_at",
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
        if let Some(limit) = admitted {
            self.wake(limit)?;
        }
        Ok(())
    }

    /// Who stands at a limit has changed: it is looked at when the step ends.
    fn wake(&mut self, limit: i64) -> Done {
        self.rouse(limit)?;
        self.refills.insert(limit);
        Ok(())
    }

    /// The same, when somebody looks at it next.
    fn rouse(&self, limit: i64) -> Done {
        self.db.run("UPDATE jk_limit SET asleep = 0 WHERE id = ?1 AND asleep > 0", [limit])?;
        Ok(())
    }

    /// What an Enqueued job under limits leaves behind when its state or queue changes.
    pub(crate) fn leave_line(&mut self, job: &mut Job, to: StateName, now: Timestamp) -> Done {
        match (to, job.parked) {
            // It was moved: there may be room for it where it came, or for others where it went.
            (StateName::Enqueued, Some(limit)) => self.wake(limit)?,
            (StateName::Enqueued, None) => {
                let admitted = self.db.one(
                    "UPDATE jk_admitted SET queue = ?2, at = ?3, live = 1 WHERE seq = ?1 RETURNING lim",
                    [job.seq, job.queue, now.as_micros()],
                    |row| row.get::<_, i64>(0),
                )?;
                if let Some(limit) = admitted {
                    self.wake(limit)?;
                }
            }
            (_, Some(limit)) => {
                job.parked = None;
                self.count_waiting(limit, -1)?;
            }
            // The claim has taken the room.
            (StateName::Processing, None) => {
                let of_unserved = self.db.one(
                    "DELETE FROM jk_admitted WHERE seq = ?1 RETURNING lim, live = 0",
                    [job.seq],
                    |row| Ok((row.get::<_, i64>(0)?, row.get::<_, bool>(1)?)),
                )?;
                if let Some((limit, true)) = of_unserved {
                    // Another one of its lane may be let go in its place.
                    self.rouse(limit)?;
                }
            }
            (_, None) => self.withdraw(job.seq)?,
        }
        Ok(())
    }

    /// Lets go who waits at the limits where this step made room.
    pub(crate) fn refill(&mut self, now: Timestamp) -> Done {
        while let Some(limit) = self.refills.pop_first() {
            let (_, more) = self.admit(limit, now, ADMITTED_AT_ONCE, &mut { LANES_AT_ONCE })?;
            // Whoever hears of work sweeps soon.
            self.work |= more;
        }
        Ok(())
    }

    /// Looks at the limits that have waiters, since other lanes are live now; what is beyond a bound
    /// is left to the next sweep.
    pub(crate) fn refill_all(&mut self, now: Timestamp) -> Done {
        self.db.run(
            "UPDATE jk_limit INDEXED BY jk_limit_asleep SET asleep = 0 WHERE asleep > 0",
            [],
        )?;
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
             WHERE waiting > 0 AND asleep <> 1 AND ((win = 0 AND used < max) OR (win > 0 AND started < max)) \
             AND id > ?1 ORDER BY id LIMIT ?2",
            [from, size(LIMITS_SWEPT)],
            |row| row.get::<_, i64>(0),
        )?;
        let full = limits.len() == LIMITS_SWEPT;
        // What time has brought is no room yet by what is noted.
        let mut done = self.fill_due_limits(max, now)?;
        let mut lanes = LANES_SWEPT;
        for limit in limits {
            if done >= max || lanes == 0 {
                return Ok((done, Some(from)));
            }
            let (admitted, more) = self.admit(limit, now, max - done, &mut lanes)?;
            done += admitted;
            if more {
                return Ok((done, Some(from)));
            }
            from = limit;
        }
        Ok((done, full.then_some(from)))
    }

    /// Lets go who waits at rate limits to which time has brought room; how many.
    pub(crate) fn fill_due_limits(&mut self, max: usize, now: Timestamp) -> Done<usize> {
        let ahead = self.db.all(
            "SELECT id FROM jk_limit INDEXED BY jk_limit_first \
             WHERE waiting > 0 AND room_at IS NOT NULL AND room_at - len > ?1 LIMIT ?2",
            [now.plus(SKEW).as_micros(), size(LIMITS_SWEPT)],
            |row| row.get::<_, i64>(0),
        )?;
        for limit in ahead {
            if let Some(mut row) =
                self.db.one(select_limit!("WHERE id = ?1"), [limit], Row::read)?
            {
                self.pull_back(&mut row, now)?;
            }
        }
        let due = self.db.all(
            "SELECT id FROM jk_limit INDEXED BY jk_limit_room_at \
             WHERE waiting > 0 AND room_at IS NOT NULL AND room_at <= ?1 ORDER BY room_at LIMIT ?2",
            [now.as_micros(), size(LIMITS_SWEPT.min(max))],
            |row| row.get::<_, i64>(0),
        )?;
        let mut done = 0;
        for limit in due {
            if done < max {
                let (admitted, more) =
                    self.admit(limit, now, max - done, &mut { LANES_AT_ONCE })?;
                done += admitted;
                self.work |= more;
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

    /// Makes the next waiters of a limit claimable, as many as have room: how many, and whether more
    /// lanes are to be looked at.
    ///
    /// Those that a live server would take, in the order of claims, less those that were let go a moment
    /// before and are not claimed yet. What no live server takes, since nobody serves it or it is paused,
    /// holds no slot while it stands in line: it takes nothing of that room, and of each such lane one
    /// is let go, so that a server that comes finds it. A lane whose servers leave unclaimed what was let
    /// go for them does not keep that room from others either.
    fn admit(
        &mut self,
        limit: i64,
        now: Timestamp,
        max: usize,
        lanes: &mut usize,
    ) -> Done<(usize, bool)> {
        let row = self.db.one(select_limit!("WHERE id = ?1"), [limit], Row::read)?;
        let Some(mut row) = row.filter(|row| row.waiting > 0) else { return Ok((0, false)) };
        let room = self.room(&mut row, now)?;
        if room == 0 || row.asleep == ASLEEP {
            return Ok((0, false));
        }
        let paused = Paused::read(self.db, now)?;
        let since = now.minus(UNCLAIMED).as_micros();
        let recent = self.db.all(
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
            if self.is_live(queue, kind, &paused)? {
                live_room = live_room.saturating_sub(count);
            }
        }

        let mut look = Look {
            limit,
            max,
            room,
            live_room,
            since,
            paused,
            // A pause that ends by itself wakes nobody.
            none_live: row.lane.is_none() || row.asleep == ASLEEP_SO_FAR,
            seen: HashSet::new(),
            live: Vec::new(),
            others: Vec::new(),
        };
        look.none_live &= !look.paused.ends;
        let mut reached = row.lane.unwrap_or((i64::MIN, i64::MIN));
        let mut lane = self.next_parked_lane(limit, reached)?;
        while let Some(next) = lane.filter(|_| *lanes > 0) {
            *lanes -= 1;
            reached = next;
            self.look_at_lane(&mut look, reached)?;
            lane = self.next_parked_lane(limit, reached)?;
        }
        if lane.is_some() || row.lane.is_some() {
            // There are many: those of queues that are served come first, wherever they stand.
            self.look_at_served(&mut look)?;
        }

        let Look { mut live, others, mut none_live, .. } = look;
        live.sort_unstable();
        live.truncate(live_room);
        let let_go = live.into_iter().map(|it| (it, true));
        let mut let_go: Vec<_> = let_go.chain(others.into_iter().map(|it| (it, false))).collect();
        let mut more = lane.is_some() || let_go.len() > max;
        none_live &= let_go.len() <= max;
        let_go.truncate(max);
        // A look that began behind other lanes may have brought some of these into line.
        more |= row.lane.is_some() && !none_live && !let_go.is_empty();
        let (next, asleep) = match (lane, none_live) {
            (Some(_), true) => (Some(reached), ASLEEP_SO_FAR),
            (Some(_), false) => (Some(reached), 0),
            (None, true) => (None, ASLEEP),
            (None, false) => (None, 0),
        };
        if (next, asleep) != (row.lane, row.asleep) {
            self.db.run(
                "UPDATE jk_limit SET lane_queue = ?2, lane_kind = ?3, asleep = ?4 WHERE id = ?1",
                params![limit, next.map(|it| it.0), next.map(|it| it.1), asleep],
            )?;
        }
        for ((_, seq, queue, kind), takes_room) in &let_go {
            self.db.run("UPDATE jk_job SET parked = NULL WHERE seq = ?1", [seq])?;
            self.db.run(
                "INSERT OR REPLACE INTO jk_admitted (seq, lim, queue, kind, at, live) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![*seq, limit, *queue, *kind, now.as_micros(), takes_room],
            )?;
        }
        if !let_go.is_empty() {
            self.count_waiting(limit, -size(let_go.len()))?;
            self.work = true;
        }
        if !none_live && row.waiting > size(let_go.len()) {
            // Others may have what is not claimed by then.
            self.look_again = self.look_again.into_iter().chain(oldest).min();
        }
        Ok((let_go.len(), more))
    }

    fn look_at_lane(&self, look: &mut Look, lane: (i64, i64)) -> Done {
        if !look.seen.insert(lane) {
            return Ok(());
        }
        let (queue, kind) = lane;
        let is_live = self.is_live(queue, kind, &look.paused)?;
        look.none_live &= !is_live;
        let takes_room = is_live && !self.is_unclaimed(look.limit, lane, look.since)?;
        let most = if takes_room {
            look.live_room
        } else {
            let alone = if is_live { look.room } else { UNSERVED };
            alone.saturating_sub(self.admitted_in(look.limit, lane, alone)?)
        };
        let waiters = match most.min(look.max) {
            0 => return Ok(()),
            most => self.db.all(
                "SELECT rank, seq FROM jk_job INDEXED BY jk_parked_lane \
                 WHERE state = 2 AND parked IS NOT NULL AND parked = ?1 AND queue = ?2 AND kind = ?3 \
                 ORDER BY rank, seq LIMIT ?4",
                params![look.limit, queue, kind, size(most)],
                |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, queue, kind)),
            )?,
        };
        if takes_room { &mut look.live } else { &mut look.others }.extend(waiters);
        Ok(())
    }

    /// Looks at lanes of the queues that some server serves, as far as a step goes.
    fn look_at_served(&self, look: &mut Look) -> Done {
        let mut lanes = LANES_AT_ONCE;
        let mut queue = i64::MIN;
        for _ in 0..LANES_AT_ONCE {
            let next = self.db.one(
                "SELECT name FROM jk_serves INDEXED BY jk_serves_of \
                 WHERE of_kind = 0 AND name > ?1 ORDER BY name LIMIT 1",
                [queue],
                |row| row.get::<_, i64>(0),
            )?;
            let Some(next) = next else { break };
            queue = next;
            let mut kind = i64::MIN;
            while lanes > 0
                && let Some(next) = self.next_parked_kind(look.limit, (queue, kind))?
            {
                lanes -= 1;
                kind = next;
                self.look_at_lane(look, (queue, kind))?;
            }
        }
        Ok(())
    }

    /// How many of a lane were let go and are not claimed yet, as far as it matters.
    fn admitted_in(&self, limit: i64, (queue, kind): (i64, i64), most: usize) -> Done<usize> {
        let admitted = self.db.all(
            "SELECT 1 FROM jk_admitted INDEXED BY jk_admitted_lane \
             WHERE lim = ?1 AND queue = ?2 AND kind = ?3 LIMIT ?4",
            [limit, queue, kind, size(most)],
            |_| Ok(()),
        )?;
        Ok(admitted.len())
    }

    /// Whether what was let go of a lane by an instant has not been claimed yet.
    fn is_unclaimed(&self, limit: i64, (queue, kind): (i64, i64), since: i64) -> Done<bool> {
        let unclaimed = self.db.one(
            "SELECT 1 FROM jk_admitted INDEXED BY jk_admitted_lane \
             WHERE lim = ?1 AND queue = ?2 AND kind = ?3 AND at <= ?4 LIMIT 1",
            [limit, queue, kind, since],
            |_| Ok(()),
        )?;
        Ok(unclaimed.is_some())
    }

    /// The next lane of which jobs are parked at a limit.
    fn next_parked_lane(&self, limit: i64, (queue, kind): (i64, i64)) -> Done<Option<(i64, i64)>> {
        if let Some(kind) = self.next_parked_kind(limit, (queue, kind))? {
            return Ok(Some((queue, kind)));
        }
        Ok(self.db.one(
            "SELECT queue, kind FROM jk_job INDEXED BY jk_parked_lane \
             WHERE state = 2 AND parked IS NOT NULL AND parked = ?1 AND queue > ?2 \
             ORDER BY queue, kind LIMIT 1",
            [limit, queue],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?)
    }

    /// The next kind of such a lane in the same queue.
    fn next_parked_kind(&self, limit: i64, (queue, kind): (i64, i64)) -> Done<Option<i64>> {
        Ok(self.db.one(
            "SELECT kind FROM jk_job INDEXED BY jk_parked_lane \
             WHERE state = 2 AND parked IS NOT NULL AND parked = ?1 AND queue = ?2 AND kind > ?3 \
             ORDER BY kind LIMIT 1",
            [limit, queue, kind],
            |row| row.get(0),
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
        let read = Job::read(db, row).and_then(|job| Ok((job.limits()?, job)));
        let (limits, job) = match read {
            Err(fault) if fault.is_damage() => {
                tell_of_damage(row.get(0)?, &fault);
                continue;
            }
            read => read?,
        };
        if limits.iter().any(|limit| limit.name == name) {
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
