//! A job as storages keep it: what is submitted, what is read back.

pub(crate) mod content;
mod history;
mod payload;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::bounds;
use crate::model::clock::Timestamp;
use crate::model::edge::{Edge, Parent};
use crate::model::error::{Error, Result};
use crate::model::failure::ErrorDetail;
use crate::model::ids::{BatchId, Incarnation, JobId};
use crate::model::limit::Limit;
use crate::model::name::{Name, check_compared, check_text};
use crate::model::retry::RetryPolicy;
use crate::model::state::{Keep, Retention, Start, State, StateName};
use crate::model::state_machine::JobHead;
use crate::model::unique::Unique;

pub use self::history::{History, HistoryEntry};
pub use self::payload::Payload;

/// The longest time that one attempt may be given.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(366 * 24 * 3600);

/// What overrides the server's registry for one job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Overrides {
    /// The retry policy, instead of the kind's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryPolicy>,
    /// How many failures it may have, the first run included; over the policy's own number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// How long one attempt may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// How long the finished job is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
}

/// The recurring job, and the instant of its schedule, that a job was fired for (G10).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Occurrence {
    /// The recurring job's id.
    pub recurring: String,
    /// The instant that the schedule names; for a trigger by hand, that of the trigger.
    pub nominal_at: Timestamp,
}

/// What a job carries that neither claims nor lists look at. Most jobs have none of it.
///
/// Storages keep it as JSON; unknown fields are ignored, so that fields can be added.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Extras {
    /// A name for people, instead of the kind's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Values by which people and filters tell jobs apart; at most 4 KiB in all.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// What was captured at enqueue and is restored around the run: `traceparent`, `tracestate`,
    /// `locale`, `tenant`, own keys; at most 4 KiB in all.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub context: BTreeMap<String, String>,
    /// The arguments that are not shown to people; see [`JobDetails::shown_args`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sensitive: Vec<String>,
    /// What overrides the server's registry.
    pub overrides: Overrides,
    /// The schedule it was fired by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub occurrence: Option<Occurrence>,
    /// The job it was made from, by edit or clone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub made_from: Option<JobId>,
}

/// A job to be stored.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRecord {
    /// Its id, from creation.
    pub id: JobId,
    /// Its kind, with the version where there is one: `resize@2`.
    pub kind: Name,
    /// The queue it waits in.
    pub queue: Name,
    /// 0 to 9; 9 goes first.
    pub priority: u8,
    /// The arguments: a JSON object by parameter name.
    pub args: Payload,
    /// When it may run once nothing else holds it back.
    pub start: Start,
    /// If no server has started it by this instant, it becomes Deleted instead.
    pub start_by: Option<Timestamp>,
    /// For filters; at most 8.
    pub tags: Vec<String>,
    /// The unique key it takes.
    pub unique: Option<Unique>,
    /// The limits it runs under; at most 4, each name once.
    pub limits: Vec<Limit>,
    /// What it waits for; at most 100, each parent once.
    pub edges: Vec<Edge>,
    /// The batch it belongs to.
    pub batch: Option<BatchId>,
    /// The rest; `None` when it is all default.
    pub extras: Option<Box<Extras>>,
}

impl NewRecord {
    /// A job of `kind` in the default queue.
    pub fn new(id: JobId, kind: Name, args: impl Into<Payload>) -> Self {
        Self {
            id,
            kind,
            queue: Name::default_queue(),
            priority: bounds::DEFAULT_PRIORITY,
            args: args.into(),
            start: Start::Now,
            start_by: None,
            tags: Vec::new(),
            unique: None,
            limits: Vec::new(),
            edges: Vec::new(),
            batch: None,
            extras: None,
        }
    }

    /// The extras, made if there are none yet.
    pub fn extras_mut(&mut self) -> &mut Extras {
        self.extras.get_or_insert_default()
    }

    /// How long the job is kept once finished, unless its holder says otherwise.
    pub fn retention(&self) -> Retention {
        retention_of(self.extras.as_deref())
    }

