//! Changing jobs by their ids: requeue, delete, reschedule, run now, move.

use std::future::Future;
use std::time::Duration;

use serde::Serialize;

use crate::client::{BatchHandle, Client};
use crate::jobs::codec::Place;
use crate::model::backoff::Backoff;
use crate::model::clock::Timestamp;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::ids::{BatchId, JobId, OperationId};
use crate::model::lossless::to_json;
use crate::model::name::Name;
use crate::model::record::{Extras, JobDetails, Payload, check_instant};
use crate::model::state::StateName;
use crate::storage::{Action, Call, Change, ChangeOutcome, ChangeRequest, Guard};

/// What a deletion did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// The job is Deleted.
    Deleted,
    /// The job runs: it was asked to stop, and becomes Deleted unless it succeeds first.
    Cancelling,
}

impl Client {
    /// Everything known of a job; `None` if it does not exist, or not any more.
    ///
    /// # Errors
    /// The storage's.
    pub async fn job(&self, id: JobId) -> Result<Option<JobDetails>> {
        self.dyn_storage().job(id).await
    }

    /// The arguments of a job as its handler sees them, opened by this client's codecs.
    ///
    /// # Errors
    /// The codec that sealed them is missing, or cannot read them.
    pub fn open_args(&self, job: &JobDetails) -> Result<Payload> {
        self.open_stored_args(job.record.id, job.record.extras.as_deref(), &job.args)
    }

    /// The result of a job as its handler gave it, opened by this client's codecs.
    ///
    /// # Errors
    /// The codec that sealed it is missing, or cannot read it.
    pub fn open_result(&self, job: JobId, result: &Payload) -> Result<Payload> {
        let owner = job.to_string();
        self.codecs().open(Place { owner: &owner, part: "result" }, result)
    }

    /// A result as it is stored.
    ///
    /// # Errors
    /// The codec's.
    pub(crate) fn seal_result(&self, job: JobId, result: Payload) -> Result<Payload> {
        if self.codecs().is_empty() {
            return Ok(result);
        }
        let owner = job.to_string();
        self.codecs().seal(Place { owner: &owner, part: "result" }, result)
    }

    /// An output as it is stored, `None` for `()`; for backends that complete a job inside a caller's
    /// transaction.
    ///
    /// # Errors
    /// Invalid input when JSON cannot hold it; the codec's.
    #[doc(hidden)]
    pub fn seal_output<T: Serialize>(&self, job: JobId, output: &T) -> Result<Option<Payload>> {
        let output = to_json(output)
            .map_err(|loss| Error::invalid("output", format_args!("cannot be kept: {loss}")))?;
        // What `()` encodes to, and nothing need be stored.
        if output == b"null" {
            return Ok(None);
        }
        self.seal_result(job, output.into()).map(Some)
    }

    pub(crate) fn open_stored_args(
        &self,
        job: JobId,
        extras: Option<&Extras>,
        args: &Payload,
    ) -> Result<Payload> {
        if !args.is_sealed() {
            return Ok(args.clone());
        }
        // Those of a fired job were sealed with the schedule.
        let occurrence = extras.and_then(|extras| extras.occurrence.as_ref());
        let owner = match occurrence {
            Some(occurrence) => occurrence.recurring.clone(),
            None => job.to_string(),
        };
        self.codecs().open(Place { owner: &owner, part: "args" }, args)
    }

    /// Runs a finished job again; its counters begin anew, its fence goes on.
    ///
    /// # Errors
    /// A conflict when it has not finished, when its unique key is held, or its batch was cancelled.
    pub async fn requeue(&self, id: JobId) -> Result<()> {
        self.change(id, Action::Requeue { run_at: None }).await.map(drop)
    }

    /// Gives a job up. A running one is asked to stop.
    ///
    /// # Errors
    /// A conflict when it is deleted already, or was asked to stop before.
    pub async fn delete(&self, id: JobId) -> Result<Deleted> {
        match self.change(id, Action::Delete { keep: None }).await? {
            ChangeOutcome::Cancelling => Ok(Deleted::Cancelling),
            _ => Ok(Deleted::Deleted),
        }
    }

    /// Runs a waiting job at another instant.
    ///
    /// # Errors
    /// A conflict when it is neither Scheduled nor Enqueued.
    pub async fn reschedule(&self, id: JobId, run_at: impl Into<Timestamp>) -> Result<()> {
        let run_at = run_at.into();
        check_instant("run_at", Some(run_at))?;
        self.change(id, Action::Reschedule { run_at }).await.map(drop)
    }

    /// Runs a job now that waits for an instant or for parents.
    ///
    /// # Errors
    /// A conflict when it is neither Scheduled nor Awaiting.
    pub async fn run_now(&self, id: JobId) -> Result<()> {
        self.change(id, Action::RunNow).await.map(drop)
    }

    /// Moves a waiting job to another queue.
    ///
    /// # Errors
    /// A conflict when it does not wait.
    pub async fn move_to(&self, id: JobId, queue: &str) -> Result<()> {
        let queue = Some(Name::new("queue", queue)?);
        self.change(id, Action::Move { queue, priority: None }).await.map(drop)
    }

    /// A handle to a batch that is known by its id.
    pub fn batch(&self, id: BatchId) -> BatchHandle {
        BatchHandle::new(id, self.clone())
    }

    /// The state of a job; `None` if it does not exist, or not any more.
    ///
    /// # Errors
    /// The storage's.
    pub async fn state(&self, id: JobId) -> Result<Option<StateName>> {
        let records = self.dyn_storage().jobs(&[id]).await?;
        Ok(records.into_iter().next().flatten().map(|record| record.state()))
    }

    async fn change(&self, job: JobId, action: Action) -> Result<ChangeOutcome> {
        let changes = [Change { operation: OperationId::new(), job, guard: Guard::None, action }];
        let outcome = repeated(|| async {
            let request = ChangeRequest { changes: &changes, actor: None };
            let outcome = self
                .dyn_storage()
                .change_state(&Call::default(), request)
                .await?
                .into_iter()
                .next();
            match outcome {
                Some(ChangeOutcome::Busy) => {
                    Err(Error::new(ErrorKind::Unavailable, "blocked by another transaction's lock"))
                }
                Some(outcome) => Ok(outcome),
                None => Err(Error::new(ErrorKind::Internal, "the storage answered nothing")),
            }
        });
        match outcome.await? {
            ChangeOutcome::Refused(refusal) => Err(Error::from(refusal).with("job", job)),
            outcome => Ok(outcome),
        }
    }
}

/// Repeats a call that may be repeated, for 15 s at the most.
pub(crate) async fn repeated<T, F, Fut>(call: F) -> Result<T>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
    for _ in 0..16 {
        match call().await {
            Err(error) if error.is_retryable() => {}
            answer => return answer,
        }
        tokio::time::sleep(backoff.next()).await;
    }
    call().await
}
