//! Bounded completion of what a step could not do at once.

use jobkit_core::edge::{Decision, On, Parent};
use jobkit_core::state::{Reason, StateName};
use jobkit_core::state_machine::Event;
use jobkit_core::storage::{Step, StepRequest};
use jobkit_core::{BatchId, JobId, Timestamp, bounds};
use rusqlite::params;

use crate::codec::{at, bytes16, int, select_job, size, uint};
use crate::error::Done;
use crate::jobs::read_jobs;
use crate::jobs::transition::{Budget, Why};
use crate::writer::Flight;

/// The most members or children that one step handles.
pub(crate) const STEP: usize = 500;

/// What the end of a parent means for edges of each condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict([Decision; 3]);

impl Verdict {
    pub(crate) fn of(decide: impl Fn(On) -> Decision) -> Self {
        Self([On::Success, On::Failed, On::Any].map(decide))
    }

    pub(crate) const fn decide(self, on: On) -> Decision {
        let [success, failed, any] = self.0;
        match on {
            On::Success => success,
            On::Failed => failed,
            On::Any => any,
        }
    }

    /// Two bits each.
    fn number(self) -> i64 {
        self.0.iter().rev().fold(0, |number, decision| {
            number << 2
                | match decision {
                    Decision::Open => 0,
                    Decision::Met => 1,
                    Decision::Unmeetable => 2,
                }
        })
    }

    fn at(number: i64) -> Self {
        Self([0, 2, 4].map(|shift| match number >> shift & 3 {
            1 => Decision::Met,
            2 => Decision::Unmeetable,
            _ => Decision::Open,
        }))
    }
}

/// Durable note of work that is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Edges from a parent that ended, with what its end meant when it came.
    Decide { parent: Parent, verdict: Verdict },
    /// Members of a batch that was started.
    Start { batch: BatchId },
    /// Members of a batch that was cancelled.
    Cancel { batch: BatchId },
    /// Members of a batch that was never started.
    Discard { batch: BatchId },
    /// Batches inside one that was started; places are numbers of batches.
    StartNested { batch: BatchId },
    /// Batches inside one that was cancelled.
    CancelNested { batch: BatchId },
    /// Batches inside one that was never started.
    DiscardNested { batch: BatchId },
}

impl Mark {
    fn row(&self) -> (i64, [u8; 16], i64) {
        match self {
            Self::Decide { parent: Parent::Job(job), verdict } => {
                (0, *job.as_bytes(), verdict.number())
            }
            Self::Decide { parent: Parent::Batch(batch), verdict } => {
                (1, *batch.as_bytes(), verdict.number())
            }
            Self::Start { batch } => (2, *batch.as_bytes(), 0),
            Self::Cancel { batch } => (3, *batch.as_bytes(), 0),
            Self::Discard { batch } => (4, *batch.as_bytes(), 0),
            Self::StartNested { batch } => (5, *batch.as_bytes(), 0),
            Self::CancelNested { batch } => (6, *batch.as_bytes(), 0),
            Self::DiscardNested { batch } => (7, *batch.as_bytes(), 0),
        }
    }

    fn of(what: i64, subject: [u8; 16], arg: i64) -> Self {
        let batch = BatchId::from_bytes(subject);
        let verdict = Verdict::at(arg);
        match what {
            0 => Self::Decide { parent: Parent::Job(JobId::from_bytes(subject)), verdict },
            1 => Self::Decide { parent: Parent::Batch(batch), verdict },
            2 => Self::Start { batch },
            3 => Self::Cancel { batch },
            4 => Self::Discard { batch },
            5 => Self::StartNested { batch },
            6 => Self::CancelNested { batch },
            _ => Self::DiscardNested { batch },
        }
    }

    /// The batch whose members or batches it is about.
    pub(crate) const fn batch(&self) -> Option<BatchId> {
        match self {
            Self::Decide { .. } => None,
            Self::Start { batch }
            | Self::Cancel { batch }
            | Self::Discard { batch }
            | Self::StartNested { batch }
            | Self::CancelNested { batch }
            | Self::DiscardNested { batch } => Some(*batch),
        }
    }

    /// The same for the batches inside.
    pub(crate) const fn of_nested(self) -> Self {
        match self {
            Self::Start { batch } => Self::StartNested { batch },
            Self::Cancel { batch } => Self::CancelNested { batch },
            Self::Discard { batch } => Self::DiscardNested { batch },
            other => other,
        }
    }
}

impl Flight<'_, '_> {
    pub(crate) fn mark_from(&self, mark: &Mark, done: i64, until: i64) -> Done {
        let (what, subject, arg) = mark.row();
        self.db.run(
            "INSERT INTO jk_mark (what, subject, arg, done, until) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![what, &subject[..], arg, done, until],
        )?;
        Ok(())
    }

    /// Whether edges from a parent are left to sweeps.
    pub(crate) fn is_marked(&self, parent: Parent) -> Done<bool> {
        let (what, subject) = match &parent {
            Parent::Job(job) => (0, job.as_bytes()),
            Parent::Batch(batch) => (1, batch.as_bytes()),
        };
        let marked = self.db.one(
            "SELECT 1 FROM jk_mark WHERE subject = ?1 AND what = ?2 LIMIT 1",
            params![&subject[..], what],
            |_| Ok(()),
        )?;
        Ok(marked.is_some())
    }

