//! Rows of jobs.

use std::time::Duration;

use jobkit_core::limit::Limit;
use jobkit_core::record::{Extras, History, HistoryEntry, JobRecord};
use jobkit_core::state::{Hold, Reason, Start, State, StateName};
use jobkit_core::state_machine::JobHead;
use jobkit_core::unique::Unique;
use jobkit_core::{BatchId, Incarnation, JobId, OperationId, Timestamp};
use rusqlite::types::ValueRef;
use rusqlite::{Row, params};

use super::sql_text::{columns, sql};
use super::{
    at, bytes16, int, job_id, json, length, micros, priority_at, rank_of, reason_at, size, small,
    start_at, state_at, to_json, uint,
};
use crate::connection::Db;
use crate::error::SqlResult;

/// The attempt is known to have started.
pub(crate) const STARTED: i64 = 1;
/// There are edges to children.
pub(crate) const CHILDREN: i64 = 2;
/// Other tables have rows of the job: overflow, errors, log lines, progress, memos, a checkpoint.
pub(crate) const HAS_SIDE_ROWS: i64 = 4;
/// The result is in `jk_payload`, since it is too large for the row.
pub(crate) const RESULT_OVERFLOWS: i64 = 8;
/// The present state was entered by the end of an attempt.
pub(crate) const ENDED: i64 = 16;
/// That attempt's duration is known.
pub(crate) const TIMED: i64 = 32;

/// Arguments and results larger than this overflow into `jk_payload`: the row is rewritten at every
/// transition.
pub(crate) const INLINE_BYTES: usize = 1024;

/// The row of `jk_payload` for the arguments of a job.
pub(crate) const fn args_overflow_id(seq: i64) -> i64 {
    seq.wrapping_mul(2)
}

/// The row of `jk_payload` for the result of a job.
pub(crate) const fn result_overflow_id(seq: i64) -> i64 {
    args_overflow_id(seq).wrapping_add(1)
}

/// A job's row without arguments, result and older history.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Job {
    pub(crate) seq: i64,
    pub(crate) id: JobId,
    pub(crate) queue: i64,
    pub(crate) kind: i64,
    pub(crate) priority: u8,
    pub(crate) flags: i64,
    pub(crate) head: JobHead,
    pub(crate) created_at: Timestamp,
    pub(crate) enqueued_at: Option<Timestamp>,
    pub(crate) claimed_at: Option<Timestamp>,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) duration: Option<Duration>,
    pub(crate) start_by: Option<Timestamp>,
    pub(crate) parked: Option<i64>,
    pub(crate) was: Option<Reason>,
    pub(crate) server: Option<i64>,
    pub(crate) batch: Option<BatchId>,
    pub(crate) parents: u32,
    pub(crate) last_op: Option<OperationId>,
    pub(crate) actor: Option<String>,
    pub(crate) tags: Option<String>,
    pub(crate) unique: Option<String>,
    pub(crate) limits: Option<String>,
    pub(crate) extras: Option<String>,
    /// The text that must be written to the history column.
    pub(crate) history: Option<History>,
}

columns! {
    /// The columns that [`Job::read`] reads, and their number, `COUNT`: what a query adds begins there.
    column, job_columns,
    SEQ = "seq",
    ID = "id",
    STATE = "state",
    REASON = "reason",
    QUEUE = "queue",
    KIND = "kind",
    RANK = "rank",
    FLAGS = "flags",
    FENCE = "fence",
    FAILURES = "failures",
    CRASHES = "crashes",
    RUN = "run",
    VERSION = "version",
    ENTERED_AT = "entered_at",
    CREATED_AT = "created_at",
    ENQUEUED_AT = "enqueued_at",
    CLAIMED_AT = "claimed_at",
    RUN_AT = "run_at",
    EXPIRES_AT = "expires_at",
    DURATION = "duration",
    START = "start",
    START_BY = "start_by",
    OPEN = "open",
    PARKED = "parked",
    WAS = "was",
    SERVER = "server",
    INCARNATION = "incarnation",
    CLAIM_SEQ = "claim_seq",
    LEASE_UNTIL = "lease_until",
    CANCEL = "cancel",
    SETTLED_FENCE = "settled_fence",
    SETTLED_BY = "settled_by",
    BATCH = "batch",
    PARENTS = "parents",
    LAST_OP = "last_op",
    ACTOR = "actor",
    TAGS = "tags",
    UNIQ = "uniq",
    LIMITS = "limits",
    EXTRAS = "extras",
    // NULL for most of the jobs that are claimed: then these columns need not be read one by one.
    RARE = "COALESCE(run_at, expires_at, duration, start, start_by, open, parked, was, server, \
        settled_fence, batch, last_op, actor, tags, uniq, limits, extras, claimed_at)",
}

