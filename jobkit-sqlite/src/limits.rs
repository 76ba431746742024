//! `LimitStore`, and how slots are taken and freed.

mod lanes;
mod windows;

use async_trait::async_trait;
use jobkit_core::limit::{Limit, Window};
use jobkit_core::state::{State, StateName};
use jobkit_core::state_machine::Event;
use jobkit_core::storage::{LimitHolder, LimitStore, LimitUsage, ReleaseStuck};
use jobkit_core::{Error, JobId, Result, Timestamp, bounds};
use rusqlite::params;

use crate::codec::{Job, at, length, micros, select_job, size, small, uint};
use crate::connection::Db;
use crate::error::{Done, tell_of_damage};
use crate::jobs::transition::{Budget, Why};
use crate::storage::SqliteStorage;
use crate::writer::{Flight, Push};

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
use select_limit;

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
pub(crate) fn window_numbers(window: Option<Window>) -> (i64, i64) {
    let kind = match window {
        None => 0,
        Some(Window::Fixed(_)) => 1,
        // As strict as the strictest: a kind that this release does not know.
        Some(_) => 2,
    };
    (kind, window.map_or(0, |window| micros(window.length())))
}

pub(crate) fn window_at(kind: i64, len: i64) -> Option<Window> {
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

    fn limit_row(&self, name: &str) -> Done<Option<Row>> {
        Ok(self.db.one(select_limit!("WHERE name = ?1"), [name], Row::read)?)
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

    async fn release_stuck(&self, request: ReleaseStuck<'_>) -> Result<bool> {
        let ReleaseStuck { limit, job, crash_limit, now } = request;
        let limit = limit.to_owned();
        self.writer()
            .call("release_stuck", move |flight| {
                let now = flight.now(now);
                flight.release_stuck(&limit, job, crash_limit, now)
            })
            .await
    }
}

impl Flight<'_, '_> {
    /// Rescues a job that holds a limit under an expired lease.
    fn release_stuck(
        &mut self,
        limit: &str,
        id: JobId,
        crash_limit: u32,
        now: Timestamp,
    ) -> Done<bool> {
        let Some(mut job) = self.find(id)? else { return Ok(false) };
        let expired = matches!(&job.head.state, State::Processing(hold) if hold.expires_at <= now);
        let slots =
            self.db
                .one("SELECT 1 FROM jk_limit WHERE name = ?1 AND win = 0", [limit], |_| Ok(()))?;
        let holds = slots.is_some() && job.limits()?.iter().any(|it| it.name == limit);
        if !expired || !holds {
            return Ok(false);
        }
        // An expired lease can always be rescued.
        let _ = self.step(&mut job, &Event::Rescue { crash_limit }, &Why::at(now))?;
        self.cascade(now, &mut Budget(bounds::CHILDREN_IN_SETTLE))?;
        Ok(true)
    }
}
