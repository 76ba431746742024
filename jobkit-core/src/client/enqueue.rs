//! What can be enqueued: one job, a flow, a batch, and any number of independent jobs.

use std::future::Future;

use crate::client::{Client, JobHandle, Shared};
use crate::jobs::codec::Place;
use crate::jobs::job::Job;
use crate::jobs::new_job::{AsParent, NewJob, Untyped};
use crate::model::batch::{NewBatch, Starts};
use crate::model::bounds;
use crate::model::edge::{Edge, On, Parent};
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::ids::{BatchId, JobId};
use crate::model::record::NewRecord;
use crate::model::refusal::Refusal;
use crate::storage::{BatchOutcome, JobSubmitted, Storage, Submission};

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
    pub(super) fn prepare(&self, jobs: &mut [NewRecord]) -> Result<()> {
        if self.options.are_plain() {
            return Ok(());
        }
        for job in jobs {
            let owner = job.id.to_string();
            self.options.prepare(job, &owner).map_err(|error| error.during("enqueue"))?;
        }
        Ok(())
    }

    async fn submit(&self, mut submission: Submission) -> Result<Vec<JobSubmitted>> {
        self.prepare(&mut submission.jobs)?;
        self.submit_prepared(submission).await
    }

    /// Submits what filters and codecs have seen.
    async fn submit_prepared(&self, mut submission: Submission) -> Result<Vec<JobSubmitted>> {
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

/// Many jobs with one end: any number of members, and continuations when all of them have finished.
///
/// Up to 1,000 jobs and 4 MiB are stored atomically; a larger batch is opened, filled and started by one
/// mark, so that nothing of it runs before all of it is stored.
///
/// # Example: a batch with a continuation
/// ```
/// # use jobkit::{Batch, Client, Job, MemoryStorage, NewJob};
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # struct Row { n: u32 }
/// # impl Job for Row { const KIND: &'static str = "row"; type Output = (); }
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # struct Report {}
/// # impl Job for Report { const KIND: &'static str = "report"; type Output = (); }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), jobkit::Error> {
/// # let client = Client::new(MemoryStorage::new());
/// let rows = (0..2_000).map(|n| NewJob::new(Row { n }));
/// let batch = Batch::new("import").jobs(rows).then(NewJob::new(Report {}));
/// let batch = client.enqueue(batch).await?;
/// println!("batch {}", batch.id());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a batch does nothing until it is enqueued"]
pub struct Batch {
    id: BatchId,
    name: String,
    members: Vec<NewRecord>,
    continuations: Vec<NewRecord>,
    nested: Vec<Self>,
    parent: Option<BatchId>,
    mistake: Option<crate::model::error::Error>,
    /// The caller gave the id, so that another attempt can go on with what is stored.
    is_repeatable: bool,
}

impl Batch {
    /// An empty batch; the name is for people.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            id: BatchId::new(),
            name: name.into(),
            members: Vec::new(),
            continuations: Vec::new(),
            nested: Vec::new(),
            parent: None,
            mistake: None,
            is_repeatable: false,
        }
    }

    /// Takes an id that was made before, so that enqueueing it again makes no second batch: from inside a
    /// job, one that [`once`](crate::JobContext::once) keeps for all attempts. Give members and
    /// continuations ids of their own that stay the same, too, with [`idempotency_key`](NewJob::idempotency_key); otherwise
    /// they are attached a second time, or refused once the batch has completed.
    pub fn with_id(mut self, id: BatchId) -> Self {
        for member in &mut self.members {
            member.batch = Some(id);
        }
        for edge in self.continuations.iter_mut().flat_map(|job| &mut job.edges) {
            if edge.parent == Parent::Batch(self.id) {
                edge.parent = Parent::Batch(id);
            }
        }
        self.id = id;
        self.is_repeatable = true;
        self
    }

    /// The id it has from creation.
    pub fn id(&self) -> BatchId {
        self.id
    }

    /// Adds a member.
    pub fn job<J>(mut self, job: NewJob<J>) -> Self {
        match job.in_batch(self.id).into_record() {
            Ok(record) => self.members.push(record),
            Err(error) => {
                self.mistake.get_or_insert(error);
            }
        }
        self
    }

    /// Adds members.
    pub fn jobs<J>(self, jobs: impl IntoIterator<Item = NewJob<J>>) -> Self {
        jobs.into_iter().fold(self, Self::job)
    }

    /// Runs a job when every member has succeeded.
    pub fn then<J>(self, job: NewJob<J>) -> Self {
        self.then_on(On::Success, job)
    }

    /// Runs a job when all members have finished: on [`On::Any`] in any case, on [`On::Failed`] if one
    /// of them failed.
    pub fn then_on<J>(mut self, on: On, job: NewJob<J>) -> Self {
        match job.into_record() {
            Ok(mut record) => {
                record.edges.push(Edge { parent: Parent::Batch(self.id), on });
                self.continuations.push(record);
            }
            Err(error) => {
                self.mistake.get_or_insert(error);
            }
        }
        self
    }

    /// Adds a batch as one member: it has succeeded when all of its own members have. Batches nest five
    /// deep.
    ///
    /// # Example: a report for each region, and one when all are there
    /// ```
    /// # use jobkit::{Batch, Client, Job, MemoryStorage, NewJob};
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// # struct Row { n: u32 }
    /// # impl Job for Row { const KIND: &'static str = "row"; type Output = (); }
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// # struct Report { of: String }
    /// # impl Job for Report { const KIND: &'static str = "report"; type Output = (); }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), jobkit::Error> {
    /// # let client = Client::new(MemoryStorage::new());
    /// let region = |name: &str| {
    ///     let rows = (0..10).map(|n| NewJob::new(Row { n }));
    ///     Batch::new(name).jobs(rows).then(NewJob::new(Report { of: name.to_owned() }))
    /// };
    /// let world = Batch::new("world")
    ///     .batch(region("north"))
    ///     .batch(region("south"))
    ///     .then(NewJob::new(Report { of: "world".into() }));
    /// client.enqueue(world).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn batch(mut self, nested: Self) -> Self {
        self.nested.push(nested);
        self
    }

    /// Makes it a member of a batch that is open or runs, such as from inside one of its handlers.
    pub fn inside(mut self, parent: BatchId) -> Self {
        self.parent = Some(parent);
        self
    }

    fn prepare(&mut self, shared: &Shared) -> Result<()> {
        shared.prepare(&mut self.members)?;
        shared.prepare(&mut self.continuations)?;
        self.nested.iter_mut().try_for_each(|nested| nested.prepare(shared))
    }

    fn take_mistake(&mut self) -> Option<Error> {
        let of_nested = self.nested.iter_mut().find_map(Self::take_mistake);
        self.mistake.take().or(of_nested)
    }

    /// The calls that make it: one submission where it fits; otherwise the first opens the batch with
    /// its continuations, the others fill it, and a start ends them.
    fn into_calls(self) -> Vec<Call> {
        let size: usize = self.members.iter().chain(&self.continuations).map(NewRecord::size).sum();
        let fits = self.members.len() + self.continuations.len() <= bounds::SUBMISSION_JOBS
            && size <= bounds::SUBMISSION_BYTES;
        let mut batch = NewBatch::new(self.id, self.name);
        batch.parent = self.parent;
        if fits && self.nested.is_empty() {
            let jobs = self.members.into_iter().chain(self.continuations).collect();
            return vec![Call::Submit(Submission { batch: Some(batch), jobs })];
        }
        batch.starts = Starts::WhenStarted;
        let opening = Submission { batch: Some(batch), jobs: self.continuations };
        let filling = std::iter::once(opening).chain(chunks(self.members)).map(Call::Submit);
        let mut calls: Vec<Call> = filling.collect();
        for nested in self.nested {
            calls.extend(nested.inside(self.id).into_calls());
        }
        calls.push(Call::Start(self.id));
        calls
    }
}

