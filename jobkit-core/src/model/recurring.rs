//! Recurring jobs: what is stored of a schedule, and the outcomes of its occurrences (G10).

mod occurrences;
#[cfg(test)]
pub(crate) mod testing;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::model::bounds;
use crate::model::clock::Timestamp;
use crate::model::error::{Error, Result};
use crate::model::ids::JobId;
use crate::model::limit::Limit;
use crate::model::name::{Name, check_label};
use crate::model::record::content::is_same_json;
use crate::model::record::{Extras, NewRecord, Occurrence, Payload, check_instant};
use crate::model::schedule::{Schedule, TimeZone};
use crate::model::unique::Unique;

pub use self::occurrences::Fired;
pub(crate) use self::occurrences::{RANGE, Ranges};

/// What happens with occurrences that came while no server was there to fire them.
///
/// An occurrence that is a minute late or less is punctual, and is fired under every policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Misfire {
    /// The latest one is fired, the others are recorded as skipped.
    #[default]
    RunOnce,
    /// The latest ones are fired, at most `cap`; older ones are recorded as skipped.
    RunAll {
        /// The most that are fired, 1 to 1,000.
        cap: u32,
    },
    /// All that are more than a minute late are recorded as skipped.
    Skip,
}

/// What happens with an occurrence while the job of an earlier one has not finished, its retries
/// included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// It is fired all the same.
    #[default]
    Allow,
    /// It is recorded as skipped.
    Skip,
}

/// The job that an occurrence creates.
///
/// `Debug` shows the length of the arguments alone, since they may hold secrets.
#[derive(Clone, Serialize, Deserialize)]
pub struct JobTemplate {
    /// Its kind.
    pub kind: Name,
    /// Its queue.
    pub queue: Name,
    /// Its priority.
    pub priority: u8,
    /// Its arguments.
    pub args: Box<RawValue>,
    /// Its tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Its unique key. When it is held, the occurrence is recorded as skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unique: Option<Unique>,
    /// Its limits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Limit>,
    /// The rest.
    #[serde(default)]
    pub extras: Extras,
}

impl fmt::Debug for JobTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobTemplate")
            .field("kind", &self.kind)
            .field("queue", &self.queue)
            .field("priority", &self.priority)
            .field("args", &format_args!("<{} bytes>", self.args.get().len()))
            .field("tags", &self.tags)
            .field("unique", &self.unique)
            .field("limits", &self.limits)
            .field("extras", &self.extras)
            .finish()
    }
}

/// Arguments are compared by what they mean, not by the order of their fields.
impl PartialEq for JobTemplate {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.queue == other.queue
            && self.priority == other.priority
            && is_same_json(self.args.get().as_bytes(), other.args.get().as_bytes())
            && self.tags == other.tags
            && self.unique == other.unique
            && self.limits == other.limits
            && self.extras == other.extras
    }
}

impl JobTemplate {
    /// The template of a job value; what cannot recur is refused.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for parents, a batch, an instant, or
    /// arguments that are not JSON.
    pub fn from_record(job: &NewRecord) -> Result<Self> {
        job.check()?;
        let refused = [
            ("parents", !job.edges.is_empty()),
            ("batch", job.batch.is_some()),
            ("at", job.start != crate::model::state::Start::Now),
            ("start_by", job.start_by.is_some()),
        ];
        if let Some((field, _)) = refused.into_iter().find(|(_, set)| *set) {
            return Err(Error::invalid(field, "cannot be set on the job of a schedule"));
        }
        let args = std::str::from_utf8(&job.args)
            .ok()
            .and_then(|text| RawValue::from_string(text.to_owned()).ok())
            .ok_or_else(|| Error::invalid("args", "are not JSON"))?;
        Ok(Self {
            kind: job.kind.clone(),
            queue: job.queue.clone(),
            priority: job.priority,
            args,
            tags: job.tags.clone(),
            unique: job.unique.clone(),
            limits: job.limits.clone(),
            extras: job.extras.as_deref().cloned().unwrap_or_default(),
        })
    }

    /// The job of one occurrence.
    pub fn instantiate(&self, id: JobId, occurrence: Occurrence) -> NewRecord {
        let mut extras = self.extras.clone();
        extras.occurrence = Some(occurrence);
        NewRecord {
            queue: self.queue.clone(),
            priority: self.priority,
            tags: self.tags.clone(),
            unique: self.unique.clone(),
            limits: self.limits.clone(),
            extras: Some(Box::new(extras)),
            ..NewRecord::new(
                id,
                self.kind.clone(),
                Payload::from(self.args.get().as_bytes().to_vec()),
            )
        }
    }
}

/// The definition of a recurring job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecurringSpec {
    /// Its id: 1 to 200 bytes of any text.
    pub id: String,
    /// When.
    pub schedule: Schedule,
    /// In which zone's time.
    pub time_zone: TimeZone,
    /// Occurrences that nobody was there to fire.
    #[serde(default)]
    pub misfire: Misfire,
    /// Occurrences whose predecessor still runs.
    #[serde(default)]
    pub overlap: Overlap,
    /// Each occurrence is fired up to so much later, and before the one that follows it, by an amount that
    /// depends on id and instant.
    #[serde(default)]
    pub jitter: Duration,
    /// No occurrence before.
    #[serde(default)]
    pub starts_at: Option<Timestamp>,
    /// No occurrence after.
    #[serde(default)]
    pub ends_at: Option<Timestamp>,
    /// What is created.
    pub job: JobTemplate,
}

