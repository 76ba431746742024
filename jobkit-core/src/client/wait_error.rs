//! [`WaitError`]: why waiting for a job gave no result.

use std::fmt;

use crate::model::clock::Timestamp;
use crate::model::edge::{Edge, On, Parent};
use crate::model::error::{Error, ErrorKind};
use crate::model::record::{AttemptError, JobDetails};
use crate::model::redact::hide_in_text;
use crate::model::state::{Reason, State};

/// How many of the parents that a job waits for are named.
const NAMED: usize = 5;

/// Why waiting gave no result.
///
/// `Debug` says what `Display` says: a job's record holds captured context and metadata, which are not for
/// logs.
#[non_exhaustive]
pub enum WaitError {
    /// It has not finished in time; it may still. The job as it was when the time was up, unless the
    /// storage did not answer: the text of the error says its state, since when, and what it waits for.
    TimedOut(Option<Box<JobDetails>>),
    /// It failed for good; the last error, where it is kept.
    Failed(Option<Box<AttemptError>>),
    /// It was given up, and why.
    Deleted(Reason),
    /// It does not exist, or was removed after its retention.
    Gone,
    /// The storage could not answer.
    Storage(Error),
}

impl fmt::Debug for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WaitError({self})")
    }
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut(Some(job)) => {
                write!(f, "the job has not finished in time: it {}", now(job))
            }
            Self::TimedOut(None) => f.write_str(
                "the job has not finished in time, and the storage did not say what state it is in",
            ),
            Self::Failed(Some(error)) => write!(f, "the job failed: {}", error.detail.summary()),
            Self::Failed(None) => f.write_str("the job failed"),
            Self::Deleted(reason) => write!(f, "the job was deleted: {}", reason.as_str()),
            Self::Gone => f.write_str("the job does not exist, or was removed"),
            Self::Storage(error) => write!(f, "waiting for the job failed: {error}"),
        }
    }
}

impl std::error::Error for WaitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Storage(error) => Some(error),
            _ => None,
        }
    }
}

impl From<WaitError> for Error {
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::Storage(error) => error,
            WaitError::TimedOut(_) => Self::new(ErrorKind::Timeout, error.to_string()),
            WaitError::Gone => Self::new(ErrorKind::NotFound, error.to_string()),
            other => Self::new(ErrorKind::Conflict, other.to_string()),
        }
    }
}

/// What an unfinished job does, or waits for: what its own record tells, without another call.
fn now(job: &JobDetails) -> String {
    let record = &job.record;
    let since = time(record.head.entered_at);
    let attempt = match record.head.attempt() {
        1 => String::new(),
        attempt => format!(" (attempt {attempt})"),
    };
    match (&record.head.state, &record.parked_at) {
        (State::Scheduled { run_at }, _) => {
            let why = record.head.reason.as_str();
            format!("is still scheduled, for {}{attempt}: {why}", time(*run_at))
        }
        (State::Processing(hold), _) => {
            let server = &hold.server;
            let asked = if hold.cancel.is_some() { ", and was asked to stop" } else { "" };
            match hold.started {
                true => {
                    format!("has been running on server `{server}` since {since}{attempt}{asked}")
                }
                // Its server may have claimed it ahead.
                false => format!("was claimed by server `{server}` at {since}{attempt}{asked}"),
            }
        }
        (State::Enqueued, Some(limit)) => {
            let limit = hide_in_text(limit);
            format!("has been parked at limit `{limit}` since {since}{attempt}")
        }
        (State::Enqueued, None) => {
            format!("has been enqueued in queue `{}` since {since}{attempt}", record.queue)
        }
        (State::Awaiting { .. }, _) => format!("still waits for {}", awaited(job)),
        (State::Succeeded | State::Failed | State::Deleted, _) => {
            format!("was {} at {since}: {}", record.state(), record.head.reason.as_str())
        }
    }
}

/// The first parents that are open, and a batch that is not started.
fn awaited(job: &JobDetails) -> String {
    let open = || job.parents.iter().filter(|parent| !parent.decided);
    let mut named: Vec<String> =
        open().take(NAMED).map(|status| awaited_parent(&status.edge)).collect();
    let more = open().count().saturating_sub(NAMED);
    if more > 0 {
        named.push(format!("{more} more"));
    }
    if let (Reason::BatchFilling, Some(batch)) = (job.record.head.reason, job.record.batch) {
        named.push(format!("batch {batch} to be started"));
    }
    if named.is_empty() {
        // Everything is decided, and a sweep is about to say so.
        return "a decision that is about to be stored".to_owned();
    }
    named.join(", ")
}

fn awaited_parent(edge: &Edge) -> String {
    let until = match edge.on {
        On::Success => "to succeed",
        On::Failed => "to fail",
        On::Any => "to finish",
    };
    match edge.parent {
        Parent::Job(id) => format!("job {id} {until}"),
        Parent::Batch(id) => format!("batch {id} {until}"),
    }
}

fn time(at: Timestamp) -> impl fmt::Display {
    at.to_chrono().format("%Y-%m-%d %H:%M:%S UTC")
}
