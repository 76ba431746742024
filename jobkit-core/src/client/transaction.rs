//! Enqueueing inside the caller's transaction: the job commits or vanishes with the caller's rows.

use crate::client::{Batch, Client};
use crate::jobs::new_job::NewJob;
use crate::model::error::{Error, Result};
use crate::model::ids::{BatchId, JobId};
use crate::storage::{JobSubmitted, Submission};

/// A transaction in which a client can enqueue; implemented by each backend for its driver's transactions.
///
/// `S` is the backend's storage. It lets the backend implement this trait for a driver's type, and the
/// compiler infers it. Whether the client really has such a storage shows at run time, by
/// [`Client::storage_as`]; if not, each call of the scope returns
/// [`Configuration`](crate::ErrorKind::Configuration).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a transaction of a storage",
    note = "give a reference to the transaction, such as `&rusqlite::Transaction`, and enable its backend's feature"
)]
pub trait InTransaction<S> {
    /// What enqueues inside it.
    type Scope;

    /// Begins to enqueue inside it.
    fn scope(self, client: &Client) -> Self::Scope;
}

impl Client {
    /// Enqueues inside a transaction of the caller's, so that a job is there exactly if the caller's rows
    /// are.
    ///
    /// Such a submission may not name jobs or batches that exist already, nor replace the holder of a unique
    /// key: their rows would be held until the caller commits. It may hold whole flows and batches of its own.
    ///
    /// A call that is refused stores nothing, and the transaction goes on: the caller may execute other
    /// statements, enqueue again, and commit. That holds for every storage.
    ///
    /// The first use of a limit, a queue or a kind stores its name. The storage may do so before the
    /// transaction commits, and the name may stay though the transaction is rolled back.
    ///
    /// The transaction must be one on this client's storage. Otherwise each call inside returns
    /// [`Configuration`](crate::ErrorKind::Configuration) and changes nothing.
    pub fn within<S, T: InTransaction<S>>(&self, transaction: T) -> T::Scope {
        transaction.scope(self)
    }
}

/// Job values that make one submission: one job, a tuple, a `Vec`, or a batch within the bounds.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be enqueued inside a transaction",
    note = "enqueue a job value, a tuple or `Vec` of them, or a `Batch` of at most 1,000 jobs"
)]
pub trait IntoSubmission: Sized {
    /// What the caller gets: ids in the same shape.
    type Ids: Send;

    /// The submission, and what makes the ids once it is known which job stands where.
    ///
    /// # Errors
    /// Invalid input names the field.
    fn into_submission(self) -> Result<(Submission, impl FnOnce(Vec<JobId>) -> Self::Ids + Send)>;
}

/// The ids of a stored submission: each job's own, or that of the one that stands in its place.
pub fn ids_of(submission: &Submission, jobs: &[JobSubmitted]) -> Vec<JobId> {
    let id = |(job, submitted): (&crate::model::record::NewRecord, &JobSubmitted)| match submitted {
        JobSubmitted::Existing(existing) => *existing,
        _ => job.id,
    };
    submission.jobs.iter().zip(jobs).map(id).collect()
}

/// Whether a submission stands alone, so that it may be stored inside a caller's transaction.
///
/// # Errors
/// Invalid input: it names a job or batch outside, or may replace the holder of a unique key.
pub fn check_stands_alone(submission: &Submission) -> Result<()> {
    use crate::model::edge::Parent;
    use crate::model::unique::{OnConflict, Unique};
    let outside = "names one that exists already, whose row the transaction would hold until it commits; enqueue after the commit instead";
    let batch = submission.batch.as_ref().map(|batch| batch.id);
    if submission.batch.as_ref().is_some_and(|batch| batch.parent.is_some()) {
        return Err(Error::invalid("batch", outside));
    }
    for job in &submission.jobs {
        if job.batch.is_some() && job.batch != batch {
            return Err(Error::invalid("batch", outside));
        }
        let replaces = |unique: &Unique| unique.on_conflict == OnConflict::Replace;
        if job.unique.as_ref().is_some_and(replaces) {
            let reason = "would replace the job that holds the key, whose row the transaction would hold until it commits; let that job stand (`OnConflict::ReturnExisting`), or enqueue after the commit";
            return Err(Error::invalid("unique", reason));
        }
        let inside = |parent: &Parent| match parent {
            Parent::Job(id) => submission.jobs.iter().any(|other| other.id == *id),
            Parent::Batch(id) => batch == Some(*id),
        };
        if !job.edges.iter().all(|edge| inside(&edge.parent)) {
            return Err(Error::invalid("parents", outside));
        }
    }
    Ok(())
}

impl<J> IntoSubmission for NewJob<J> {
    type Ids = JobId;

    fn into_submission(self) -> Result<(Submission, impl FnOnce(Vec<JobId>) -> JobId + Send)> {
        Ok((Submission::one(self.into_record()?), |ids: Vec<JobId>| ids[0]))
    }
}

impl<J> IntoSubmission for Vec<NewJob<J>> {
    type Ids = Vec<JobId>;

    fn into_submission(self) -> Result<(Submission, impl FnOnce(Vec<JobId>) -> Vec<JobId> + Send)> {
        let records = self.into_iter().map(NewJob::into_record).collect::<Result<_>>()?;
        Ok((Submission::flow(records), |ids| ids))
    }
}

macro_rules! into_submission {
    ($($job:ident $index:tt $id:ty),+) => {
        impl<$($job),+> IntoSubmission for ($(NewJob<$job>,)+) {
            type Ids = ($($id,)+);

            fn into_submission(
                self,
            ) -> Result<(Submission, impl FnOnce(Vec<JobId>) -> Self::Ids + Send)> {
                let records = vec![$(self.$index.into_record()?),+];
                Ok((Submission::flow(records), |ids: Vec<JobId>| ($(ids[$index],)+)))
            }
        }
    };
}

into_submission!(A 0 JobId);
into_submission!(A 0 JobId, B 1 JobId);
into_submission!(A 0 JobId, B 1 JobId, C 2 JobId);
into_submission!(A 0 JobId, B 1 JobId, C 2 JobId, D 3 JobId);
into_submission!(A 0 JobId, B 1 JobId, C 2 JobId, D 3 JobId, E 4 JobId);
into_submission!(A 0 JobId, B 1 JobId, C 2 JobId, D 3 JobId, E 4 JobId, F 5 JobId);

impl IntoSubmission for Batch {
    type Ids = BatchId;

    fn into_submission(self) -> Result<(Submission, impl FnOnce(Vec<JobId>) -> BatchId + Send)> {
        let (id, submission) = self.into_one_submission()?;
        Ok((submission, move |_| id))
    }
}
