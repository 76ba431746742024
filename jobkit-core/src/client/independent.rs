//! Any number of jobs that have nothing to do with each other: several calls beside each other, each of as
//! many submissions as the storage takes well.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::client::Shared;
use crate::metrics;
use crate::model::backoff::Backoff;
use crate::model::bounds;
use crate::model::edge::Parent;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::ids::JobId;
use crate::model::record::NewRecord;
use crate::model::refusal::Refusal;
use crate::storage::{Call, Submission, SubmitRequest, Submitted, caught};

/// Calls beside each other: enough that the way to the storage does not count, and few enough that connections
/// are left for others.
const BESIDE: usize = 6;
/// How long one call may take.
const CALL_LIMIT: Duration = Duration::from_secs(15);

/// A job that was submitted: its place among all, and how it went.
pub(super) type Outcome = (usize, Result<()>);

/// Submissions of one job each, on their way.
pub(super) struct Independent {
    shared: Arc<Shared>,
    runtime: Handle,
    /// The most of one call.
    step: usize,
    jobs: Vec<(usize, NewRecord)>,
    bytes: usize,
    out: VecDeque<Out>,
    outcomes: Vec<Outcome>,
}

struct Out {
    ids: Vec<JobId>,
    call: JoinHandle<Result<Vec<Outcome>>>,
}

impl Independent {
    pub(super) fn new(shared: &Arc<Shared>) -> Result<Self> {
        let runtime = Handle::try_current().map_err(|_| {
            let text = "a Tokio runtime is needed, and there is none here";
            Error::new(ErrorKind::Configuration, text).during("enqueue")
        })?;
        Ok(Self {
            shared: Arc::clone(shared),
            runtime,
            step: shared.storage.capabilities().items_of(bounds::MAX_STEP_ITEMS),
            jobs: Vec::new(),
            bytes: 0,
            out: VecDeque::new(),
            outcomes: Vec::new(),
        })
    }

    /// Adds a job that filters and codecs have seen, and sends what is full.
    ///
    /// # Errors
    /// A call failed for so long that the caller gives up.
    pub(super) async fn add(&mut self, place: usize, job: NewRecord) -> Result<()> {
        if let Err(error) = job.check() {
            self.refused(place, error.during("enqueue"));
            return Ok(());
        }
        self.bytes += job.size();
        self.jobs.push((place, job));
        if self.jobs.len() < self.step && self.bytes < bounds::SUBMISSION_BYTES / 2 {
            return Ok(());
        }
        self.send().await
    }

    /// Notes a job that is not even sent.
    pub(super) fn refused(&mut self, place: usize, error: Error) {
        self.outcomes.push((place, Err(error)));
    }

    /// How it went so far; in no order.
    pub(super) fn take_outcomes(&mut self) -> Vec<Outcome> {
        std::mem::take(&mut self.outcomes)
    }

    /// Sends what is left, and waits for all answers.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub(super) async fn finish(&mut self) -> Result<()> {
        self.send().await?;
        self.wait_for(0).await
    }

    /// Waits until no call is on its way, whatever comes of it.
    pub(super) async fn abandon(&mut self) {
        for out in std::mem::take(&mut self.out) {
            let _ = out.call.await;
        }
    }

    async fn send(&mut self) -> Result<()> {
        self.bytes = 0;
        let jobs = std::mem::take(&mut self.jobs);
        if jobs.is_empty() {
            return Ok(());
        }
        let ids: Vec<JobId> = jobs.iter().map(|(_, job)| job.id).collect();
        match self.depends(&jobs, &ids) {
            Depends::Nobody => {}
            Depends::Sent => self.wait_for(0).await?,
            Depends::EachOther => {
                self.wait_for(0).await?;
                let together = self.shared.submit_together(jobs).await?;
                self.outcomes.extend(together);
                return Ok(());
            }
        }
        // A key held by a stranger's transaction delays nobody else.
        let (keyed, plain): (Vec<_>, Vec<_>) =
            jobs.into_iter().partition(|(_, job)| job.unique.is_some());
        for jobs in [plain, keyed] {
            if jobs.is_empty() {
                continue;
            }
            self.wait_for(BESIDE - 1).await?;
            let ids = jobs.iter().map(|(_, job)| job.id).collect();
            // A task of its own: a caller that goes away tears no call off.
            let call = self.runtime.spawn(Arc::clone(&self.shared).submit_each(jobs));
            self.out.push_back(Out { ids, call });
        }
        Ok(())
    }

    /// Waits until at most this many calls are on their way.
    async fn wait_for(&mut self, most: usize) -> Result<()> {
        while self.out.len() > most {
            let Some(out) = self.out.pop_front() else { break };
            let outcomes = out.call.await.map_err(|error| {
                let text = "the runtime that sent the call has ended, so its outcome is unknown";
                Error::new(ErrorKind::Unavailable, text).maybe_applied().caused_by(error)
            })?;
            self.outcomes.extend(outcomes?);
        }
        Ok(())
    }

    /// Whether jobs wait for others of this caller, which must be stored before them.
    fn depends(&self, jobs: &[(usize, NewRecord)], ids: &[JobId]) -> Depends {
        let parents = jobs.iter().flat_map(|(_, job)| &job.edges);
        let parents = parents.filter_map(|edge| match edge.parent {
            Parent::Job(parent) => Some(parent),
            Parent::Batch(_) => None,
        });
        let parents: HashSet<JobId> = parents.collect();
        if parents.is_empty() {
            return Depends::Nobody;
        }
        if ids.iter().any(|id| parents.contains(id)) {
            return Depends::EachOther;
        }
        match self.out.iter().flat_map(|out| &out.ids).any(|id| parents.contains(id)) {
            true => Depends::Sent,
            false => Depends::Nobody,
        }
    }
}