    /// What tells two submits with the same id apart, nearly always: 16 bytes of SHA-256 of kind and
    /// arguments. Where digests differ, [`is_content_of`](Self::is_content_of) decides.
    ///
    /// Options are not content: a repeated submit may compute another delay.
    pub fn content_digest(&self) -> [u8; 16] {
        content::digest(&self.kind, &self.args)
    }

    /// Whether a stored job, found under the same id with another digest, has the same content all the
    /// same: its arguments mean the same, in another order of fields. A `HashMap` has another one each time.
    pub fn is_content_of(&self, kind: &Name, args: &[u8]) -> bool {
        self.kind == *kind && content::is_same_json(&self.args, args)
    }

    /// Bytes that count towards the bound of a submission.
    pub fn size(&self) -> usize {
        let extras = self.extras.as_deref();
        self.args.len() + extras.map_or(0, |e| text_size(&e.metadata) + text_size(&e.context))
    }

    /// Checks every field against its bound (G20).
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput), with the field and the reason.
    pub fn check(&self) -> Result<()> {
        let over = |field, has: usize, max: usize, what: &str| {
            Err(Error::invalid(
                field,
                format_args!("has {has} {what}, where at most {max} are allowed"),
            ))
        };
        if self.priority > bounds::MAX_PRIORITY {
            return Err(Error::invalid(
                "priority",
                format_args!(
                    "is {}, where 0 to {} are allowed",
                    self.priority,
                    bounds::MAX_PRIORITY
                ),
            ));
        }
        // What a codec has sealed was checked before, and is a third larger by its base64.
        let most = match self.args.is_sealed() {
            true => bounds::ARGS_BYTES / 2 * 3,
            false => bounds::ARGS_BYTES,
        };
        if self.args.len() > most {
            return over("args", self.args.len(), most, "bytes");
        }
        if self.args.contains(&0) {
            return Err(Error::invalid("args", "contain a NUL byte, so they are not JSON"));
        }
        check_instant("at", if let Start::At(at) = self.start { Some(at) } else { None })?;
        check_instant("start_by", self.start_by)?;
        check_tags(&self.tags)?;
        if let Some(unique) = &self.unique {
            unique.check()?;
        }
        if self.limits.len() > bounds::LIMITS {
            return over("limits", self.limits.len(), bounds::LIMITS, "entries");
        }
        for (i, limit) in self.limits.iter().enumerate() {
            limit.check()?;
            if self.limits[..i].iter().any(|other| other.name == limit.name) {
                return Err(Error::invalid("limits", format_args!("name {:?} twice", limit.name)));
            }
        }
        if self.edges.len() > bounds::PARENTS {
            return over("parents", self.edges.len(), bounds::PARENTS, "entries");
        }
        for (i, edge) in self.edges.iter().enumerate() {
            if self.edges[..i].iter().any(|other| other.parent == edge.parent) {
                return Err(Error::invalid("parents", "name the same parent twice"));
            }
            if self.batch.is_some_and(|batch| edge.parent == Parent::Batch(batch)) {
                return Err(Error::invalid("parents", "contain the job's own batch"));
            }
        }
        if let Some(extras) = self.extras.as_deref() {
            if let Some(name) = &extras.display_name {
                check_text("display_name", name, bounds::LABEL_BYTES)?;
            }
            let timeout = extras.overrides.timeout;
            if timeout.is_some_and(|timeout| timeout.is_zero() || timeout > MAX_TIMEOUT) {
                return Err(Error::invalid("timeout", "must be over zero and at most 366 days"));
            }
            for (field, values) in [("metadata", &extras.metadata), ("context", &extras.context)] {
                let size = text_size(values);
                if size > bounds::METADATA_BYTES {
                    return over(field, size, bounds::METADATA_BYTES, "bytes");
                }
                if values.iter().any(|(key, value)| key.contains('\0') || value.contains('\0')) {
                    return Err(Error::invalid(field, "contains a NUL character"));
                }
            }
        }
        Ok(())
    }
}

