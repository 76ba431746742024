//! The ends of jobs, as they happen.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::client::Client;
use crate::model::bounds::PAGE;
use crate::model::clock::Timestamp;
use crate::model::error::Result;
use crate::model::ids::JobId;
use crate::model::name::Name;
use crate::model::record::JobRecord;
use crate::model::state::StateName;
use crate::storage::JobQuery;

/// How often the storage is asked. No storage is made to tell each end to whoever follows all of them.
const POLL: Duration = Duration::from_millis(500);
/// How far back each look goes: what was committed late by another process is still seen.
const OVERLAP: Duration = Duration::from_secs(2);

/// A clock that is so much further than it should be was set, and did not merely go on.
const JUMP: Duration = Duration::from_secs(60);

/// How many ends one look holds in memory.
const AT_ONCE: usize = 10_000;
/// The shortest span that is looked at.
const STEP: Duration = Duration::from_millis(1);

const ENDS: [StateName; 3] = [StateName::Succeeded, StateName::Failed, StateName::Deleted];

impl Client {
    /// Follows the ends of jobs from now on: of every server, in about their order, each end once. A job
    /// that is requeued ends again. An end is seen within about half a second.
    ///
    /// For people, tests and small reactions: it reads what the storage keeps, so a job that is removed
    /// as soon as it ends is not seen, and nothing is remembered when this process dies. It also misses an
    /// end whose commit comes more than 2 s after its time, since a database was so slow. Work that must
    /// follow an end is a continuation.
    ///
    /// # Errors
    /// The storage's; [`Unsupported`](crate::ErrorKind::Unsupported) where it keeps no lists.
    ///
    /// # Example: what fails, as it fails
    /// ```
    /// # use jobkit::{Client, MemoryStorage};
    /// # use jobkit::state::StateName;
    /// # async fn watch(client: Client) -> Result<(), jobkit::Error> {
    /// let mut ends = client.subscribe().await?.kind("charge_card")?;
    /// loop {
    ///     let job = ends.next().await?;
    ///     if job.state() == StateName::Failed {
    ///         eprintln!("{} failed", job.id);
    ///     }
    /// }
    /// # }
    /// ```
    pub async fn subscribe(&self) -> Result<FinishedJobs> {
        let client = self.clone();
        let storage = client.dyn_storage();
        // One who asks must be told at once that there is nothing to be had.
        storage.list(&JobQuery { limit: 1, ..JobQuery::new(StateName::Succeeded) }).await?;
        let since = storage.now().await?;
        Ok(FinishedJobs {
            since,
            looked_at: Instant::now(),
            before_back: None,
            begun_at: since,
            kind: None,
            queue: None,
            seen: HashSet::new(),
            ready: VecDeque::new(),
            look_at: None,
            client,
        })
    }
}

/// The ends of jobs; made by [`Client::subscribe`].
pub struct FinishedJobs {
    client: Client,
    /// Up to where everything was seen.
    since: Timestamp,
    /// When that was.
    looked_at: Instant,
    /// Up to where everything was seen when the clock last went back.
    before_back: Option<Timestamp>,
    begun_at: Timestamp,
    kind: Option<Name>,
    queue: Option<Name>,
    /// The ends within the overlap: job and instant, since a job may end several times.
    seen: HashSet<(JobId, Timestamp)>,
    ready: VecDeque<JobRecord>,
    look_at: Option<Instant>,
}

impl fmt::Debug for FinishedJobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FinishedJobs").field("since", &self.since).finish_non_exhaustive()
    }
}

impl FinishedJobs {
    /// Of this kind only.
    ///
    /// # Errors
    /// Invalid input for a bad name.
    pub fn kind(mut self, kind: &str) -> Result<Self> {
        self.kind = Some(Name::new("kind", kind)?);
        Ok(self)
    }

    /// Of this queue only.
    ///
    /// # Errors
    /// Invalid input for a bad name.
    pub fn queue(mut self, queue: &str) -> Result<Self> {
        self.queue = Some(Name::new("queue", queue)?);
        Ok(self)
    }

