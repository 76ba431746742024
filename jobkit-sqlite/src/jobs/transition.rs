//! Applying what the state machine computes, with everything that goes with it.

use std::time::Duration;

use jobkit_core::edge::{Decision, On, Parent};
use jobkit_core::record::retention_of;
use jobkit_core::state::{Reason, Retention, State, StateName};
use jobkit_core::state_machine::{Event, Forbidden, Situation, Transition, apply};
use jobkit_core::unique::{Unique, Until, is_held};
use jobkit_core::{JobId, Timestamp};
use rusqlite::params;

use crate::codec::{
    CHILDREN, ENDED, Job, STARTED, TIMED, at, bytes16, on_number, select_job, size,
};
use crate::error::{Done, tell_of_damage};
use crate::jobs::alike::Before;
use crate::sweep::{Mark, Verdict};
use crate::writer::{Flight, Push};

/// What a transition needs to know beside head and event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Why<'a> {
    pub(crate) now: Timestamp,
    /// The person whose doing it is.
    pub(crate) actor: Option<&'a str>,
    /// How long the handler ran.
    pub(crate) duration: Option<Duration>,
    /// Instead of what the job carries itself.
    pub(crate) retention: Option<Retention>,
}

impl Why<'_> {
    pub(crate) fn at(now: Timestamp) -> Self {
        Self { now, actor: None, duration: None, retention: None }
    }
}

/// How many children a step may still decide.
#[derive(Debug)]
pub(crate) struct Budget(pub(crate) usize);

impl Flight<'_, '_> {
    pub(crate) fn load(&self, seq: i64) -> Done<Option<Job>> {
        let mut statement = self.db.prepare(select_job!("WHERE seq = ?1"))?;
        let mut rows = statement.query([seq])?;
        rows.next()?.map(|row| Job::read(self.db, row)).transpose()
    }

    pub(crate) fn find(&self, id: JobId) -> Done<Option<Job>> {
        let mut statement = self.db.prepare(select_job!("WHERE id = ?1"))?;
        let mut rows = statement.query([&id.as_bytes()[..]])?;
        rows.next()?.map(|row| Job::read(self.db, row)).transpose()
    }

    /// What the state machine says to `event`.
    pub(crate) fn plan(
        &mut self,
        job: &Job,
        event: &Event,
        why: &Why<'_>,
    ) -> Done<Result<Transition, Forbidden>> {
        let batch_cancelled = match job.batch {
            Some(batch) => self.batch_is_cancelled(batch)?,
            None => false,
        };
        let retention = match why.retention {
            Some(retention) => retention,
            // Extras that cannot be read must not keep the job from ending.
            None => retention_of(job.extras().ok().flatten().as_deref()),
        };
        Ok(apply(&job.head, event, &Situation { now: why.now, retention, batch_cancelled }))
    }

    /// Applies `event` to a job, with all effects but the decisions about children and batches, which
    /// wait for [`cascade`](Self::cascade).
    pub(crate) fn step(
        &mut self,
        job: &mut Job,
        event: &Event,
        why: &Why<'_>,
    ) -> Done<Result<Transition, Forbidden>> {
        let planned = self.plan(job, event, why)?;
        if let Ok(transition) = &planned {
            self.enact(job, transition, why)?;
        }
        Ok(planned)
    }