pub(crate) fn text_size(values: &BTreeMap<String, String>) -> usize {
    values.iter().map(|(key, value)| key.len() + value.len()).sum()
}

/// Whether a job may have these tags.
///
/// # Errors
/// [`InvalidInput`](crate::ErrorKind::InvalidInput), with the field and the reason.
pub fn check_tags(tags: &[String]) -> Result<()> {
    if tags.len() > bounds::TAGS {
        return Err(Error::invalid(
            "tags",
            format_args!("has {} entries, where at most {} are allowed", tags.len(), bounds::TAGS),
        ));
    }
    tags.iter().try_for_each(|tag| check_compared("tags", tag, bounds::TAG_BYTES))
}

/// Whether an instant that a caller named is in range.
///
/// # Errors
/// [`InvalidInput`](crate::ErrorKind::InvalidInput), with `field` and the range.
pub fn check_instant(field: &'static str, at: Option<Timestamp>) -> Result<()> {
    match at {
        Some(at) if !at.is_in_range() => Err(Error::invalid(
            field,
            format_args!(
                "is out of range, where {} to {} are allowed",
                Timestamp::MIN,
                Timestamp::MAX
            ),
        )),
        _ => Ok(()),
    }
}

/// The retention a job carries itself, else the default.
pub fn retention_of(extras: Option<&Extras>) -> Retention {
    extras.and_then(|extras| extras.overrides.retention).unwrap_or_default()
}

/// How long a job is kept that is deleted by a request: as it says itself, else as the request says.
pub fn retention_of_deleted(extras: Option<&Extras>, keep: Option<Keep>) -> Retention {
    match (keep, extras.and_then(|extras| extras.overrides.retention)) {
        (_, Some(own)) => own,
        (Some(deleted), None) => Retention { deleted, ..Retention::default() },
        (None, None) => Retention::default(),
    }
}

/// A job as it is stored, without its arguments and result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Its id.
    pub id: JobId,
    /// Its place: the order in which the storage accepted it.
    pub sequence: u64,
    /// Its kind.
    pub kind: Name,
    /// Its queue.
    pub queue: Name,
    /// 0 to 9; 9 goes first.
    pub priority: u8,
    /// State and counters.
    pub head: JobHead,
    /// When it was accepted, by the storage's clock.
    pub created_at: Timestamp,
    /// When it last became claimable.
    pub enqueued_at: Option<Timestamp>,
    /// When it was last claimed.
    pub claimed_at: Option<Timestamp>,
    /// How long the handler of the last attempt ran.
    pub duration: Option<Duration>,
    /// When it may be purged.
    pub expires_at: Option<Timestamp>,
    /// When it must have been started.
    pub start_by: Option<Timestamp>,
    /// The limit at which it is parked.
    pub parked_at: Option<String>,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its unique key.
    pub unique: Option<Unique>,
    /// The limits it runs under.
    pub limits: Vec<Limit>,
    /// The batch it belongs to.
    pub batch: Option<BatchId>,
    /// How many parents it was submitted with.
    pub parents: u32,
    /// The rest.
    pub extras: Option<Box<Extras>>,
}

impl JobRecord {
    /// Its state's name.
    pub fn state(&self) -> StateName {
        self.head.state.name()
    }

    /// The instant it waits for.
    pub fn run_at(&self) -> Option<Timestamp> {
        match self.head.state {
            State::Scheduled { run_at } => Some(run_at),
            _ => None,
        }
    }
}

/// A job with all that is known of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobDetails {
    /// The record.
    pub record: JobRecord,
    /// The arguments.
    pub args: Payload,
    /// The result, once Succeeded with one.
    pub result: Option<Payload>,
    /// The transitions that were applied (G17).
    pub history: History,
    /// The failed attempts that are kept, oldest first.
    pub errors: Vec<AttemptError>,
    /// What it waits or waited for.
    pub parents: Vec<EdgeStatus>,
    /// The last progress its handler told.
    pub progress: Vec<Progress>,
}

