//! [`NewJob`]: a job value, with its id and options, not enqueued yet.

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use crate::jobs::job::Job;
use crate::jobs::upgrade::{base_name, kind_of};
use crate::model::bounds::LABEL_BYTES;
use crate::model::clock::Timestamp;
use crate::model::edge::{Edge, On, Parent};
use crate::model::error::{Error, Result};
use crate::model::failure::cleaned;
use crate::model::ids::{BatchId, JobId};
use crate::model::limit::{Limit, Window};
use crate::model::lossless::to_json;
use crate::model::name::Name;
use crate::model::record::NewRecord;
use crate::model::refusal::Refusal;
use crate::model::retry::RetryPolicy;
use crate::model::state::{Retention, Start};
use crate::model::unique::{OnConflict, Unique, Until};

/// A job value: it has its id from creation, and does nothing until it is enqueued.
///
/// Mistakes in options are kept and told by `enqueue`, so that options chain.
///
/// # Example: options
/// ```
/// # use jobkit::{Job, NewJob};
/// # use std::time::Duration;
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # struct Mail { to: String }
/// # impl Job for Mail { const KIND: &'static str = "mail"; type Output = (); }
/// let mail = NewJob::new(Mail { to: "ann@example.org".into() })
///     .queue("mail")
///     .delay(Duration::from_secs(600))
///     .priority(9)
///     .tag("vip");
/// let copy = mail.clone();
/// assert_eq!(mail.id(), copy.id());
/// ```
#[must_use = "a job does nothing until it is enqueued"]
pub struct NewJob<J> {
    // Mistakes are kept until the job is enqueued, so that options chain.
    record: Result<NewRecord, Refusal>,
    id: JobId,
    // Where the edges of the last `after` begin, for `when`.
    last_edges: usize,
    _job: PhantomData<fn() -> J>,
}

impl<J: Job> NewJob<J> {
    /// A job with a new id.
    pub fn new(job: J) -> Self {
        Self::with_id(job, JobId::new())
    }

    /// A job with a given id, such as one [from a key](JobId::from_key).
    #[allow(clippy::needless_pass_by_value, reason = "a job value is made of its job")]
    pub fn with_id(job: J, id: JobId) -> Self {
        let record = Self::encode(&job, id).map_err(Refusal::from);
        Self { record, id, last_edges: 0, _job: PhantomData }
    }

    fn encode(job: &J, id: JobId) -> Result<NewRecord> {
        let args = to_json(job).map_err(|loss| {
            Error::invalid("args", format_args!("of {} cannot be kept: {loss}", type_name::<J>()))
        })?;
        let options = J::options();
        let mut record = NewRecord::new(id, kind_of::<J>()?, args);
        if let Some(queue) = options.queue {
            record.queue = Name::new("queue", queue)?;
        }
        if let Some(priority) = options.priority {
            record.priority = priority;
        }
        record.unique = job.unique();
        record.limits = job.limits();
        record.tags = job.tags();
        if let Some(name) = job.display_name().filter(|name| !name.is_empty()) {
            record.extras_mut().display_name = Some(cleaned(&name, LABEL_BYTES));
        }
        if !J::SENSITIVE.is_empty() {
            record.extras_mut().sensitive = J::SENSITIVE.iter().map(|&name| name.into()).collect();
        }
        Ok(record)
    }
}

impl<J> NewJob<J> {
    /// The id it has from creation.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// Takes the id that `key` always has for this kind: enqueueing it again, from anywhere, makes no
    /// second job as long as the first one's record is kept.
    ///
    /// A new version of the kind gives the same id: what the older one stored under the key stands, and
    /// enqueueing it again is a conflict.
    pub fn idempotency_key(mut self, key: &str) -> Self {
        if let Ok(record) = &mut self.record {
            record.id = JobId::from_key(base_name(&record.kind), key);
            self.id = record.id;
        }
        self
    }

    fn change(mut self, change: impl FnOnce(&mut NewRecord) -> Result<()>) -> Self {
        if let Ok(record) = &mut self.record
            && let Err(error) = change(record)
        {
            self.record = Err(error.into());
        }
        self
    }

    fn set(self, change: impl FnOnce(&mut NewRecord)) -> Self {
        self.change(|record| {
            change(record);
            Ok(())
        })
    }

    /// The queue, instead of the kind's.
    pub fn queue(self, queue: &str) -> Self {
        self.change(|record| {
            record.queue = Name::new("queue", queue)?;
            Ok(())
        })
    }

    /// Not before this long after it is stored, or after its last parent was decided.
    pub fn delay(self, delay: Duration) -> Self {
        self.set(|record| record.start = Start::After(delay))
    }

    /// Not before an instant.
    pub fn at(self, at: impl Into<Timestamp>) -> Self {
        self.set(|record| record.start = Start::At(at.into()))
    }

    /// Deleted instead, if no server has started it by this instant. It must lie behind the instant at
    /// which the job may start; a requeue ends it.
    pub fn start_by(self, by: impl Into<Timestamp>) -> Self {
        self.set(|record| record.start_by = Some(by.into()))
    }