/// Selects the columns of a job, and then whatever the query adds.
macro_rules! select_job {
    ($rest:literal) => {
        select_job!("", $rest)
    };
    ($more:literal, $rest:literal) => {
        $crate::codec::sql_text::sql!(concat!(
            "SELECT ",
            $crate::codec::job_row::job_columns!(),
            $more,
            " FROM jk_job ",
            $rest
        ))
    };
}
pub(crate) use select_job;

impl Job {
    /// Reads a row of `select_job!`.
    pub(crate) fn read(db: &Db<'_>, row: &Row<'_>) -> SqlResult<Self> {
        let state = match state_at(row.get(column::STATE)?)? {
            StateName::Awaiting => State::Awaiting {
                open: small(row.get::<_, Option<i64>>(column::OPEN)?.unwrap_or(1)),
            },
            StateName::Scheduled => State::Scheduled {
                run_at: at(row.get::<_, Option<i64>>(column::RUN_AT)?.unwrap_or(0)),
            },
            StateName::Enqueued => State::Enqueued,
            StateName::Processing => State::Processing(Hold {
                server: db.name(row.get(column::SERVER)?)?,
                incarnation: Incarnation::from_i64(row.get(column::INCARNATION)?),
                claim_sequence: uint(row.get(column::CLAIM_SEQ)?),
                claimed_at: at(row.get(column::CLAIMED_AT)?),
                expires_at: at(row.get(column::LEASE_UNTIL)?),
                started: row.get::<_, i64>(column::FLAGS)? & STARTED != 0,
                cancel: row.get::<_, Option<i64>>(column::CANCEL)?.map(reason_at),
            }),
            StateName::Succeeded => State::Succeeded,
            StateName::Failed => State::Failed,
            StateName::Deleted => State::Deleted,
        };
        let mut job = Self::read_common(row, state)?;
        if job.head.state == State::Enqueued && row.get_ref(column::RARE)? == ValueRef::Null {
            return Ok(job);
        }
        let instant = |index| -> rusqlite::Result<_> {
            Ok(row.get::<_, Option<i64>>(index)?.map(Timestamp::from_micros))
        };
        if let Some(fence) = row.get::<_, Option<i64>>(column::SETTLED_FENCE)? {
            job.head.settled =
                Some((uint(fence), Incarnation::from_i64(row.get(column::SETTLED_BY)?)));
        }
        job.head.start = start_at(row.get(column::START)?);
        job.claimed_at = instant(column::CLAIMED_AT)?;
        job.expires_at = instant(column::EXPIRES_AT)?;
        job.duration = row.get::<_, Option<i64>>(column::DURATION)?.map(length);
        job.start_by = instant(column::START_BY)?;
        job.parked = row.get(column::PARKED)?;
        job.was = row.get::<_, Option<i64>>(column::WAS)?.map(reason_at);
        job.server = row.get(column::SERVER)?;
        let batch = row.get_ref(column::BATCH)?.as_blob_or_null().map_err(rusqlite::Error::from)?;
        job.batch = batch.map(|bytes| BatchId::from_bytes(bytes16(bytes)));
        let last_op =
            row.get_ref(column::LAST_OP)?.as_blob_or_null().map_err(rusqlite::Error::from)?;
        job.last_op = last_op.map(|bytes| OperationId::from_bytes(bytes16(bytes)));
        job.actor = row.get(column::ACTOR)?;
        job.tags = row.get(column::TAGS)?;
        job.unique = row.get(column::UNIQ)?;
        job.limits = row.get(column::LIMITS)?;
        job.extras = row.get(column::EXTRAS)?;
        Ok(job)
    }

    /// The columns that every job has. A simple enqueued job has no others.
    fn read_common(row: &Row<'_>, state: State) -> SqlResult<Self> {
        Ok(Self {
            seq: row.get(column::SEQ)?,
            id: job_id(row, column::ID)?,
            queue: row.get(column::QUEUE)?,
            kind: row.get(column::KIND)?,
            priority: priority_at(row.get(column::RANK)?),
            flags: row.get(column::FLAGS)?,
            head: JobHead {
                state,
                reason: reason_at(row.get(column::REASON)?),
                entered_at: at(row.get(column::ENTERED_AT)?),
                fence: uint(row.get(column::FENCE)?),
                failures: small(row.get(column::FAILURES)?),
                crashes: small(row.get(column::CRASHES)?),
                run: small(row.get(column::RUN)?),
                version: uint(row.get(column::VERSION)?),
                settled: None,
                start: Start::Now,
            },
            created_at: at(row.get(column::CREATED_AT)?),
            enqueued_at: row
                .get::<_, Option<i64>>(column::ENQUEUED_AT)?
                .map(Timestamp::from_micros),
            claimed_at: None,
            expires_at: None,
            duration: None,
            start_by: None,
            parked: None,
            was: None,
            server: None,
            batch: None,
            parents: small(row.get(column::PARENTS)?),
            last_op: None,
            actor: None,
            tags: None,
            unique: None,
            limits: None,
            extras: None,
            history: None,
        })
    }