/// A step towards a batch.
enum Call {
    Submit(Submission),
    Start(BatchId),
}

impl Batch {
    /// The one submission it makes.
    pub(super) fn into_one_submission(mut self) -> Result<(BatchId, Submission)> {
        if let Some(mistake) = self.take_mistake() {
            return Err(mistake);
        }
        let (id, jobs) = (self.id, self.members.len() + self.continuations.len());
        if !self.nested.is_empty() {
            let reason = "has batches inside, which take more than one submission; enqueue it outside the transaction";
            return Err(Error::invalid("batch", reason));
        }
        let mut calls = self.into_calls();
        match calls.pop() {
            Some(Call::Submit(submission)) if calls.is_empty() => Ok((id, submission)),
            _ => Err(Error::invalid(
                "batch",
                format_args!(
                    "has {jobs} jobs, more than one submission may hold; enqueue it outside the transaction"
                ),
            )),
        }
    }
}

/// Splits independent jobs into submissions within the bounds.
fn chunks(jobs: impl IntoIterator<Item = NewRecord>) -> impl Iterator<Item = Submission> {
    let mut jobs = jobs.into_iter().peekable();
    std::iter::from_fn(move || {
        let mut chunk = vec![jobs.next()?];
        let mut size = chunk[0].size();
        while let Some(next) = jobs.peek() {
            size += next.size();
            if chunk.len() == bounds::SUBMISSION_JOBS || size > bounds::SUBMISSION_BYTES {
                break;
            }
            chunk.extend(jobs.next());
        }
        Some(Submission::flow(chunk))
    })
}

