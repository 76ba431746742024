//! `LimitStore`, and how slots are taken and freed.

use std::collections::HashMap;

use async_trait::async_trait;
use jobkit_core::limit::Limit;
use jobkit_core::state::StateName;
use jobkit_core::storage::{LimitHolder, LimitStore, LimitUsage};
use jobkit_core::{Error, Result, Timestamp};
use rusqlite::params;

use crate::codec::{Job, at, index, select_job, size, small, uint};
use crate::connection::Db;
use crate::error::Done;
use crate::operations::Paused;
use crate::storage::SqliteStorage;
use crate::writer::Flight;

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
}

/// The columns of a [`Row`].
macro_rules! select_limit {
    ($rest:literal) => {
        concat!("SELECT id, max, used, waiting FROM jk_limit ", $rest)
    };
}

impl Row {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self { id: row.get(0)?, max: row.get(1)?, used: row.get(2)?, waiting: row.get(3)? })
    }
}

impl Flight<'_, '_> {
    /// The first submit that names a limit defines it.
    pub(crate) fn define_default(&self, limit: &Limit) -> Done {
        self.db.run(
            "INSERT INTO jk_limit (name, max) VALUES (?1, ?2) ON CONFLICT (name) DO NOTHING",
            params![limit.name, limit.max],
        )?;
        Ok(())
    }

    /// Takes a slot of every limit, or of none: then the number of the first that is full.
    pub(crate) fn take_slots(&self, limits: &[Limit]) -> Done<Option<i64>> {
        let mut taken = Vec::with_capacity(limits.len());
        for limit in limits {
            let row = match self.limit_row(&limit.name)? {
                Some(row) => row,
                None => {
                    self.define_default(limit)?;
                    self.limit_row(&limit.name)?
                        .ok_or_else(|| Error::corrupt("a limit was not kept"))?
                }
            };
            if self.room(&row) == 0 {
                return Ok(Some(row.id));
            }
            taken.push(row.id);
        }
        for id in taken {
            self.db.run("UPDATE jk_limit SET used = used + 1 WHERE id = ?1", [id])?;
        }
        Ok(None)
    }

    fn limit_row(&self, name: &str) -> Done<Option<Row>> {
        Ok(self.db.one(select_limit!("WHERE name = ?1"), [name], Row::read)?)
    }

    /// How many more may take it now.
    fn room(&self, row: &Row) -> usize {
        index((row.max - row.used).max(0))
    }

    /// Frees a slot; who waits for it is let go when the step ends.
    pub(crate) fn free_slot(&mut self, name: &str) -> Done {
        let freed = self.db.one(
            "UPDATE jk_limit SET used = max(used - 1, 0) WHERE name = ?1 RETURNING id, waiting",
            [name],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
        )?;
        self.refills.extend(freed.filter(|(_, waiting)| *waiting > 0).map(|(id, _)| id));
        Ok(())
    }

    fn count_waiting(&self, limit: i64, by: i64) -> Done {
        self.db
            .run("UPDATE jk_limit SET waiting = max(waiting + ?2, 0) WHERE id = ?1", [limit, by])?;
        Ok(())
    }

    pub(crate) fn park(&mut self, job: &Job, limit: i64) -> Done {
        self.db.run("UPDATE jk_job SET parked = ?2 WHERE seq = ?1", [job.seq, limit])?;
        self.count_waiting(limit, 1)?;
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
             WHERE waiting > 0 AND (win > 0 OR used < max) AND id > ?1 ORDER BY id LIMIT ?2",
            [from, size(LIMITS_SWEPT)],
            |row| row.get::<_, i64>(0),
        )?;
        let full = limits.len() == LIMITS_SWEPT;
        let mut done = 0;
        for limit in limits {
            done += self.admit(limit, now, max - done)?;
            if done >= max {
                // There may be more at this one.
                return Ok((done, Some(from)));
            }
            from = limit;
        }
        Ok((done, full.then_some(from)))
    }

    /// Makes the next waiters of a limit claimable, as many as have room; how many.
    ///
    /// Those that a live server would take, in the order of claims, less those that were let go before
    /// and are not claimed yet. What no live server takes, since nobody serves it or it is paused,
    /// holds no slot while it stands in line: it takes nothing of that room, and each such lane is let
    /// go as far as there is room for it alone, so that a server that comes finds it claimable.
    fn admit(&mut self, limit: i64, now: Timestamp, max: usize) -> Done<usize> {
        let row = self.db.one(select_limit!("WHERE id = ?1"), [limit], Row::read)?;
        let Some(row) = row.filter(|row| row.waiting > 0) else { return Ok(0) };
        let room = self.room(&row);
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

fn usage(row: &rusqlite::Row<'_>) -> rusqlite::Result<LimitUsage> {
    Ok(LimitUsage {
        limit: Limit::new(row.get::<_, String>(0)?, small(row.get(1)?)),
        used: small(row.get(2)?),
        waiting: uint(row.get(3)?),
        defined_by_operator: row.get::<_, i64>(4)? != 0,
    })
}

fn holders(db: &Db<'_>, name: &str, limit: usize) -> Done<Vec<LimitHolder>> {
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
                flight.db.run(
                    "INSERT INTO jk_limit (name, max, by_operator) VALUES (?1, ?2, 1) \
                     ON CONFLICT (name) DO UPDATE SET max = excluded.max, by_operator = 1",
                    params![limit.name, limit.max],
                )?;
                let now = flight.now(None);
                flight.refills.extend(flight.limit_row(&limit.name)?.map(|row| row.id));
                flight.refill(now)
            })
            .await
    }

    async fn limits(&self, after: Option<&str>, limit: usize) -> Result<Vec<LimitUsage>> {
        let after = after.unwrap_or_default().to_owned();
        self.read("limits", move |db| {
            Ok(db.all(
                "SELECT name, max, used, waiting, by_operator FROM jk_limit \
                 WHERE name > ?1 ORDER BY name LIMIT ?2",
                params![after, size(limit)],
                usage,
            )?)
        })
        .await
    }

    async fn limit(&self, name: &str) -> Result<Option<LimitUsage>> {
        let name = name.to_owned();
        self.read("limit", move |db| {
            Ok(db.one(
                "SELECT name, max, used, waiting, by_operator FROM jk_limit WHERE name = ?1",
                [name],
                usage,
            )?)
        })
        .await
    }

    async fn limit_holders(&self, name: &str, limit: usize) -> Result<Vec<LimitHolder>> {
        let name = name.to_owned();
        self.read("limit_holders", move |db| holders(db, &name, limit)).await
    }
}
