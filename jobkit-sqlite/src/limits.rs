//! `LimitStore`, and how slots are taken and freed.

use async_trait::async_trait;
use jobkit_core::limit::Limit;
use jobkit_core::storage::{LimitHolder, LimitStore, LimitUsage};
use jobkit_core::{Result, Timestamp};
use rusqlite::{Row, params};

use crate::codec::{Job, at, select_job, size, small, uint};
use crate::connection::Db;
use crate::error::Done;
use crate::operations::Paused;
use crate::storage::SqliteStorage;
use crate::writer::Flight;

/// How many waiters of one queue are looked at beyond those that fit, to find some that are not
/// paused.
const LOOK_AHEAD: usize = 200;

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
            let found = self.limit_row(&limit.name)?;
            let (id, max, used) = match found {
                Some(row) => row,
                None => {
                    self.define_default(limit)?;
                    let defined = self.limit_row(&limit.name)?;
                    defined.unwrap_or((0, i64::from(limit.max), 0))
                }
            };
            if used >= max {
                return Ok(Some(id));
            }
            taken.push(id);
        }
        for id in taken {
            self.db.run("UPDATE jk_limit SET used = used + 1 WHERE id = ?1", [id])?;
        }
        Ok(None)
    }

    fn limit_row(&self, name: &str) -> Done<Option<(i64, i64, i64)>> {
        Ok(self.db.one("SELECT id, max, used FROM jk_limit WHERE name = ?1", [name], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?)
    }

    /// Frees a slot and makes the next waiters claimable.
    pub(crate) fn free_slot(&mut self, name: &str, now: Timestamp) -> Done {
        self.db.run("UPDATE jk_limit SET used = max(used - 1, 0) WHERE name = ?1", [name])?;
        if let Some((id, ..)) = self.limit_row(name)? {
            self.unpark(id, now)?;
        }
        Ok(())
    }

    pub(crate) fn count_waiting(&self, limit: i64, by: i64) -> Done {
        self.db
            .run("UPDATE jk_limit SET waiting = max(waiting + ?2, 0) WHERE id = ?1", [limit, by])?;
        Ok(())
    }

    pub(crate) fn park(&mut self, job: &Job, limit: i64) -> Done {
        self.db.run("UPDATE jk_job SET parked = ?2 WHERE seq = ?1", [job.seq, limit])?;
        self.count_waiting(limit, 1)
    }

    /// Makes as many waiters claimable as the limit has room for; how many.
    ///
    /// In their old order, those of paused queues and kinds last: they could not use the slot.
    pub(crate) fn unpark(&mut self, limit: i64, now: Timestamp) -> Done<usize> {
        let usage = self.db.one(
            "SELECT max, used, waiting FROM jk_limit WHERE id = ?1",
            [limit],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)),
        )?;
        let Some((max, used, waiting)) = usage else { return Ok(0) };
        let room = usize::try_from((max - used).min(waiting)).unwrap_or(0);
        if room == 0 {
            return Ok(0);
        }
        let paused = Paused::read(self.db, now)?;
        let none_paused = paused.queues.is_empty() && paused.kinds.is_empty();
        let look_at = if none_paused { room } else { room.saturating_add(LOOK_AHEAD) };
        let mut waiters = Vec::new();
        let mut queue = i64::MIN;
        while let Some(next) = self.db.one(
            "SELECT queue FROM jk_job INDEXED BY jk_parked \
             WHERE state = 2 AND parked IS NOT NULL AND parked = ?1 AND queue > ?2 \
             ORDER BY queue LIMIT 1",
            [limit, queue],
            |row| row.get(0),
        )? {
            queue = next;
            let rows = self.db.all(
                "SELECT rank, seq, kind FROM jk_job INDEXED BY jk_parked \
                 WHERE state = 2 AND parked IS NOT NULL AND parked = ?1 AND queue = ?2 \
                 ORDER BY rank, seq LIMIT ?3",
                [limit, queue, size(look_at)],
                |row| {
                    let paused = paused.queues.contains(&queue)
                        || paused.kinds.contains(&row.get::<_, i64>(2)?);
                    Ok((paused, row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
                },
            )?;
            waiters.extend(rows);
        }
        waiters.sort_unstable();
        waiters.truncate(room);
        for (_, _, seq) in &waiters {
            self.db.run("UPDATE jk_job SET parked = NULL WHERE seq = ?1", [seq])?;
        }
        self.count_waiting(limit, -size(waiters.len()))?;
        self.work |= !waiters.is_empty();
        Ok(waiters.len())
    }
}

fn usage(row: &Row<'_>) -> rusqlite::Result<LimitUsage> {
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
                if let Some((id, ..)) = flight.limit_row(&limit.name)? {
                    let now = flight.now(None);
                    flight.unpark(id, now)?;
                }
                Ok(())
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