    /// Writes a planned transition.
    pub(crate) fn enact(&mut self, job: &mut Job, step: &Transition, why: &Why<'_>) -> Done {
        let before = Before::of(job);
        self.db.forget_claimed(job.seq);
        let (from, to) = (step.from, step.head.state.name());
        let effects = step.effects;
        let now = why.now;
        let is_claim = from == StateName::Enqueued && to == StateName::Processing;
        let ends_claim = from == StateName::Processing && to != StateName::Processing;
        let waited = match (ends_claim, job.claimed_at, job.enqueued_at) {
            (true, Some(claimed), Some(enqueued)) => Some(claimed.since(enqueued)),
            _ => None,
        };

        // The columns hold a whole cycle, queue to end, if it is a plain one.
        let mut in_columns = false;
        if effects.history {
            if is_claim && job.is_plainly_enqueued() {
                job.was = Some(job.head.reason);
                in_columns = true;
            } else if ends_claim && job.was.is_some() && to != StateName::Enqueued {
                in_columns = true;
            } else {
                job.keep_tail(self.db)?;
            }
            job.set(ENDED, ends_claim);
            job.set(TIMED, ends_claim && why.duration.is_some());
            job.actor = why.actor.map(str::to_owned);
        }
        job.head = step.head.clone();
        if ends_claim {
            job.duration = why.duration.or(job.duration);
        }
        if let State::Processing(hold) = &job.head.state {
            let (claimed_at, started) = (hold.claimed_at, hold.started);
            if is_claim {
                job.claimed_at = Some(claimed_at);
                job.server = Some(self.db.intern(&hold.server)?);
            }
            job.set(STARTED, started);
        }
        if to == StateName::Enqueued && effects.history {
            job.enqueued_at = Some(now);
        }
        if let Some(expires_at) = effects.expires_at {
            job.expires_at = expires_at;
        }
        if from == StateName::Enqueued && job.limits.is_some() {
            self.leave_line(job, to, now)?;
        }
        match (&job.head.state, in_columns) {
            (State::Processing(hold), true) => self.write_claim(job, hold, before)?,
            (state, true) if state.is_finished() => self.write_end(job, before)?,
            _ => job.write(self.db)?,
        }

        if effects.history && !is_claim {
            let (queue, kind) = self.lane(job.queue, job.kind)?;
            let reason = job.head.reason;
            let delta = self.delta(now);
            if ends_claim {
                delta.count_end_of_claim(&queue, &kind, to, reason, waited, why.duration);
            } else {
                delta.count(&queue, &kind, Some(from), to, reason);
            }
        }
        if effects.frees_slots && job.limits.is_some() {
            for limit in job.limits()? {
                self.free_slot(&limit.name)?;
            }
        }
        if (effects.frees_key || effects.frees_key_at_start) && job.unique.is_some() {
            self.free_key(job, effects.frees_key)?;
        }
        if let Some(batch) = job.batch
            && (effects.finished.is_some() || effects.reopened.is_some())
        {
            self.recount(batch, effects.reopened, effects.finished)?;
        }
        if let Some(finish) = effects.finished {
            if job.has(CHILDREN) {
                let verdict = Verdict::of(|on| on.decide(finish));
                self.ended.push_back((Parent::Job(job.id), verdict));
            }
            self.pushes.push(Push::Finished(job.id));
        }
        self.work |= effects.claimable;
        match &job.head.state {
            State::Scheduled { run_at } if effects.history => self.pushes.push(Push::Due(*run_at)),
            State::Processing(hold) if !is_claim && hold.cancel.is_some() => {
                self.pushes.push(Push::Cancel(job.id));
            }
            _ => {}
        }
        Ok(())
    }