/// Whom jobs wait for, of those of one caller.
enum Depends {
    Nobody,
    Sent,
    EachOther,
}

impl Shared {
    /// Jobs that wait for each other: as one flow, or one after the other where it is refused.
    async fn submit_together(&self, jobs: Vec<(usize, NewRecord)>) -> Result<Vec<Outcome>> {
        let flow = Submission::flow(jobs.iter().map(|(_, job)| job.clone()).collect());
        match self.submit_prepared(flow).await {
            Ok(_) => return Ok(jobs.into_iter().map(|(place, _)| (place, Ok(()))).collect()),
            Err(error) if error.is_retryable() => return Err(error),
            Err(_) => {}
        }
        let mut outcomes = Vec::with_capacity(jobs.len());
        for (place, job) in jobs {
            outcomes.push((place, self.submit_alone(job).await?));
        }
        Ok(outcomes)
    }

    /// The inner result is the job's own.
    async fn submit_alone(&self, job: NewRecord) -> Result<Result<()>> {
        match self.submit_prepared(Submission::one(job)).await {
            Ok(_) => Ok(Ok(())),
            Err(error) if error.is_retryable() => Err(error),
            Err(error) => Ok(Err(error)),
        }
    }

    /// Jobs that do not wait for each other, in one call. What is refused is answered in its place.
    async fn submit_each(self: Arc<Self>, jobs: Vec<(usize, NewRecord)>) -> Result<Vec<Outcome>> {
        let (places, submissions): (Vec<_>, Vec<_>) =
            jobs.into_iter().map(|(place, job)| (place, Submission::one(job))).unzip();
        let mut outcomes = Vec::with_capacity(places.len());
        // Where a call cannot be made at all, one of its jobs may be why: each half goes alone.
        let mut calls: Vec<_> = std::iter::once(0..places.len()).collect();
        while let Some(range) = calls.pop() {
            let begun = Instant::now();
            let answers = match self.submit_call(&submissions[range.clone()]).await {
                Ok(answers) => answers,
                Err(error) if error.is_retryable() => return Err(error),
                Err(error) if range.len() == 1 => {
                    outcomes.push((places[range.start], Err(error)));
                    continue;
                }
                Err(_) => {
                    let middle = range.start + range.len() / 2;
                    calls.extend([middle..range.end, range.start..middle]);
                    continue;
                }
            };
            let has_codecs = !self.options.codecs.is_empty();
            for (at, answer) in range.zip(answers) {
                let outcome = match answer {
                    Submitted::Created(_) => {
                        metrics::submitted(&submissions[at], begun.elapsed());
                        Ok(())
                    }
                    // What another codec has sealed may be the same job.
                    Submitted::Refused(Refusal::IdConflict { .. }) if has_codecs => {
                        self.submit_again(&submissions[at]).await?
                    }
                    Submitted::Refused(refusal) => Err(Error::from(refusal).during("enqueue")),
                    Submitted::Busy => self.submit_again(&submissions[at]).await?,
                };
                outcomes.push((places[at], outcome));
            }
        }
        Ok(outcomes)
    }

    async fn submit_again(&self, submission: &Submission) -> Result<Result<()>> {
        match &submission.jobs[..] {
            [job] => self.submit_alone(job.clone()).await,
            _ => Ok(Ok(())),
        }
    }

    /// One call, repeated until it is answered or the caller gives up.
    async fn submit_call(&self, submissions: &[Submission]) -> Result<Vec<Submitted>> {
        let give_up_at = Instant::now() + self.options.submit_timeout;
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        loop {
            let context = Call::default();
            let call = self.storage.submit(&context, SubmitRequest { submissions });
            let answers = tokio::time::timeout(CALL_LIMIT, caught(call)).await;
            let error = match answers {
                Ok(Ok(answers)) if answers.len() == submissions.len() => return Ok(answers),
                Ok(Ok(answers)) => {
                    let (given, asked) = (answers.len(), submissions.len());
                    let text = format!("the storage gave {given} answers for {asked} requests");
                    Error::new(ErrorKind::Internal, text).maybe_applied()
                }
                Ok(Err(error)) => error,
                Err(_) => {
                    let text = format!("the storage has not answered for {CALL_LIMIT:?}");
                    Error::new(ErrorKind::Timeout, text).maybe_applied()
                }
            };
            let wait = backoff.next();
            if !error.is_retryable() || Instant::now() + wait > give_up_at {
                return Err(error.during("enqueue"));
            }
            tracing::debug!(error = %error, "enqueue failed, retrying");
            tokio::time::sleep(wait).await;
        }
    }
}
