//! [`Batch`]: many jobs with one end.

use std::future::Future;
use std::sync::Arc;

use crate::client::changes::{repeated, unless};
use crate::client::enqueue::{Enqueue, HasOutput};
use crate::client::independent::Independent;
use crate::client::{Client, JobHandle, Shared};
use crate::jobs::new_job::{AsParent, NewJob};
use crate::model::batch::{BatchRecord, NewBatch, Starts};
use crate::model::bounds;
use crate::model::edge::{Edge, On, Parent};
use crate::model::error::{Error, Result};
use crate::model::ids::BatchId;
use crate::model::record::NewRecord;
use crate::storage::{BatchOutcome, Call, Storage, Submission};

/// Many jobs with one end: any number of members, and continuations when all of them have finished.
///
/// Up to 1,000 jobs, 5,000 edges and 4 MiB are stored atomically; a larger batch is opened, filled and started by one
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
    error: Option<Error>,
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
            error: None,
            is_repeatable: false,
        }
    }

    /// Takes an id that was made before, so that enqueueing it again makes no second batch: from inside a
    /// job, one that [`once`](crate::JobContext::once) keeps for all attempts. Give members and
    /// continuations ids of their own that stay the same, too, with
    /// [`idempotency_key`](NewJob::idempotency_key); otherwise they are attached a second time, or refused once the batch has completed.
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
                self.error.get_or_insert(error);
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
                self.error.get_or_insert(error);
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

    fn take_error(&mut self) -> Option<Error> {
        let of_nested = self.nested.iter_mut().find_map(Self::take_error);
        self.error.take().or(of_nested)
    }

    /// The steps that make it: one submission where it fits; otherwise the first opens the batch with
    /// its continuations, the others fill it, and a start ends them.
    fn into_steps(self) -> Vec<Step> {
        let size: usize = self.members.iter().chain(&self.continuations).map(NewRecord::size).sum();
        let fits = self.members.len() + self.continuations.len() <= bounds::SUBMISSION_JOBS
            && size <= bounds::SUBMISSION_BYTES
            && self.members.iter().chain(&self.continuations).map(edges).sum::<usize>()
                <= bounds::SUBMISSION_EDGES;
        let mut batch = NewBatch::new(self.id, self.name);
        batch.parent = self.parent;
        if fits && self.nested.is_empty() {
            let jobs = self.members.into_iter().chain(self.continuations).collect();
            return vec![Step::Submit(Submission { batch: Some(batch), jobs })];
        }
        batch.starts = Starts::WhenStarted;
        let opening = Submission { batch: Some(batch), jobs: self.continuations };
        // Those that wait for others come after them, in submissions that may name each other.
        let (first, then): (Vec<_>, Vec<_>) =
            self.members.into_iter().partition(|member| member.edges.is_empty());
        let mut steps = vec![Step::Submit(opening), Step::Fill(first)];
        steps.extend(chunks(then).map(Step::Submit));
        for nested in self.nested {
            steps.extend(nested.inside(self.id).into_steps());
        }
        steps.push(Step::Start(self.id));
        steps
    }
}

/// A step towards a batch.
enum Step {
    Submit(Submission),
    /// Members that wait for nobody.
    Fill(Vec<NewRecord>),
    Start(BatchId),
}

impl Batch {
    /// The one submission it makes.
    pub(super) fn into_one_submission(mut self) -> Result<(BatchId, Submission)> {
        if let Some(error) = self.take_error() {
            return Err(error);
        }
        let (id, jobs) = (self.id, self.members.len() + self.continuations.len());
        if !self.nested.is_empty() {
            let reason = "has batches inside, which take more than one submission; enqueue it outside the transaction";
            return Err(Error::invalid("batch", reason));
        }
        let mut steps = self.into_steps();
        match steps.pop() {
            Some(Step::Submit(submission)) if steps.is_empty() => Ok((id, submission)),
            _ => Err(Error::invalid(
                "batch",
                format_args!(
                    "has {jobs} jobs, more than one submission may hold; enqueue it outside the transaction"
                ),
            )),
        }
    }
}