impl Enqueue for Batch {
    type Handle = BatchHandle;

    async fn enqueue(mut self, client: &Client) -> Result<BatchHandle> {
        if let Some(mistake) = self.take_mistake() {
            return Err(mistake.during("enqueue"));
        }
        // Before it is split into calls, by the size that is stored.
        self.prepare(&client.shared)?;
        let handle = BatchHandle { id: self.id, client: client.clone() };
        let is_repeatable = self.is_repeatable;
        let mut is_opened = false;
        for call in self.into_calls() {
            let made = match call {
                Call::Submit(submission) => {
                    client.shared.submit_prepared(submission).await.map(|_| ())
                }
                Call::Start(id) => client.batch(id).start().await,
            };
            if let Err(error) = made {
                // Half-filled it would be discarded after an hour, and its members would hold their keys
                // as long. If this fails too, that is what happens.
                if is_opened && !is_repeatable && !error.is_retryable() {
                    let _ = handle.cancel().await;
                }
                return Err(error);
            }
            is_opened = true;
        }
        Ok(handle)
    }
}

/// A batch that was enqueued.
#[derive(Clone, Debug)]
pub struct BatchHandle {
    id: BatchId,
    client: Client,
}

impl BatchHandle {
    pub(super) fn new(id: BatchId, client: Client) -> Self {
        Self { id, client }
    }

    /// Its id.
    pub fn id(&self) -> BatchId {
        self.id
    }

    /// The batch as it is stored; `None` once it was removed.
    ///
    /// # Errors
    /// The storage's.
    pub async fn status(&self) -> Result<Option<crate::model::batch::BatchRecord>> {
        self.client.dyn_storage().batch(self.id).await
    }

    /// Attaches more members; also from inside one of its handlers.
    ///
    /// # Errors
    /// A conflict when the batch has completed or was cancelled.
    pub async fn attach<J: HasOutput>(
        &self,
        jobs: Vec<NewJob<J>>,
    ) -> Result<Vec<JobHandle<J::Output>>> {
        let jobs = jobs.into_iter().map(|job| job.in_batch(self.id)).collect::<Vec<_>>();
        jobs.enqueue(&self.client).await
    }

