//! What a filter says, taken apart, and how it is written.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::clock::Timestamp;
use crate::model::error::Error;
use crate::model::ids::{BatchId, JobId};
use crate::model::record::JobRecord;
use crate::model::state::{Reason, StateName};

/// Which jobs: all terms have to hold. Empty, it means every job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobFilter {
    /// What has to hold.
    pub terms: Vec<Term>,
}

/// One condition.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    /// Whether it must not hold.
    pub negated: bool,
    /// What it says.
    pub field: Field,
}

impl Term {
    /// A term that has to hold.
    pub fn new(field: Field) -> Self {
        Self { negated: false, field }
    }
}

/// What a term looks at, and what is wanted there; of several values one has to be found.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Field {
    /// `state:`
    State(Vec<StateTerm>),
    /// `queue:`, with `*` for any text.
    Queue(Vec<String>),
    /// `kind:`, with `*` for any text.
    Kind(Vec<String>),
    /// `tag:`
    Tag(Vec<String>),
    /// `id:`
    Id(Vec<JobId>),
    /// `parent:`: jobs that wait or waited for one of these.
    Parent(Vec<JobId>),
    /// `batch:`
    Batch(Vec<BatchId>),
    /// `recurring:`, with `*` for any text.
    Recurring(Vec<String>),
    /// `server:`, with `*` for any text: who holds it now.
    Server(Vec<String>),
    /// `priority:`
    Priority(Vec<Range<u64>>),
    /// `attempt:`
    Attempt(Vec<Range<u64>>),
    /// `wait:`: how long it was, or has been, claimable before its last claim.
    Wait(Vec<Range<Duration>>),
    /// `run:`: how long its last attempt ran, or has been running.
    Run(Vec<Range<Duration>>),
    /// `created:`
    Created(Vec<Range<When>>),
    /// `entered:`: when it came into its state.
    Entered(Vec<Range<When>>),
    /// `finished:`: when it finished, in whatever way.
    Finished(Vec<Range<When>>),
    /// `failed:`: when it failed for good.
    Failed(Vec<Range<When>>),
    /// `due:`: the instant it waits for; ages lie ahead.
    Due(Vec<Range<When>>),
    /// `arg.path:`: an argument by its path.
    Arg(Vec<String>, Vec<String>),
    /// `meta.key:`: metadata by its key.
    Meta(String, Vec<String>),
    /// `ctx.key:`: captured context by its key.
    Context(String, Vec<String>),
    /// `error:`: text in type, message or causes of the last failure.
    Error(Vec<String>),
    /// `group:`: the last failure's group, by the beginning of its fingerprint.
    Group(Vec<String>),
    /// `has:`
    Has(Vec<Property>),
    /// Text in arguments or display name.
    Text(String),
}

/// A state, or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StateTerm {
    /// One of the seven.
    Is(StateName),
    /// Scheduled, since it failed before.
    Retrying,
    /// Enqueued, and parked at a limit.
    Throttled,
    /// Deleted, since it was cancelled while it ran.
    Cancelled,
}

impl StateTerm {
    /// The state that it is a part of.
    pub const fn state(self) -> StateName {
        match self {
            Self::Is(state) => state,
            Self::Retrying => StateName::Scheduled,
            Self::Throttled => StateName::Enqueued,
            Self::Cancelled => StateName::Deleted,
        }
    }

    /// Whether a job is in it.
    pub fn holds(self, job: &JobRecord) -> bool {
        job.state() == self.state()
            && match self {
                Self::Is(_) => true,
                Self::Retrying => job.head.reason == Reason::Retry,
                Self::Throttled => job.parked_at.is_some(),
                Self::Cancelled => {
                    matches!(job.head.reason, Reason::Cancelled | Reason::BatchCancelled)
                }
            }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let part = match text {
            "retrying" => Self::Retrying,
            "throttled" => Self::Throttled,
            "cancelled" => Self::Cancelled,
            // What people call a job that failed for good.
            "dead" => Self::Is(StateName::Failed),
            name => Self::Is(StateName::ALL.into_iter().find(|state| state.as_str() == name)?),
        };
        Some(part)
    }
}

impl fmt::Display for StateTerm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Is(state) => state.as_str(),
            Self::Retrying => "retrying",
            Self::Throttled => "throttled",
            Self::Cancelled => "cancelled",
        })
    }
}

/// Something a job may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Property {
    /// A result. (Not named so: in messages of the compiler `Result` would be written with its path.)
    Returned,
    /// A failed attempt.
    Error,
    /// A batch it belongs to.
    Batch,
    /// Parents.
    Parent,
    /// A unique key.
    Key,
    /// A limit.
    Limit,
    /// A tag.
    Tag,
    /// A schedule it was fired by.
    Recurring,
}

impl Property {
    pub(super) const ALL: [(&'static str, Self); 8] = [
        ("result", Self::Returned),
        ("error", Self::Error),
        ("batch", Self::Batch),
        ("parent", Self::Parent),
        ("key", Self::Key),
        ("limit", Self::Limit),
        ("tag", Self::Tag),
        ("recurring", Self::Recurring),
    ];
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(_, it)| it == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

/// A range; both ends are part of it where they are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range<T> {
    /// This one.
    Exactly(T),
    /// More.
    Over(T),
    /// Less.
    Under(T),
    /// From, to.
    Between(T, T),
}

impl<T: PartialOrd> Range<T> {
    /// Whether a value lies in it.
    pub fn contains(&self, value: &T) -> bool {
        match self {
            Self::Exactly(it) => value == it,
            Self::Over(it) => value > it,
            Self::Under(it) => value < it,
            Self::Between(from, to) => value >= from && value <= to,
        }
    }
}

/// An instant, or how long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// A day, or an instant; with the first one after it.
    At(Timestamp, Timestamp),
    /// So long ago.
    Ago(Duration),
}