fn edges(job: &NewRecord) -> usize {
    job.edges.len()
}

/// Splits independent jobs into submissions within the bounds.
fn chunks(jobs: impl IntoIterator<Item = NewRecord>) -> impl Iterator<Item = Submission> {
    let mut jobs = jobs.into_iter().peekable();
    std::iter::from_fn(move || {
        let mut chunk = vec![jobs.next()?];
        let (mut size, mut waits_for) = (chunk[0].size(), edges(&chunk[0]));
        while let Some(next) = jobs.peek() {
            size += next.size();
            waits_for += edges(next);
            if chunk.len() == bounds::SUBMISSION_JOBS
                || size > bounds::SUBMISSION_BYTES
                || waits_for > bounds::SUBMISSION_EDGES
            {
                break;
            }
            chunk.extend(jobs.next());
        }
        Some(Submission::flow(chunk))
    })
}

/// Attaches members that wait for nobody. All calls have ended when it returns, whatever came of them.
async fn fill(shared: &Arc<Shared>, members: Vec<NewRecord>) -> Result<()> {
    let mut independent = Independent::new(shared)?;
    let filled = fill_by(&mut independent, members).await;
    if filled.is_err() {
        // So that whoever cancels the batch now meets no member that comes later.
        independent.abandon().await;
    }
    filled
}

async fn fill_by(independent: &mut Independent, members: Vec<NewRecord>) -> Result<()> {
    for (place, member) in members.into_iter().enumerate() {
        independent.add(place, member).await?;
        first_refused(independent)?;
    }
    independent.finish().await?;
    first_refused(independent)
}

fn first_refused(independent: &mut Independent) -> Result<()> {
    independent.take_outcomes().into_iter().try_for_each(|(_, outcome)| outcome)
}

impl Enqueue for Batch {
    type Handle = BatchHandle;

    async fn enqueue(mut self, client: &Client) -> Result<BatchHandle> {
        if let Some(error) = self.take_error() {
            return Err(error.during("enqueue"));
        }
        // Before it is split into calls, by the size that is stored.
        self.prepare(&client.shared)?;
        let handle = BatchHandle { id: self.id, client: client.clone() };
        let is_repeatable = self.is_repeatable;
        let mut is_opened = false;
        for step in self.into_steps() {
            let made = match step {
                Step::Submit(submission) => {
                    client.shared.submit_prepared(submission).await.map(|_| ())
                }
                Step::Fill(members) => fill(&client.shared, members).await,
                Step::Start(id) => client.batch(id).start().await,
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
    pub async fn status(&self) -> Result<Option<BatchRecord>> {
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
            .change_batch(
                |storage| async move { storage.start_batch(&Call::default(), self.id).await },
            )
            .await
    }

    /// Deletes what waits and requests the cancellation of what runs.
    ///
    /// # Errors
    /// A conflict when it has completed; not found when it does not exist.
    pub async fn cancel(&self) -> Result<()> {
        self.client
            .change_batch(
                |storage| async move { storage.cancel_batch(&Call::default(), self.id).await },
            )
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
        F: Fn(Arc<dyn Storage>) -> Fut,
        Fut: Future<Output = Result<BatchOutcome>>,
    {
        let storage = Arc::clone(self.dyn_storage());
        let changed = repeated(|| async {
            let outcome = change(Arc::clone(&storage)).await?;
            unless(outcome == BatchOutcome::Busy, outcome)
        });
        match changed.await? {
            BatchOutcome::Refused(refusal) => Err(refusal.into()),
            // Without the last, which was repeated.
            BatchOutcome::Changed | BatchOutcome::AlreadyApplied | BatchOutcome::Busy => Ok(()),
        }
    }
}