    /// 0 to 9; 9 goes first.
    pub fn priority(self, priority: u8) -> Self {
        self.set(|record| record.priority = priority)
    }

    /// Adds a tag; at most 8 of 64 bytes.
    pub fn tag(self, tag: impl Into<String>) -> Self {
        self.set(|record| record.tags.push(tag.into()))
    }

    /// Adds tags.
    pub fn tags<T: Into<String>>(self, tags: impl IntoIterator<Item = T>) -> Self {
        self.set(|record| record.tags.extend(tags.into_iter().map(Into::into)))
    }

    /// Adds a value by which people and filters tell jobs apart; 4 KiB in all.
    pub fn metadata(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.set(|record| {
            record.extras_mut().metadata.insert(key.into(), value.into());
        })
    }

    /// A value that travels with the job and its children, in addition to what is captured at the enqueue; 4 KiB
    /// in all. See [`capture`](crate::jobs::capture).
    pub fn capture(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.set(|record| {
            record.extras_mut().context.insert(key.into(), value.into());
        })
    }

    /// A name for people, instead of the kind's.
    pub fn display_name(self, name: impl Into<String>) -> Self {
        self.set(|record| record.extras_mut().display_name = Some(name.into()))
    }

    /// At most one job holds the key until it has finished; a second one returns the existing.
    pub fn unique(self, key: impl Into<String>) -> Self {
        self.set(|record| record.unique = Some(Unique::new(key)))
    }

    /// Until when the unique key is held; named after [`unique`](Self::unique).
    pub fn unique_until(self, until: Until) -> Self {
        self.change_unique("unique_until", |unique| unique.until = until)
    }

    /// What happens when the unique key is held; named after [`unique`](Self::unique).
    pub fn on_conflict(self, on_conflict: OnConflict) -> Self {
        self.change_unique("on_conflict", |unique| unique.on_conflict = on_conflict)
    }

    /// Throttles: of the jobs enqueued with this key, at most one in every `period` is stored, the first;
    /// the others are given its handle. Short for [`unique`](Self::unique) until a
    /// [`Period`](Until::Period) has passed.
    ///
    /// # Example: one reminder an hour
    /// ```
    /// # use jobkit::{Client, Job, MemoryStorage, NewJob};
    /// # use std::time::Duration;
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// # struct Remind {}
    /// # impl Job for Remind { const KIND: &'static str = "remind"; type Output = (); }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), jobkit::Error> {
    /// # let client = Client::new(MemoryStorage::new());
    /// let remind = || NewJob::new(Remind {}).throttle("remind:42", Duration::from_secs(3600));
    /// let first = client.enqueue(remind()).await?;
    /// let second = client.enqueue(remind()).await?;
    /// assert_eq!(first.id(), second.id());
    /// # Ok(())
    /// # }
    /// ```
    pub fn throttle(self, key: impl Into<String>, period: Duration) -> Self {
        self.unique(key).unique_until(Until::Period(period))
    }