    /// Frees the unique key of a job, if it holds it and not for a period: in any case, or at its start.
    fn free_key(&mut self, job: &Job, in_any_case: bool) -> Done {
        match job.unique() {
            Ok(Some(unique)) if in_any_case || unique.until == Until::Started => {
                self.db.run(
                    "DELETE FROM jk_ukey WHERE hash = ?1 AND job = ?2 AND until IS NULL",
                    params![&unique.hash().0[..], job.seq],
                )?;
            }
            Ok(_) => {}
            // The key cannot be read any more: look for it by its holder.
            Err(_) if in_any_case => {
                self.db.run("DELETE FROM jk_ukey WHERE job = ?1 AND until IS NULL", [job.seq])?;
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// The job that holds a key: its place, and its id, since one that holds it for a period may be
    /// gone.
    pub(crate) fn key_holder(&self, hash: &[u8; 16], now: Timestamp) -> Done<Option<(i64, JobId)>> {
        let held = self.db.one(
            "SELECT job, holder, until, taken_at FROM jk_ukey WHERE hash = ?1",
            params![&hash[..]],
            |row| {
                let holder = row.get_ref(1)?.as_blob_or_null()?;
                let (until, taken_at) =
                    (row.get::<_, Option<i64>>(2)?, row.get::<_, Option<i64>>(3)?);
                let is_held = is_held(until.map(at), taken_at.map(at), now);
                let holder = holder.map(|id| JobId::from_bytes(bytes16(id)));
                Ok(is_held.then_some((row.get::<_, i64>(0)?, holder)))
            },
        )?;
        Ok(match held.flatten() {
            Some((seq, Some(holder))) => Some((seq, holder)),
            Some((seq, None)) => self.load(seq)?.map(|job| (seq, job.id)),
            None => None,
        })
    }

    /// Gives a key to a job, whoever held it.
    pub(crate) fn take_key(&self, unique: &Unique, seq: i64, id: JobId, now: Timestamp) -> Done {
        let until = unique.held_until(now).map(Timestamp::as_micros);
        self.db.run(
            "INSERT OR REPLACE INTO jk_ukey (hash, job, until, holder, taken_at) \
             VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                &unique.hash().0[..],
                seq,
                until,
                until.map(|_| &id.as_bytes()[..]),
                until.map(|_| now.as_micros())
            ],
        )?;
        Ok(())
    }

    /// Ends a step: decides what waits for the jobs and batches that finished, and lets go who waits
    /// at limits that have room.
    pub(crate) fn cascade(&mut self, now: Timestamp, budget: &mut Budget) -> Done {
        self.decide_finished(now, budget)?;
        self.refill(now)
    }

    /// Decides what waits for the jobs and batches that finished, as far as the budget goes; the rest
    /// is marked for sweeps. Parents decide in the order in which they end (BAT-9): a batch ends with
    /// its last member, before anything that this member decides.
    pub(crate) fn decide_finished(&mut self, now: Timestamp, budget: &mut Budget) -> Done {
        loop {
            self.settle_batches(now)?;
            let Some((parent, verdict)) = self.ended.pop_front() else { return Ok(()) };
            self.decide_or_mark(parent, verdict, now, budget)?;
        }
    }

    /// Decides what waits for a parent that ended, and marks what the budget does not suffice for.
    fn decide_or_mark(
        &mut self,
        parent: Parent,
        verdict: Verdict,
        now: Timestamp,
        budget: &mut Budget,
    ) -> Done {
        let until = self.last_seq()?;
        // An earlier end of the same parent decides first.
        if self.is_marked(parent)? || self.decide_children(parent, verdict, until, now, budget)? {
            self.mark_from(&Mark::Decide { parent, verdict }, 0, until)?;
        }
        Ok(())
    }

    /// Decides undecided edges from a parent; whether some are left since the budget is used up.
    pub(crate) fn decide_children(
        &mut self,
        parent: Parent,
        verdict: Verdict,
        until: i64,
        now: Timestamp,
        budget: &mut Budget,
    ) -> Done<bool> {
        let (id, is_batch) = match &parent {
            Parent::Job(id) => (id.as_bytes(), 0),
            Parent::Batch(id) => (id.as_bytes(), 1),
        };
        // In the order of BAT-9.
        for on in [On::Any, On::Success, On::Failed] {
            let met = match verdict.decide(on) {
                Decision::Open => continue,
                Decision::Met => true,
                Decision::Unmeetable => false,
            };
            loop {
                let page = budget.0.min(100);
                let edges = self.db.all(
                    "SELECT child, n FROM jk_edge INDEXED BY jk_edge_open \
                     WHERE decided = 0 AND parent = ?1 AND batch = ?2 AND cond = ?3 AND child <= ?4 \
                     ORDER BY child LIMIT ?5",
                    params![&id[..], is_batch, on_number(on), until, size(page.max(1))],
                    |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
                )?;
                if edges.is_empty() {
                    break;
                }
                if budget.0 == 0 {
                    return Ok(true);
                }
                for (child, n) in edges {
                    budget.0 = budget.0.saturating_sub(1);
                    self.db.run(
                        "UPDATE jk_edge SET decided = 1 WHERE child = ?1 AND n = ?2",
                        [child, n],
                    )?;
                    self.decided(child, met, Reason::Unmeetable, now)?;
                }
            }
        }
        Ok(false)
    }

    /// Tells a child that one of the things it waits for was decided.
    pub(crate) fn decided(
        &mut self,
        child: i64,
        met: bool,
        otherwise: Reason,
        now: Timestamp,
    ) -> Done {
        let loaded = match self.load(child) {
            Err(fault) if fault.is_damage() => {
                tell_of_damage(child, &fault);
                let waits = "SELECT EXISTS (SELECT 1 FROM jk_job WHERE seq = ?1 AND state = 0)";
                // One that went on before, as by a run-now, may run.
                if self.db.one(waits, [child], |row| row.get(0))? == Some(true) {
                    self.give_up_unreadable(child, now)?;
                }
                return Ok(());
            }
            loaded => loaded?,
        };
        if let Some(mut child) = loaded
            && child.state() == StateName::Awaiting
        {
            // A refusal means that it no longer waits.
            let _ = self.step(&mut child, &Event::Decided { met, otherwise }, &Why::at(now))?;
        }
        Ok(())
    }
}