impl JobDetails {
    /// The arguments as people may see them: sensitive ones read `(hidden)`. `None` where what is stored
    /// is no JSON.
    pub fn shown_args(&self) -> Option<serde_json::Value> {
        let sensitive = self.record.extras.as_deref().map_or(&[][..], |extras| &extras.sensitive);
        shown_args(&self.args, sensitive)
    }
}

/// Arguments as people may see them: those that are named here read `(hidden)`. `None` where they are no
/// JSON. What a codec has sealed is to be opened before.
pub fn shown_args(args: &[u8], sensitive: &[String]) -> Option<serde_json::Value> {
    let mut args = serde_json::from_slice(args).ok()?;
    match &mut args {
        serde_json::Value::Object(args) => {
            for (_, value) in args.iter_mut().filter(|(name, _)| sensitive.contains(name)) {
                *value = "(hidden)".into();
            }
        }
        // Not by name, so nobody can tell which.
        other if !sensitive.is_empty() => *other = "(hidden)".into(),
        _ => {}
    }
    Some(args)
}

/// An edge, and whether it is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeStatus {
    /// The condition.
    pub edge: Edge,
    /// Whether it is decided.
    pub decided: bool,
}

/// A failed attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptError {
    /// The fence of the attempt.
    pub fence: u64,
    /// Which failure it was, since the last requeue, from 1.
    pub failures: u32,
    /// When it was settled.
    pub at: Timestamp,
    /// What went wrong.
    pub detail: ErrorDetail,
}

/// One progress bar of a handler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Its name; empty for the unnamed one.
    pub name: String,
    /// How far, in the handler's unit.
    pub done: u64,
    /// Of how much; zero when unknown.
    pub total: u64,
    /// A word to it; at most 200 bytes.
    pub message: String,
}

/// Where a claimed job's record is, in the storage's own terms; settle and renew send it back, so
/// that it is found without a search.
///
/// It may be a physical place, and it may go stale when the storage moves the record. So a storage compares the
/// job's id with what it finds there, and looks for the id where they differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Locator(pub u64);

/// The right to write to a running job: job, fence and the claimer's life (G5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The job.
    pub job: JobId,
    /// What the claim gave.
    pub locator: Locator,
    /// The number of the claim.
    pub fence: u64,
    /// The server's life.
    pub incarnation: Incarnation,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> NewRecord {
        NewRecord::new(JobId::new(), Name::from_stored("k"), *b"{}")
    }

    #[test]
    fn every_field_is_bounded_and_named() {
        type Change = fn(&mut NewRecord);
        let cases: [(&str, Change); 10] = [
            ("priority", |j| j.priority = 10),
            ("args", |j| j.args = vec![b'x'; bounds::ARGS_BYTES + 1].into()),
            ("args", |j| j.args = vec![0].into()),
            ("at", |j| j.start = Start::At(Timestamp::from_micros(i64::MAX))),
            ("tags", |j| j.tags = vec!["t".into(); 9]),
            ("tags", |j| j.tags = vec!["t".repeat(65)]),
            ("unique", |j| j.unique = Some(Unique::new("a\0"))),
            ("limits", |j| j.limits = vec![Limit::new("a", 1), Limit::new("a", 2)]),
            ("limit", |j| j.limits = vec![Limit::new("a", 0)]),
            ("metadata", |j| {
                j.extras_mut().metadata.insert("k".into(), "v".repeat(5000));
            }),
        ];
        job().check().expect("a plain job is fine");
        for (field, change) in cases {
            let mut job = job();
            change(&mut job);
            let error = job.check().expect_err(field).to_string();
            assert!(error.starts_with(&format!("{field}: ")), "{error}");
        }
    }

    #[test]
    fn arguments_never_show_in_debug() {
        let mut job = job();
        job.args = b"{\"password\":\"hunter2\"}".to_vec().into();
        assert!(!format!("{job:?}").contains("hunter2"));
    }
}
