//! Submissions share flights, and are repeated until their outcome is known.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::client::coalescer::{BatchCall, Coalescer, Size};
use crate::metrics;
use crate::model::backoff::Backoff;
use crate::model::bounds;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::refusal::Refusal;
use crate::storage::{Call, JobSubmitted, Storage, Submission, SubmitRequest, Submitted, caught};

/// How long a caller that wants no repetition waits for its one answer.
const ONE_TRY: Duration = Duration::from_secs(15);

/// One attempt in this many goes alone: what fails the whole call again and again may be one of
/// those it shares it with.
const ALONE_EACH: u32 = 3;

/// Sends submissions; those with unique keys apart, so that a key held by a stranger's transaction
/// delays nobody else.
pub(super) struct Submitter {
    plain: Coalescer<SubmitCall>,
    keyed: Coalescer<SubmitCall>,
    storage: SubmitCall,
}

struct SubmitCall(Arc<dyn Storage>);

#[async_trait]
impl BatchCall for SubmitCall {
    type Request = Arc<Submission>;
    type Answer = Submitted;

    async fn send(&self, requests: &[Arc<Submission>]) -> Result<Vec<Submitted>> {
        let submissions: Vec<Submission> =
            requests.iter().map(|one| Submission::clone(one)).collect();
        self.0.submit(&Call::default(), SubmitRequest { submissions: &submissions }).await
    }

    fn size(&self, request: &Arc<Submission>) -> Size {
        Size {
            requests: 1,
            items: request.jobs.len(),
            bytes: request.jobs.iter().map(|job| job.size()).sum(),
        }
    }

    fn max(&self) -> Size {
        let capabilities = self.0.capabilities();
        Size {
            requests: capabilities.items_of(bounds::STEP_ITEMS),
            // A flow is sent whole, however large it is; several share a call where they fit.
            items: match capabilities.step_items {
                few if few < bounds::STEP_ITEMS => few.max(1),
                _ => bounds::SUBMISSION_JOBS,
            },
            bytes: bounds::SUBMISSION_BYTES,
        }
    }
}

impl Submitter {
    pub(super) fn new(storage: &Arc<dyn Storage>) -> Self {
        Self {
            plain: Coalescer::new(SubmitCall(Arc::clone(storage))),
            keyed: Coalescer::new(SubmitCall(Arc::clone(storage))),
            storage: SubmitCall(Arc::clone(storage)),
        }
    }

    /// Submits until it is known to be stored or refused; `timeout` bounds the whole of it. Zero gives up
    /// at the first error.
    pub(super) async fn submit(
        &self,
        submission: Submission,
        timeout: Duration,
    ) -> Result<Result<Vec<JobSubmitted>, Refusal>> {
        submission.check().map_err(|error| error.during("enqueue"))?;
        let flights = if submission.has_keys() { &self.keyed } else { &self.plain };
        let submission = Arc::new(submission);
        let begun = Instant::now();
        let give_up_at = begun + timeout;
        let answer_by = if timeout.is_zero() { begun + ONE_TRY } else { give_up_at };
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        let mut alone = false;
        for attempt in 1.. {
            let answer = match alone || attempt % ALONE_EACH == 0 {
                true => self.alone(&submission, answer_by).await,
                false => flights.request(Arc::clone(&submission), answer_by).await,
            };
            let error = match answer {
                Ok(Submitted::Created(jobs)) => {
                    metrics::submitted(&submission, begun.elapsed());
                    return Ok(Ok(jobs));
                }
                Ok(Submitted::Refused(refusal)) => return Ok(Err(refusal)),
                Ok(Submitted::Busy) => {
                    // In a flight it would hold up others for as long as the storage waits for the lock.
                    alone = true;
                    Error::new(ErrorKind::Unavailable, "blocked by another transaction's lock")
                }
                Err(error) if error.is_retryable() => error,
                Err(error) => return Err(error.during("enqueue")),
            };
            let wait = backoff.next();
            if Instant::now() + wait > give_up_at {
                return Err(error.during("enqueue"));
            }
            tracing::debug!(error = %error, "enqueue failed, retrying");
            tokio::time::sleep(wait).await;
        }
        unreachable!("attempts go on until an answer or the time is up")
    }

    /// Sends one submission in a call of its own.
    async fn alone(&self, submission: &Arc<Submission>, answer_by: Instant) -> Result<Submitted> {
        let send = caught(self.storage.send(std::slice::from_ref(submission)));
        let answers = tokio::time::timeout_at(answer_by, send).await.unwrap_or_else(|_| {
            let text = "the storage has not answered in time";
            Err(Error::new(ErrorKind::Timeout, text).maybe_applied())
        })?;
        let none = || Error::new(ErrorKind::Internal, "the storage answered nothing for an item");
        answers.into_iter().next().ok_or_else(none)
    }
}
