//! What can be enqueued at once: a job or a flow.

use std::future::Future;

use crate::client::{Client, JobHandle, Shared};
use crate::jobs::codec::Place;
use crate::jobs::job::Job;
use crate::jobs::new_job::{NewJob, Untyped};
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::ids::JobId;
use crate::model::record::NewRecord;
use crate::model::refusal::Refusal;
use crate::storage::{JobSubmitted, Submission};

/// Something that [`Client::enqueue`] takes.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be enqueued",
    note = "enqueue a job value, a tuple or `Vec` of them, or a `Batch`; hand values to the function under `#[jobkit::job]` to make a job value"
)]
pub trait Enqueue: Send {
    /// What the caller gets.
    type Handle;

    /// Enqueues it.
    fn enqueue(self, client: &Client) -> impl Future<Output = Result<Self::Handle>> + Send;
}

impl Shared {
    /// Lets the filters look at jobs, seals their arguments, and refuses what the storage cannot keep.
    pub(super) fn prepare(&self, jobs: &mut [NewRecord]) -> Result<()> {
        let capabilities = self.storage.capabilities();
        for job in jobs {
            if !self.options.are_plain() {
                let owner = job.id.to_string();
                self.options.prepare(job, &owner).map_err(|error| error.during("enqueue"))?;
            }
            capabilities.check_payload(job.args.len()).map_err(|error| error.during("enqueue"))?;
        }
        Ok(())
    }

    async fn submit(&self, mut submission: Submission) -> Result<Vec<JobSubmitted>> {
        self.prepare(&mut submission.jobs)?;
        self.submit_prepared(submission).await
    }

    /// Submits what filters and codecs have seen.
    pub(super) async fn submit_prepared(
        &self,
        mut submission: Submission,
    ) -> Result<Vec<JobSubmitted>> {
        let timeout = self.options.submit_timeout;
        let refused = |refusal: Refusal| Error::from(refusal).during("enqueue");
        if self.options.codecs.is_empty() {
            return self.submitter.submit(submission, timeout).await?.map_err(refused);
        }
        // Each conflict is looked at once.
        for _ in 0..=submission.jobs.len() {
            match self.submitter.submit(submission.clone(), timeout).await? {
                Ok(jobs) => return Ok(jobs),
                Err(Refusal::IdConflict { job })
                    if self.seal_as_stored(&mut submission, job).await? => {}
                Err(refusal) => return Err(refused(refusal)),
            }
        }
        Err(Error::new(ErrorKind::Conflict, "jobs change while they are compared")
            .during("enqueue"))
    }

    /// A job that another codec or key has sealed is the same job: takes its bytes as they are stored;
    /// `false` if it is another one.
    async fn seal_as_stored(&self, submission: &mut Submission, id: JobId) -> Result<bool> {
        let codecs = &self.options.codecs;
        let Some(job) = submission.jobs.iter_mut().find(|job| job.id == id) else {
            return Ok(false);
        };
        let Some(stored) = self.storage.job(id).await? else { return Ok(false) };
        let sealed = stored.args.is_sealed() || job.args.is_sealed();
        if !sealed || stored.record.kind != job.kind || stored.args == job.args {
            return Ok(false);
        }
        let owner = id.to_string();
        let place = Place { owner: &owner, part: "args" };
        let same = matches!(
            (codecs.open(place, &stored.args), codecs.open(place, &job.args)),
            (Ok(before), Ok(now)) if before == now
        );
        if same {
            job.args = stored.args;
        }
        Ok(same)
    }
}

/// The id that a caller may wait for: the job's own, or that of the one that stands in its place.
fn handle<T>(client: &Client, id: JobId, submitted: JobSubmitted) -> JobHandle<T> {
    JobHandle::new(client.clone(), id, submitted)
}

/// What can stand in a job value: a [`Job`], or [`Untyped`] for one known by name only.
pub trait HasOutput: 'static {
    /// What the job returns, as its handle gives it.
    type Output;
}

impl<J: Job> HasOutput for J {
    type Output = J::Output;
}

impl HasOutput for Untyped {
    type Output = serde_json::Value;
}

impl<J: HasOutput> Enqueue for NewJob<J> {
    type Handle = JobHandle<J::Output>;

    async fn enqueue(self, client: &Client) -> Result<Self::Handle> {
        let id = self.id();
        let record = self.into_record().map_err(|error| error.during("enqueue"))?;
        let jobs = client.shared.submit(Submission::one(record)).await?;
        Ok(handle(client, id, jobs[0]))
    }
}

impl<J: HasOutput> Enqueue for Vec<NewJob<J>> {
    type Handle = Vec<JobHandle<J::Output>>;

    async fn enqueue(self, client: &Client) -> Result<Self::Handle> {
        if self.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<_> = self.iter().map(NewJob::id).collect();
        let records = self.into_iter().map(NewJob::into_record).collect::<Result<_>>();
        let records = records.map_err(|error| error.during("enqueue"))?;
        let jobs = client.shared.submit(Submission::flow(records)).await?;
        Ok(ids.into_iter().zip(jobs).map(|(id, job)| handle(client, id, job)).collect())
    }
}

macro_rules! enqueue_tuple {
    ($($job:ident $index:tt),+) => {
        impl<$($job: HasOutput),+> Enqueue for ($(NewJob<$job>,)+) {
            type Handle = ($(JobHandle<$job::Output>,)+);

            async fn enqueue(self, client: &Client) -> Result<Self::Handle> {
                let ids = ($(self.$index.id(),)+);
                let records = [$(self.$index.into_record()),+].into_iter().collect::<Result<_>>();
                let records = records.map_err(|error| error.during("enqueue"))?;
                let jobs = client.shared.submit(Submission::flow(records)).await?;
                Ok(($(handle(client, ids.$index, jobs[$index]),)+))
            }
        }
    };
}

enqueue_tuple!(A 0);
enqueue_tuple!(A 0, B 1);
enqueue_tuple!(A 0, B 1, C 2);
enqueue_tuple!(A 0, B 1, C 2, D 3);
enqueue_tuple!(A 0, B 1, C 2, D 3, E 4);
enqueue_tuple!(A 0, B 1, C 2, D 3, E 4, F 5);
enqueue_tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
enqueue_tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);