    pub(crate) fn state(&self) -> StateName {
        self.head.state.name()
    }

    pub(crate) fn has(&self, flag: i64) -> bool {
        self.flags & flag != 0
    }

    pub(crate) fn set(&mut self, flag: i64, on: bool) {
        if on {
            self.flags |= flag;
        } else {
            self.flags &= !flag;
        }
    }

    pub(crate) fn unique(&self) -> SqlResult<Option<Unique>> {
        self.unique.as_deref().map(json).transpose()
    }

    /// In the order of their names, which is the order in which they are taken.
    pub(crate) fn limits(&self) -> SqlResult<Vec<Limit>> {
        let mut limits: Vec<Limit> =
            self.limits.as_deref().map(json).transpose()?.unwrap_or_default();
        limits.sort();
        Ok(limits)
    }

    pub(crate) fn extras(&self) -> SqlResult<Option<Box<Extras>>> {
        self.extras.as_deref().map(json).transpose()
    }

    pub(crate) fn tags(&self) -> SqlResult<Vec<String>> {
        Ok(self.tags.as_deref().map(json).transpose()?.unwrap_or_default())
    }

    /// The record as callers see it.
    pub(crate) fn record(self, db: &Db<'_>) -> SqlResult<JobRecord> {
        let parked_at = match self.parked {
            Some(limit) => {
                db.one("SELECT name FROM jk_limit WHERE id = ?1", [limit], |row| row.get(0))?
            }
            None => None,
        };
        Ok(JobRecord {
            id: self.id,
            sequence: uint(self.seq),
            kind: db.name(self.kind)?,
            queue: db.name(self.queue)?,
            priority: self.priority,
            created_at: self.created_at,
            enqueued_at: self.enqueued_at,
            claimed_at: self.claimed_at,
            duration: self.duration,
            expires_at: self.expires_at,
            start_by: self.start_by,
            parked_at,
            tags: self.tags()?,
            unique: self.unique()?,
            limits: self.limits()?,
            batch: self.batch,
            parents: self.parents,
            extras: self.extras()?,
            head: self.head,
        })
    }

    /// Whether the present state is Enqueued, and entered in a way that the columns can still express
    /// once the job is claimed.
    pub(crate) fn is_plainly_enqueued(&self) -> bool {
        self.head.state == State::Enqueued
            && !self.has(ENDED)
            && self.actor.is_none()
            && self.enqueued_at == Some(self.head.entered_at)
    }

    /// The transitions that the columns hold, oldest first: the present one, and if `was` is set, the
    /// claim and the entry into the queue before it.
    pub(crate) fn tail(&self, db: &Db<'_>) -> SqlResult<Vec<HistoryEntry>> {
        let server = self.server.map(|server| db.name(server)).transpose()?;
        let entry = |state, reason, at| HistoryEntry {
            state,
            reason,
            at,
            fence: None,
            server: None,
            duration: None,
            run_at: None,
            actor: None,
        };
        let mut tail = Vec::with_capacity(3);
        if let Some(reason) = self.was {
            let since = self.claimed_at.unwrap_or(self.head.entered_at);
            // A job that came back from its claim into the queue has overwritten this instant, and
            // never has `was`.
            tail.push(entry(StateName::Enqueued, reason, self.enqueued_at.unwrap_or(since)));
            if self.state() != StateName::Processing {
                tail.push(HistoryEntry {
                    fence: Some(self.head.fence),
                    server: server.clone(),
                    ..entry(StateName::Processing, Reason::Claimed, since)
                });
            }
        }
        let mut present = entry(self.state(), self.head.reason, self.head.entered_at);
        present.actor.clone_from(&self.actor);
        if let State::Scheduled { run_at } = self.head.state {
            present.run_at = Some(run_at);
        }
        let ended = self.has(ENDED);
        if ended || self.state() == StateName::Processing {
            present.fence = Some(self.head.fence);
            present.server = server;
        }
        if ended && self.has(TIMED) {
            present.duration = self.duration;
        }
        tail.push(present);
        Ok(tail)
    }

    /// The history as it was applied.
    pub(crate) fn history(&self, db: &Db<'_>) -> SqlResult<History> {
        let mut history = self.older_history(db)?;
        for entry in self.tail(db)? {
            history.push(entry);
        }
        Ok(history)
    }