/// A length, as filters have it.
pub(super) struct Length(pub(super) Duration);

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let units =
            [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1_u128)];
        let fits = |(_, unit): &&(&str, u128)| millis >= *unit && millis.is_multiple_of(*unit);
        let (name, unit) = units.iter().find(fits).unwrap_or(&("ms", 1));
        write!(f, "{}{name}", millis / unit)
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ago(length) => Length(*length).fmt(f),
            Self::At(from, to) => {
                let text = from.to_chrono();
                if to.since(*from) == Duration::from_secs(24 * 3600) {
                    write!(f, "{}", text.format("%Y-%m-%d"))
                } else if from.as_micros() % 1_000_000 == 0 {
                    write!(f, "{}", text.format("%Y-%m-%dT%H:%M:%SZ"))
                } else {
                    write!(f, "{}", text.format("%Y-%m-%dT%H:%M:%S%.6fZ"))
                }
            }
        }
    }
}

impl<T: fmt::Display> fmt::Display for Range<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(it) => write!(f, "{it}"),
            Self::Over(it) => write!(f, ">{it}"),
            Self::Under(it) => write!(f, "<{it}"),
            Self::Between(from, to) => write!(f, "{from}..{to}"),
        }
    }
}

/// A value, in quotes where it needs them.
struct Value<'a>(&'a str);

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = !self.0.is_empty()
            && !self.0.starts_with('-')
            && self.0.chars().all(|c| !c.is_whitespace() && !matches!(c, '"' | ',' | ':' | '\\'));
        if plain {
            return f.write_str(self.0);
        }
        f.write_str("\"")?;
        for c in self.0.chars() {
            if matches!(c, '"' | '\\') {
                f.write_str("\\")?;
            }
            fmt::Write::write_char(f, c)?;
        }
        f.write_str("\"")
    }
}

fn list<T>(
    f: &mut fmt::Formatter<'_>,
    key: &str,
    values: &[T],
    write: impl Fn(&T, &mut fmt::Formatter<'_>) -> fmt::Result,
) -> fmt::Result {
    write!(f, "{key}:")?;
    for (i, value) in values.iter().enumerate() {
        if i > 0 {
            f.write_str(",")?;
        }
        write(value, f)?;
    }
    Ok(())
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn texts(f: &mut fmt::Formatter<'_>, key: &str, values: &[String]) -> fmt::Result {
            list(f, key, values, |value, f| Value(value).fmt(f))
        }
        fn shown<T: fmt::Display>(
            f: &mut fmt::Formatter<'_>,
            key: &str,
            values: &[T],
        ) -> fmt::Result {
            list(f, key, values, |value, f| value.fmt(f))
        }
        fn lengths(
            f: &mut fmt::Formatter<'_>,
            key: &str,
            values: &[Range<Duration>],
        ) -> fmt::Result {
            list(f, key, values, |range, f| match range {
                Range::Exactly(it) => Length(*it).fmt(f),
                Range::Over(it) => write!(f, ">{}", Length(*it)),
                Range::Under(it) => write!(f, "<{}", Length(*it)),
                Range::Between(from, to) => write!(f, "{}..{}", Length(*from), Length(*to)),
            })
        }
        match self {
            Self::State(values) => shown(f, "state", values),
            Self::Queue(values) => texts(f, "queue", values),
            Self::Kind(values) => texts(f, "kind", values),
            Self::Tag(values) => texts(f, "tag", values),
            Self::Id(values) => shown(f, "id", values),
            Self::Parent(values) => shown(f, "parent", values),
            Self::Batch(values) => shown(f, "batch", values),
            Self::Recurring(values) => texts(f, "recurring", values),
            Self::Server(values) => texts(f, "server", values),
            Self::Priority(values) => shown(f, "priority", values),
            Self::Attempt(values) => shown(f, "attempt", values),
            Self::Wait(values) => lengths(f, "wait", values),
            Self::Run(values) => lengths(f, "run", values),
            Self::Created(values) => shown(f, "created", values),
            Self::Entered(values) => shown(f, "entered", values),
            Self::Finished(values) => shown(f, "finished", values),
            Self::Failed(values) => shown(f, "failed", values),
            Self::Due(values) => shown(f, "due", values),
            Self::Arg(path, values) => texts(f, &format!("arg.{}", path.join(".")), values),
            Self::Meta(key, values) => texts(f, &format!("meta.{key}"), values),
            Self::Context(key, values) => texts(f, &format!("ctx.{key}"), values),
            Self::Error(values) => texts(f, "error", values),
            Self::Group(values) => texts(f, "group", values),
            Self::Has(values) => shown(f, "has", values),
            Self::Text(text) => Value(text).fmt(f),
        }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.negated {
            f.write_str("-")?;
        }
        self.field.fmt(f)
    }
}

/// As it can be read again.
impl fmt::Display for JobFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.terms.iter().enumerate() {
            if i > 0 {
                f.write_str(" ")?;
            }
            term.fmt(f)?;
        }
        Ok(())
    }
}

impl JobFilter {
    /// These jobs.
    pub fn ids(ids: Vec<JobId>) -> Self {
        Self { terms: vec![Term::new(Field::Id(ids))] }
    }

    /// Jobs in this state.
    pub fn state(state: StateName) -> Self {
        Self { terms: vec![Term::new(Field::State(vec![StateTerm::Is(state)]))] }
    }

    /// With another term that has to hold.
    #[must_use]
    pub fn and(mut self, field: Field) -> Self {
        self.terms.push(Term::new(field));
        self
    }
}

impl Serialize for JobFilter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for JobFilter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error: Error| serde::de::Error::custom(error))
    }
}