impl RecurringSpec {
    /// Checks the definition (G20).
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput), with the field and the reason.
    pub fn check(&self) -> Result<()> {
        check_label("recurring id", &self.id)?;
        check_instant("starts_at", self.starts_at)?;
        check_instant("ends_at", self.ends_at)?;
        if let Misfire::RunAll { cap } = self.misfire
            && !(1..=1000).contains(&cap)
        {
            return Err(Error::invalid(
                "misfire",
                format_args!("caps at {cap}, where 1 to 1000 are allowed"),
            ));
        }
        if self.jitter > Duration::from_secs(24 * 3600) {
            return Err(Error::invalid("jitter", "is longer than a day"));
        }
        let occurrence = Occurrence { recurring: self.id.clone(), nominal_at: Timestamp::MIN };
        self.job.instantiate(JobId::from_key("check", &self.id), occurrence).check()
    }

    /// The first occurrence after `after`, with the instant at which it is fired.
    pub fn next_after(&self, after: Timestamp) -> Option<NextRun> {
        let after = match self.starts_at {
            // An occurrence exactly at the start counts.
            Some(start) => after.max(start.minus(Duration::from_micros(1))),
            None => after,
        };
        let nominal_at = self.schedule.next_after(after, self.time_zone)?;
        if self.ends_at.is_some_and(|end| nominal_at > end) {
            return None;
        }
        Some(NextRun { nominal_at, due_at: nominal_at.plus(self.jitter_at(nominal_at)) })
    }

    /// The same on every server, so that all agree when an occurrence is due.
    fn jitter_at(&self, nominal_at: Timestamp) -> Duration {
        if self.jitter.is_zero() {
            return Duration::ZERO;
        }
        let hash =
            crate::model::unique::KeyHash::of(&format!("{} {}", self.id, nominal_at.as_micros())).0;
        let bits = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
        // Beyond the next occurrence it would hold that one up, and make it late.
        let next = self.schedule.next_after(nominal_at, self.time_zone);
        let most = next.map_or(self.jitter, |next| self.jitter.min(next.since(nominal_at)));
        most.mul_f64(f64::from(bits) / f64::from(u32::MAX))
    }
}

/// The next occurrence of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextRun {
    /// The instant that the schedule names.
    pub nominal_at: Timestamp,
    /// When it is fired: the same, plus jitter.
    pub due_at: Timestamp,
}

/// Why nothing runs for a while, and on whose word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Since when, by the storage's clock; set by the storage.
    pub since: Timestamp,
    /// Who paused it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When it ends by itself.
    pub until: Option<Timestamp>,
}

impl Pause {
    /// A pause without an end.
    pub fn new(by: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { since: Timestamp::MIN, by: by.into(), reason: reason.into(), until: None }
    }

    /// Whether it holds at `now`.
    pub fn holds(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| until > now)
    }

    /// Checks the texts and the instant (G20).
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput).
    pub fn check(&self) -> Result<()> {
        for (field, text) in [("by", &self.by), ("reason", &self.reason)] {
            if text.len() > bounds::METADATA_BYTES || text.contains('\0') {
                return Err(Error::invalid(
                    field,
                    "is longer than 4 KiB, or contains a NUL character",
                ));
            }
        }
        check_instant("until", self.until)
    }
}

/// A recurring job as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecurringRecord {
    /// The definition.
    pub spec: RecurringSpec,
    /// Changes with every save, pause and resume; what guarded saves compare.
    pub etag: u64,
    /// The next occurrence; none when the schedule has ended.
    pub next: Option<NextRun>,
    /// The instant that was fired or skipped last.
    pub last_nominal_at: Option<Timestamp>,
    /// Which occurrences were fired, so that none is fired twice when the clock goes back.
    #[serde(default, skip_serializing_if = "Fired::is_empty")]
    pub fired: Fired,
    /// The job of the latest occurrence that was fired.
    pub last_job: Option<JobId>,
    /// The pause, also one that has ended by itself and was not lifted yet.
    pub pause: Option<Pause>,
    /// When it was first saved.
    pub created_at: Timestamp,
}

/// The outcome of an occurrence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunOutcome {
    /// A job was created.
    Fired {
        /// The job.
        job: JobId,
    },
    /// Triggered by hand, beside the schedule.
    Triggered {
        /// The job.
        job: JobId,
    },
    /// Nobody was there to fire it in time.
    Misfired,
    /// It fell into a pause.
    Paused,
    /// It was due when its schedule was replaced by another one, or removed.
    Replaced,
    /// The job of an earlier occurrence had not finished.
    Overlapping {
        /// That job.
        job: JobId,
    },
    /// Its unique key was held.
    KeyHeld {
        /// The job that holds it.
        holder: JobId,
    },
    /// The job was refused.
    Refused {
        /// Why.
        reason: String,
    },
}

/// A recorded occurrence, or a range of skipped ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecurringRun {
    /// The instant, or the first of the range.
    pub nominal_at: Timestamp,
    /// The last of the range.
    pub through: Timestamp,
    /// How many occurrences the range holds, at most 10,000. Where a schedule with more of them due was
    /// replaced, removed or resumed, 10,000 stands for all up to the end of the range.
    pub count: u32,
    /// Its outcome.
    pub outcome: RunOutcome,
    /// When that was, by the storage's clock.
    pub at: Timestamp,
}