    /// Handles members after `done`, as many as there is room for; the last one handled if there may be
    /// more.
    pub(crate) fn members_step(
        &mut self,
        mark: &Mark,
        done: i64,
        until: i64,
        room: &mut Budget,
        now: Timestamp,
    ) -> Done<Option<i64>> {
        let (batch, event) = match mark {
            Mark::Start { batch } => {
                (batch, Event::Decided { met: true, otherwise: Reason::Unmeetable })
            }
            Mark::Cancel { batch } => (batch, Event::Delete(Reason::BatchCancelled)),
            Mark::Discard { batch } => (batch, Event::Delete(Reason::BatchDiscarded)),
            _ => return Ok(None),
        };
        let max = room.0;
        let mut members = read_jobs(
            self.db,
            select_job!(
                "INDEXED BY jk_member WHERE batch = ?1 AND seq > ?2 AND seq <= ?3 ORDER BY seq LIMIT ?4"
            ),
            params![&batch.as_bytes()[..], done, until, size(max + 1)],
        )?;
        let more = members.len() > max;
        members.truncate(max);
        room.0 -= members.len();
        let last = more.then(|| match members.last() {
            Some(Ok(job)) => job.seq,
            Some(Err(seq)) => *seq,
            None => done,
        });
        for mut job in members.into_iter().flatten() {
            // A start is meant for those that await it alone; finished jobs stay as they are.
            let meant = match (&event, job.state()) {
                (Event::Decided { .. }, state) => state == StateName::Awaiting,
                (_, state) => !state.is_finished(),
            };
            if meant {
                // A refusal means that it is being cancelled already.
                let _ = self.step(&mut job, &event, &Why::at(now))?;
            }
        }
        Ok(last)
    }

    /// One bounded step through marks, limits with room, and batches that were never started.
    pub(crate) fn sweep(&mut self, request: StepRequest) -> Done<Step> {
        let now = self.now(request.now);
        let mut budget = Budget(request.max.clamp(1, STEP));
        let mut done = 0;
        let mut limits_left = true;
        self.look_again = None;

        while budget.0 > 0 {
            let mark = self.db.one(
                "SELECT id, what, subject, arg, done, until FROM jk_mark ORDER BY id LIMIT 1",
                [],
                |row| {
                    let subject = bytes16(row.get_ref(2)?.as_blob()?);
                    let mark = Mark::of(row.get(1)?, subject, row.get(3)?);
                    Ok((row.get::<_, i64>(0)?, mark, row.get::<_, i64>(4)?, row.get::<_, i64>(5)?))
                },
            )?;
            let Some((id, mark, from, until)) = mark else { break };
            let before = budget.0;
            let rest = match mark {
                // Whoever cancelled it, or the one around it, has marked its own work behind this.
                Mark::Start { batch } | Mark::StartNested { batch }
                    if self.batch_is_cancelled(batch)? =>
                {
                    None
                }
                Mark::Decide { parent, verdict } => {
                    self.decide_children(parent, verdict, until, now, &mut budget)?.then_some(from)
                }
                Mark::Start { .. } | Mark::Cancel { .. } | Mark::Discard { .. } => {
                    self.members_step(&mark, from, until, &mut budget, now)?
                }
                Mark::StartNested { .. }
                | Mark::CancelNested { .. }
                | Mark::DiscardNested { .. } => {
                    self.nested_step(&mark, from, until, &mut budget, now)?
                }
            };
            done += (before - budget.0).max(1);
            match rest {
                Some(rest) => {
                    self.db.run("UPDATE jk_mark SET done = ?2 WHERE id = ?1", [id, rest])?;
                }
                None => {
                    self.db.run("DELETE FROM jk_mark WHERE id = ?1", [id])?;
                }
            }
            self.cascade(now, &mut budget)?;
        }

        if budget.0 > 0 {
            done += self.discard_batches(now, &mut budget)?;
            let from = self.meta("limits_from")?;
            let (admitted, next) = self.fill_limits(int(from), budget.0, now)?;
            done += admitted;
            limits_left = next.is_some();
            let next = uint(next.unwrap_or(0));
            if next != from {
                self.set_meta("limits_from", next)?;
            }
        }
        let more = self.db.one("SELECT 1 FROM jk_mark LIMIT 1", [], |_| Ok(()))?.is_some();
        let filling = self.db.one(
            "SELECT min(attached_at) FROM jk_batch INDEXED BY jk_batch_filling \
             WHERE started_at IS NULL AND with_parent = 0",
            [],
            |row| row.get::<_, Option<i64>>(0),
        )?;
        let discard_at = filling.flatten().map(|since| at(since).plus(bounds::BATCH_FILLING));
        let next_at = discard_at.into_iter().chain(self.look_again).min();
        Ok(Step {
            done,
            more: more || limits_left || discard_at.is_some_and(|at| at <= now),
            next_in: next_at.map(|at| at.since(now)),
        })
    }

    /// Discards batches that were not started in time.
    fn discard_batches(&mut self, now: Timestamp, budget: &mut Budget) -> Done<usize> {
        let stale = self.db.all(
            "SELECT id FROM jk_batch INDEXED BY jk_batch_filling \
             WHERE started_at IS NULL AND with_parent = 0 AND attached_at <= ?1 ORDER BY attached_at, id LIMIT 10",
            [now.minus(bounds::BATCH_FILLING).as_micros()],
            |row| Ok(BatchId::from_bytes(bytes16(row.get_ref(0)?.as_blob()?))),
        )?;
        for batch in &stale {
            // One of them may have stood inside another one, and gone with that.
            if !self.is_filling(*batch)? {
                continue;
            }
            self.end_batch(Mark::Discard { batch: *batch }, now, budget)?;
            self.cascade(now, &mut Budget(bounds::CHILDREN_IN_SETTLE))?;
        }
        Ok(stale.len())
    }
}