    fn older_history(&self, db: &Db<'_>) -> SqlResult<History> {
        if let Some(history) = &self.history {
            return Ok(history.clone());
        }
        let text: Option<String> = db
            .one("SELECT history FROM jk_job WHERE seq = ?1", [self.seq], |row| row.get(0))?
            .flatten();
        // A history that cannot be read must not hold the job up.
        Ok(text.as_deref().and_then(|text| json(text).ok()).unwrap_or_default())
    }

    /// Moves the transitions that the columns hold into the history, before the columns are
    /// overwritten.
    pub(crate) fn keep_tail(&mut self, db: &Db<'_>) -> SqlResult {
        self.history = Some(self.history(db)?);
        self.was = None;
        Ok(())
    }

    /// Writes every column that transitions change.
    pub(crate) fn write(&mut self, db: &Db<'_>) -> SqlResult {
        let head = &self.head;
        let (mut run_at, mut open, mut hold) = (None, None, None);
        match &head.state {
            State::Awaiting { open: n } => open = Some(*n),
            State::Scheduled { run_at: at } => run_at = Some(at.as_micros()),
            State::Processing(h) => hold = Some(h),
            _ => {}
        }
        let history = self.history.take().as_ref().and_then(to_json);
        db.run(
            "UPDATE jk_job SET state = ?2, reason = ?3, queue = ?4, rank = ?5, flags = ?6, fence = ?7, \
             failures = ?8, crashes = ?9, run = ?10, version = ?11, entered_at = ?12, enqueued_at = ?13, \
             claimed_at = ?14, run_at = ?15, expires_at = ?16, duration = ?17, open = ?18, parked = ?19, \
             was = ?20, server = ?21, incarnation = ?22, claim_seq = ?23, lease_until = ?24, cancel = ?25, \
             settled_fence = ?26, settled_by = ?27, last_op = ?28, actor = ?29, \
             history = COALESCE(?30, history) WHERE seq = ?1",
            params![
                self.seq,
                size(head.state.name().index()),
                size(head.reason.index()),
                self.queue,
                rank_of(self.priority),
                self.flags,
                int(head.fence),
                head.failures,
                head.crashes,
                head.run,
                int(head.version),
                head.entered_at.as_micros(),
                self.enqueued_at.map(Timestamp::as_micros),
                self.claimed_at.map(Timestamp::as_micros),
                run_at,
                self.expires_at.map(Timestamp::as_micros),
                self.duration.map(micros),
                open,
                self.parked,
                self.was.map(|reason| size(reason.index())),
                self.server,
                hold.map(|hold| hold.incarnation.as_i64()),
                hold.map(|hold| int(hold.claim_sequence)),
                hold.map(|hold| hold.expires_at.as_micros()),
                hold.and_then(|hold| hold.cancel).map(|reason| size(reason.index())),
                head.settled.map(|(fence, _)| int(fence)),
                head.settled.map(|(_, by)| by.as_i64()),
                self.last_op.as_ref().map(|op| &op.as_bytes()[..]),
                self.actor,
                history,
            ],
        )?;
        Ok(())
    }

    /// Writes what a claim of a plainly enqueued job changes.
    pub(crate) fn write_claim(&self, db: &Db<'_>, hold: &Hold) -> SqlResult {
        db.run(
            sql!("UPDATE jk_job SET state = {processing}, reason = ?2, fence = ?3, version = ?4, entered_at = ?5, \
             claimed_at = ?5, was = ?6, server = ?7, incarnation = ?8, claim_seq = ?9, \
             lease_until = ?10, cancel = NULL, flags = ?11 WHERE seq = ?1"),
            params![
                self.seq,
                size(self.head.reason.index()),
                int(self.head.fence),
                int(self.head.version),
                self.head.entered_at.as_micros(),
                self.was.map(|reason| size(reason.index())),
                self.server,
                hold.incarnation.as_i64(),
                int(hold.claim_sequence),
                hold.expires_at.as_micros(),
                self.flags,
            ],
        )?;
        Ok(())
    }

    /// Writes what the end of such a claim changes when the job is finished by it.
    pub(crate) fn write_finish(&self, db: &Db<'_>) -> SqlResult {
        let head = &self.head;
        db.run(
            "UPDATE jk_job SET state = ?2, reason = ?3, version = ?4, entered_at = ?5, failures = ?6, \
             crashes = ?7, settled_fence = ?8, settled_by = ?9, duration = ?10, expires_at = ?11, \
             flags = ?12 WHERE seq = ?1",
            params![
                self.seq,
                size(head.state.name().index()),
                size(head.reason.index()),
                int(head.version),
                head.entered_at.as_micros(),
                head.failures,
                head.crashes,
                head.settled.map(|(fence, _)| int(fence)),
                head.settled.map(|(_, by)| by.as_i64()),
                self.duration.map(micros),
                self.expires_at.map(Timestamp::as_micros),
                self.flags,
            ],
        )?;
        Ok(())
    }
}
