//! Submissions share flights, and are repeated until their outcome is known.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::bounds;
use crate::coalescer::{Coalescer, Flight, Size};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::jittered;
use crate::metrics;
use crate::refusal::Refusal;
use crate::storage::{JobSubmitted, Storage, Submission, SubmitRequest, Submitted};

/// How long one submit may take.
const LONGEST: Duration = Duration::from_secs(15);

/// Sends submissions; those with unique keys apart, so that a key held by a stranger's transaction
/// delays nobody else.
pub(super) struct Submitter {
    plain: Coalescer<SubmitFlight>,
    keyed: Coalescer<SubmitFlight>,
}

struct SubmitFlight(Arc<dyn Storage>);

#[async_trait]
impl Flight for SubmitFlight {
    type Request = Arc<Submission>;
    type Answer = Submitted;

    async fn fly(&self, requests: &[Arc<Submission>]) -> Result<Vec<Submitted>> {
        let submissions: Vec<Submission> =
            requests.iter().map(|one| Submission::clone(one)).collect();
        let request = SubmitRequest { submissions: &submissions, now: None };
        // A call that is never answered must not hold up those behind it.
        let answers = match tokio::time::timeout(LONGEST, self.0.submit(request)).await {
            Ok(answers) => answers?,
            Err(_) => {
                let text = "the storage has not answered for 15 s";
                return Err(Error::new(ErrorKind::Timeout, text).maybe_applied());
            }
        };
        if answers.len() == requests.len() {
            return Ok(answers);
        }
        let text = format!(
            "the storage gave {} answers for {} submissions",
            answers.len(),
            requests.len()
        );
        Err(Error::new(ErrorKind::Internal, text).maybe_applied())
    }

    fn size(&self, request: &Arc<Submission>) -> Size {
        Size {
            requests: 1,
            items: request.jobs.len(),
            bytes: request.jobs.iter().map(|job| job.size()).sum(),
        }
    }

    fn most(&self) -> Size {
        Size {
            requests: bounds::STEP_ITEMS,
            items: bounds::SUBMISSION_JOBS,
            bytes: bounds::SUBMISSION_BYTES,
        }
    }
}

impl Submitter {
    pub(super) fn new(storage: &Arc<dyn Storage>) -> Self {
        Self {
            plain: Coalescer::new(SubmitFlight(Arc::clone(storage))),
            keyed: Coalescer::new(SubmitFlight(Arc::clone(storage))),
        }
    }

    /// Submits once it is known to be stored or refused; `timeout` bounds the repetitions.
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
        let mut pause = Duration::from_millis(20);
        loop {
            let error = match flights.request(Arc::clone(&submission)).await {
                Ok(Submitted::Created(jobs)) => {
                    metrics::submitted(&submission, begun.elapsed());
                    return Ok(Ok(jobs));
                }
                Ok(Submitted::Refused(refusal)) => return Ok(Err(refusal)),
                Ok(Submitted::Busy) => {
                    Error::new(ErrorKind::Unavailable, "blocked by another transaction's lock")
                }
                Err(error) if error.is_retryable() => error,
                Err(error) => return Err(error.during("enqueue")),
            };
            let wait = jittered(pause);
            if Instant::now() + wait > give_up_at {
                return Err(error.during("enqueue"));
            }
            tracing::debug!(error = %error, "enqueue failed, trying again");
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }
}