    /// Debounces: the job runs when `quiet` has passed without another one being enqueued with this key,
    /// and the last one wins; those before it become Deleted, replaced. As long as they keep coming
    /// faster than that, none runs.
    ///
    /// Short for [`unique`](Self::unique) until started, [`Replace`](OnConflict::Replace), and a
    /// [`delay`](Self::delay).
    ///
    /// # Example: index a document once its author pauses
    /// ```
    /// # use jobkit::{Client, Job, MemoryStorage, NewJob};
    /// # use std::time::Duration;
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// # struct Index { version: u32 }
    /// # impl Job for Index { const KIND: &'static str = "index"; type Output = (); }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), jobkit::Error> {
    /// # let client = Client::new(MemoryStorage::new());
    /// for version in 1..=3 {
    ///     let index = NewJob::new(Index { version });
    ///     client.enqueue(index.debounce("index:7", Duration::from_secs(10))).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn debounce(self, key: impl Into<String>, quiet: Duration) -> Self {
        self.unique(key).unique_until(Until::Started).on_conflict(OnConflict::Replace).delay(quiet)
    }

    fn change_unique(self, field: &'static str, change: impl FnOnce(&mut Unique)) -> Self {
        self.change(|record| match &mut record.unique {
            Some(unique) => {
                change(unique);
                Ok(())
            }
            None => {
                Err(Error::invalid(field, "needs a unique key: name it with `.unique(key)` before"))
            }
        })
    }

    /// Runs under a limit: at most `max` jobs of that name at once. A mutex is a limit of one.
    pub fn limit(self, name: impl Into<String>, max: u32) -> Self {
        self.set(|record| record.limits.push(Limit::new(name, max)))
    }

    /// Starts under a rate limit: at most `max` attempts of jobs that name it start in a window.
    ///
    /// # Example: no more than a hundred a minute
    /// ```
    /// # use jobkit::{Job, NewJob};
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// # struct Push { customer: u64 }
    /// # impl Job for Push { const KIND: &'static str = "push"; type Output = (); }
    /// use std::time::Duration;
    /// use jobkit::limit::Window;
    ///
    /// let minute = Window::Sliding(Duration::from_secs(60));
    /// let push = NewJob::new(Push { customer: 7 }).rate_limit("crm", 100, minute);
    /// # push.into_record()?;
    /// # Ok::<(), jobkit::Error>(())
    /// ```
    pub fn rate_limit(self, name: impl Into<String>, max: u32, window: Window) -> Self {
        self.set(|record| record.limits.push(Limit::rate(name, max, window)))
    }

    /// When a failed attempt is repeated, instead of the kind's policy.
    pub fn retry(self, policy: RetryPolicy) -> Self {
        self.change(|record| {
            policy.validate()?;
            record.extras_mut().overrides.retry = Some(policy);
            Ok(())
        })
    }

    /// How many failures it may have, 1 to 1,000, the first run included.
    pub fn max_attempts(self, max_attempts: u32) -> Self {
        self.change(|record| {
            RetryPolicy::none().max_attempts(max_attempts).validate()?;
            record.extras_mut().overrides.max_attempts = Some(max_attempts);
            Ok(())
        })
    }

    /// How long one attempt may take.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.set(|record| record.extras_mut().overrides.timeout = Some(timeout))
    }

    /// How long the finished job is kept; at least an hour.
    pub fn retention(self, retention: Retention) -> Self {
        self.set(|record| record.extras_mut().overrides.retention = Some(retention))
    }

    /// Runs after a parent, a job or a batch, has succeeded; see [`when`](Self::when).
    pub fn after(self, parent: impl AsParent) -> Self {
        self.after_all([parent])
    }

    /// Runs after all of the parents have succeeded; at most 100.
    pub fn after_all<P: AsParent>(mut self, parents: impl IntoIterator<Item = P>) -> Self {
        if let Ok(record) = &mut self.record {
            self.last_edges = record.edges.len();
            let edge = |parent: P| Edge { parent: parent.as_parent(), on: On::Success };
            record.edges.extend(parents.into_iter().map(edge));
        }
        self
    }

    /// Which end of the parents named last it waits for, instead of success.
    pub fn when(mut self, on: On) -> Self {
        if let Ok(record) = &mut self.record {
            for edge in &mut record.edges[self.last_edges..] {
                edge.on = on;
            }
        }
        self
    }

    /// Makes it a member of a batch that is open or runs, such as from inside a handler.
    pub fn in_batch(self, batch: BatchId) -> Self {
        self.set(|record| record.batch = Some(batch))
    }

    /// The record for a schedule: without what is captured here, so that saving the same definition from
    /// another request or attempt changes nothing.
    pub(crate) fn into_template(self) -> Result<NewRecord> {
        let record = self.record.map_err(Error::from)?;
        record.check()?;
        Ok(record)
    }

    /// The record to be stored, or what was wrong with the options.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput), with the field and the reason.
    pub fn into_record(self) -> Result<NewRecord> {
        let mut record = self.record.map_err(Error::from)?;
        crate::jobs::capture::into(&mut record);
        record.check()?;
        Ok(record)
    }
}

impl<J> Clone for NewJob<J> {
    fn clone(&self) -> Self {
        Self {
            record: self.record.clone(),
            id: self.id,
            last_edges: self.last_edges,
            _job: PhantomData,
        }
    }
}

impl<J> fmt::Debug for NewJob<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewJob").field("id", &self.id).field("record", &self.record).finish()
    }
}

/// Something that a job can wait for.
pub trait AsParent {
    /// As the storage knows it.
    fn as_parent(&self) -> Parent;
}

impl AsParent for JobId {
    fn as_parent(&self) -> Parent {
        Parent::Job(*self)
    }
}

impl AsParent for BatchId {
    fn as_parent(&self) -> Parent {
        Parent::Batch(*self)
    }
}

impl<J> AsParent for NewJob<J> {
    fn as_parent(&self) -> Parent {
        Parent::Job(self.id)
    }
}

impl<P: AsParent + ?Sized> AsParent for &P {
    fn as_parent(&self) -> Parent {
        (**self).as_parent()
    }
}

/// A job by the name of its kind and its arguments, without the code that declares it.
///
/// # Errors
/// [`InvalidInput`](crate::ErrorKind::InvalidInput) for a bad name.
pub fn job_by_name(
    kind: &str,
    args: &serde_json::Map<String, serde_json::Value>,
) -> Result<NewJob<Untyped>> {
    let id = JobId::new();
    let args = serde_json::to_vec(args).map_err(|error| Error::invalid("args", error))?;
    let record = NewRecord::new(id, Name::new("kind", kind)?, args);
    Ok(NewJob { record: Ok(record), id, last_edges: 0, _job: PhantomData })
}

/// A job whose type this process does not know.
#[derive(Debug)]
pub enum Untyped {}