    /// Waits for the next end.
    ///
    /// # Errors
    /// The storage's; the next call goes on where this one was.
    ///
    /// # Cancel safety
    /// A dropped future loses no end.
    pub async fn next(&mut self) -> Result<JobRecord> {
        loop {
            if let Some(job) = self.ready.pop_front() {
                return Ok(job);
            }
            let look_at = match self.look_at {
                Some(at) => at,
                None => *self.look_at.insert(Instant::now() + POLL),
            };
            tokio::time::sleep_until(look_at).await;
            let all = self.look().await?;
            self.look_at = if all { None } else { Some(Instant::now()) };
        }
    }

    /// Reads what ended since the last look, or the first part of it where that is more than one look
    /// should hold in memory; whether it was all.
    async fn look(&mut self) -> Result<bool> {
        let asked_at = Instant::now();
        // What ends while the lists are read belongs to the next look.
        let now = self.client.dyn_storage().now().await?;
        let passed = asked_at.saturating_duration_since(self.looked_at);
        let expected = self.since.plus(passed);
        if now < self.since.minus(OVERLAP) {
            self.finish(expected).await?;
            tracing::info!(from = %self.since, to = %now, "the storage's clock went back");
            self.before_back = Some(self.since);
            // What ended since the last look did so, by the new time, no longer ago than that look is.
            self.go_on(now.minus(passed), asked_at);
        } else if let Some(before) = self
            .before_back
            .filter(|before| *before > self.since && *before <= now && now.since(expected) > JUMP)
        {
            self.finish(expected).await?;
            tracing::info!(from = %self.since, to = %now, "the storage's clock is right again");
            self.before_back = None;
            self.go_on(before, asked_at);
        }
        let from = self.since.minus(OVERLAP).max(self.begun_at);
        let now = now.max(from.plus(STEP));
        let mut to = now;
        let found = loop {
            let length = to.since(from);
            match self.ended(from, to).await? {
                Some(found) => break found,
                None if length <= STEP => {
                    tracing::warn!("subscriber fell behind, some finished jobs were skipped");
                    break Vec::new();
                }
                None => to = from.plus((length / 2).max(STEP)),
            }
        };
        self.since = self.since.max(to);
        self.looked_at = asked_at;
        let oldest = self.since.minus(OVERLAP);
        self.seen.retain(|(_, at)| *at >= oldest);
        self.hand_out(found);
        Ok(to == now)
    }

    fn hand_out(&mut self, found: Vec<JobRecord>) {
        for job in found {
            if self.seen.insert((job.id, job.head.entered_at)) {
                self.ready.push_back(job);
            }
        }
    }

    /// Hands out what ended after the last look and before the clock was set: it has the former time.
    async fn finish(&mut self, expected: Timestamp) -> Result<()> {
        let from = self.since.minus(OVERLAP).max(self.begun_at);
        let last = self.ended(from, expected.plus(OVERLAP)).await?;
        self.hand_out(last.unwrap_or_default());
        Ok(())
    }

    /// Goes on from another instant, since the clock was set. What lies between is not of its time.
    fn go_on(&mut self, since: Timestamp, asked_at: Instant) {
        (self.since, self.begun_at, self.looked_at) = (since, since, asked_at);
    }

    /// What ended in a span and was not told, in its order; `None` if that is more than [`AT_ONCE`].
    async fn ended(&mut self, from: Timestamp, to: Timestamp) -> Result<Option<Vec<JobRecord>>> {
        let mut found = Vec::new();
        for state in ENDS {
            let mut query = JobQuery {
                kind: self.kind.clone(),
                queue: self.queue.clone(),
                from: Some(from),
                to: Some(to),
                limit: PAGE,
                ..JobQuery::new(state)
            };
            loop {
                let page = self.client.dyn_storage().list(&query).await?;
                let new = |job: &JobRecord| !self.seen.contains(&(job.id, job.head.entered_at));
                found.extend(page.jobs.into_iter().filter(new));
                query.after = page.next;
                if query.after.is_none() {
                    break;
                }
                if found.len() > AT_ONCE {
                    return Ok(None);
                }
            }
        }
        found.sort_by_key(|job| (job.head.entered_at, job.sequence));
        Ok(Some(found))
    }
}