    /// Starts a batch that was opened without members running; done by `enqueue` for its own.
    ///
    /// # Errors
    /// A conflict when it was cancelled, or does not exist.
    pub async fn start(&self) -> Result<()> {
        self.client
            .change_batch(|storage| async move { storage.start_batch(self.id, None).await })
            .await
    }

    /// Deletes what waits and requests the cancellation of what runs.
    ///
    /// # Errors
    /// A conflict when it has completed; not found when it does not exist.
    pub async fn cancel(&self) -> Result<()> {
        self.client
            .change_batch(|storage| async move { storage.cancel_batch(self.id, None).await })
            .await
    }
}

impl AsParent for BatchHandle {
    fn as_parent(&self) -> Parent {
        Parent::Batch(self.id)
    }
}

impl AsParent for Batch {
    fn as_parent(&self) -> Parent {
        Parent::Batch(self.id)
    }
}

impl Client {
    async fn change_batch<F, Fut>(&self, change: F) -> Result<()>
    where
        F: Fn(std::sync::Arc<dyn Storage>) -> Fut,
        Fut: Future<Output = Result<BatchOutcome>>,
    {
        let storage = std::sync::Arc::clone(self.dyn_storage());
        match super::changes::repeated(|| change(std::sync::Arc::clone(&storage))).await? {
            BatchOutcome::Changed | BatchOutcome::AlreadyApplied => Ok(()),
            BatchOutcome::Refused(refusal) => Err(refusal.into()),
        }
    }
}

/// The outcome of the jobs of [`Client::enqueue_many`].
#[derive(Debug, Default)]
pub struct EnqueueMany {
    /// How many were stored, or had been before.
    pub stored: usize,
    /// Those that were not: the job's place in the iterator, and why.
    pub refused: Vec<(usize, crate::model::error::Error)>,
}

impl Client {
    /// Enqueues any number of independent jobs, in chunks, and reports each; the iterator is read as
    /// chunks are sent, so that a million rows need no memory.
    ///
    /// # Errors
    /// The storage could not be reached for `submit_timeout`; what was stored before stays. Enqueueing
    /// the same job values again makes no second jobs.
    pub async fn enqueue_many<J>(
        &self,
        jobs: impl IntoIterator<Item = NewJob<J>>,
    ) -> Result<EnqueueMany> {
        let mut report = EnqueueMany::default();
        let mut jobs = jobs.into_iter().enumerate().peekable();
        while jobs.peek().is_some() {
            let mut places = Vec::new();
            let mut chunk = Submission::default();
            let mut size = 0;
            while chunk.jobs.len() < bounds::SUBMISSION_JOBS && size < bounds::SUBMISSION_BYTES / 2
            {
                let Some((place, job)) = jobs.next() else { break };
                let record = job.into_record().and_then(|mut record| {
                    self.shared.prepare(std::slice::from_mut(&mut record))?;
                    Ok(record)
                });
                match record {
                    Ok(record) => {
                        size += record.size();
                        places.push(place);
                        chunk.jobs.push(record);
                    }
                    Err(error) => report.refused.push((place, error)),
                }
            }
            if !chunk.jobs.is_empty() {
                self.submit_chunk(chunk, &places, &mut report).await?;
            }
        }
        Ok(report)
    }

    async fn submit_chunk(
        &self,
        chunk: Submission,
        places: &[usize],
        report: &mut EnqueueMany,
    ) -> Result<()> {
        let alone = chunk.jobs.clone();
        match self.shared.submit_prepared(chunk).await {
            Ok(jobs) => report.stored += jobs.len(),
            Err(error) if error.is_retryable() => return Err(error),
            // One of them is refused: the jobs are independent, so each goes alone.
            Err(_) => {
                for (record, place) in alone.into_iter().zip(places) {
                    match self.shared.submit_prepared(Submission::one(record)).await {
                        Ok(_) => report.stored += 1,
                        Err(error) if error.is_retryable() => return Err(error),
                        Err(error) => report.refused.push((*place, error)),
                    }
                }
            }
        }
        Ok(())
    }
}
