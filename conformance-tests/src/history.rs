//! What happened to a storage's jobs, and whether it may happen: one predicate for each guarantee.
//!
//! A [`History`] is a list of facts in the order of commits. It comes from the simulation, or from what
//! real processes leave behind ([`Remains`]); predicates take what is there, and say nothing of what is
//! not.

mod predicates;
mod remains;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use jobkit_core::batch::BatchRecord;
use jobkit_core::edge::{Edge, Parent};
use jobkit_core::state::{Reason, StateName};
use jobkit_core::storage::PauseTarget;
use jobkit_core::{BatchId, Incarnation, JobId, Name, Timestamp};

pub use predicates::*;
pub use remains::{Remains, Witnesses};

/// What happened, in the order of commits.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The facts; those of one commit have the same number, and within a commit they stand in the order
    /// of cause and effect.
    pub events: Vec<Event>,
}

/// A fact, and the commit it belongs to.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The number of the commit.
    pub s: u64,
    /// The storage's clock.
    pub at: Timestamp,
    /// What happened.
    pub fact: Fact,
}

/// Where a job stands in line.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// The queue.
    pub queue: Name,
    /// The kind.
    pub kind: Name,
    /// The order within the queue: 9 − priority, then the sequence.
    pub rank: (u8, u64),
    /// Whether it may be passed over, since it runs under limits or has to be started in time.
    pub conditional: bool,
}

/// Something that happened.
#[allow(missing_docs, reason = "the fields are named after what they hold")]
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// A client was told that its job is stored.
    Told(JobId),
    /// A job was stored, in one submission with all others of that number.
    Create { job: JobId, submission: u64, to: StateName, place: Place },
    /// The job waits for this.
    Edge { child: JobId, edge: Edge },
    /// The job is a member of the batch.
    Member { job: JobId, batch: BatchId },
    /// The job runs under a limit.
    Limited { job: JobId, limit: String },
    /// The job's place changed.
    Moved { job: JobId, place: Place },
    /// A transition that the job's history tells.
    Step { job: JobId, to: StateName, reason: Reason, run: u32 },
    /// A claim; `call` is its sequence in the server's life.
    Claim { job: JobId, fence: u64, life: Incarnation, call: u64 },
    /// A server's life was forgotten, and with it which of its claims was answered last.
    Forgotten(Incarnation),
    /// A claimer asked for these, and got what else the commit tells.
    Asked { queues: Vec<Name>, kinds: Vec<Name> },
    /// The lease is over.
    End { job: JobId, fence: u64 },
    /// A holder's write was accepted.
    Write { job: JobId, fence: u64, life: Incarnation },
    /// A lease was extended.
    Extended { job: JobId, fence: u64 },
    /// A look found the lease expired.
    SeenExpired { job: JobId, fence: u64 },
    /// A lease was taken away because it had expired.
    Rescued { job: JobId, fence: u64 },
    /// The running job was asked to stop.
    CancelAsked { job: JobId, fence: u64 },
    /// A handler began.
    Started { job: JobId, fence: u64 },
    /// An edge was decided.
    Decided { child: JobId, parent: Parent },
    /// A batch as it is stored now.
    Batch(Box<BatchRecord>),
    /// The job took its unique key.
    KeyTaken { job: JobId, key: String },
    /// The job freed its unique key.
    KeyFreed { job: JobId, key: String },
    /// Someone was refused, or referred, because this job holds the key.
    KeyHeldBy { job: JobId, key: String },
    /// A limit as it is stored now.
    Limit { name: String, max: u32, used: u32 },
    /// How many may hold a limit, where nobody tells how many do.
    LimitMax { name: String, max: u32 },
    /// These were submitted together: all are stored, or none.
    Together(Vec<JobId>),
    /// A lock was taken, until that instant at the latest.
    Locked { name: String, owner: Incarnation, generation: u64, until: Timestamp },
    /// A queue or kind was paused.
    Paused(PauseTarget),
    /// And resumed.
    Resumed(PauseTarget),
    /// A schedule with a fixed pace was saved.
    Schedule { id: String, every: Duration },
    /// An occurrence was fired, or skipped for a reason that was recorded.
    Fired { id: String, nominal_at: Timestamp },
    /// This many occurrences were skipped.
    Skipped { id: String, from: Timestamp, through: Timestamp },
    /// A record is gone; when it was to expire.
    Gone { job: JobId, expires_at: Option<Timestamp> },
    /// A change of this job, or its submission, was refused.
    Refused(JobId),
    /// What a job's history keeps at the end: how many transitions were applied, how many fell out, and
    /// the others.
    Recorded { job: JobId, dropped: u64, kept: Vec<StateName> },
    /// How many transitions to each state were counted, at the end.
    Totals([u64; 7]),
    /// How many jobs are in each state, as the storage counts them, at the end.
    Standing([u64; 7]),
    /// Nothing was in the way for long enough, and nothing happens any more.
    Quiet,
}

impl Fact {
    /// The job it is about.
    pub fn job(&self) -> Option<JobId> {
        match self {
            Self::Told(job)
            | Self::Refused(job)
            | Self::Create { job, .. }
            | Self::Edge { child: job, .. }
            | Self::Member { job, .. }
            | Self::Limited { job, .. }
            | Self::Moved { job, .. }
            | Self::Step { job, .. }
            | Self::Claim { job, .. }
            | Self::End { job, .. }
            | Self::Write { job, .. }
            | Self::Extended { job, .. }
            | Self::SeenExpired { job, .. }
            | Self::Rescued { job, .. }
            | Self::CancelAsked { job, .. }
            | Self::Started { job, .. }
            | Self::Decided { child: job, .. }
            | Self::KeyTaken { job, .. }
            | Self::KeyFreed { job, .. }
            | Self::KeyHeldBy { job, .. }
            | Self::Gone { job, .. }
            | Self::Recorded { job, .. } => Some(*job),
            _ => None,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>5} {} {:?}", self.s, self.at, self.fact)
    }
}

/// A guarantee that was broken.
#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    /// Which, such as `G4`.
    pub guarantee: &'static str,
    /// The job concerned.
    pub job: Option<JobId>,
    /// The commit that broke it.
    pub s: u64,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at commit {}", self.guarantee, self.s)?;
        if let Some(job) = self.job {
            write!(f, ", job {job}")?;
        }
        write!(f, ": {}", self.what)
    }
}

impl History {
    /// Appends a fact.
    pub fn push(&mut self, s: u64, at: Timestamp, fact: Fact) {
        self.events.push(Event { s, at, fact });
    }

    /// Checks every guarantee; the first violation of each that is broken.
    pub fn check(&self) -> Vec<Violation> {
        PREDICATES.iter().filter_map(|(_, holds)| holds(self).err()).collect()
    }

    /// The last facts about a job.
    pub fn last_of(&self, job: JobId, most: usize) -> Vec<&Event> {
        let of_job: Vec<_> =
            self.events.iter().filter(|event| event.fact.job() == Some(job)).collect();
        of_job[of_job.len().saturating_sub(most)..].to_vec()
    }

    /// The facts by commit.
    fn commits(&self) -> impl Iterator<Item = &[Event]> {
        self.events.chunk_by(|a, b| a.s == b.s)
    }
}
