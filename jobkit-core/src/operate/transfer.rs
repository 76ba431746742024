//! From one storage to another: everything that is not running, with ids, fences, edges, batches, keys
//! and recurring jobs.
//!
//! It can be repeated, and goes on where it was interrupted: what is there already stays as it is. So
//! outgrowing SQLite is an afternoon: stop the servers, copy, start them on the other storage.
//!
//! # Example: from memory to another memory
//! ```
//! use jobkit::Name;
//! use jobkit::record::NewRecord;
//! use jobkit::storage::{Call, JobStore, Submission, SubmitRequest};
//! use jobkit::ops::transfer::{self, Options};
//! use jobkit::{JobId, MemoryStorage};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), jobkit::Error> {
//! let (from, to) = (MemoryStorage::new(), MemoryStorage::new());
//! let job = NewRecord::new(JobId::new(), Name::new("kind", "report")?, *b"{}");
//! let submission = [Submission::one(job.clone())];
//! from.submit(&Call::default(), SubmitRequest { submissions: &submission }).await?;
//! let copied = transfer::copy(&from, &to, Options::default(), |_| {}).await?;
//! assert_eq!((copied.stored, copied.missing), (1, 0));
//! assert!(to.job(job.id).await?.is_some());
//! # Ok(())
//! # }
//! ```

use crate::client::repeated;
use crate::model::batch::BatchRecord;
use crate::model::bounds;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::ids::JobId;
use crate::model::record::JobRecord;
use crate::storage::{Call, Imported, RescueRequest, StepRequest, Storage, Whole};

/// Things in one step.
const STEP: usize = 200;
/// Steps of sweeps that the old storage is given before it is read.
const SWEEPS: usize = 10_000;

/// How to copy.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Options {
    /// Also while servers live on one of the storages. What they change meanwhile in the old one may be
    /// missing or outdated in the new one, and jobs may run on both.
    pub force: bool,
}

impl Options {
    /// Also while servers live: see [`force`](Self::force).
    #[must_use]
    pub fn force(mut self, force: bool) -> Self {
        self.force = force;
        self
    }
}

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Copied {
    /// Things that were stored.
    pub stored: u64,
    /// Things that were there already.
    pub already: u64,
    /// Running jobs, which were left out.
    pub running: u64,
    /// Things that are in the new storage as they are in the old one, as a look at all of them found.
    pub verified: u64,
    /// Jobs that went on in the new storage since they were copied.
    pub changed: u64,
    /// Things that are not in the new storage, and batches that know of fewer ends of their members than in
    /// the old one. Anything but zero means: copy again, into a storage of its own.
    pub missing: u64,
}

/// Copies everything that is not running, then looks whether it is all there; tells after each step how
/// far it is.
///
/// Running jobs whose leases have expired are taken back first, and what sweeps have left is completed.
///
/// # Errors
/// A conflict names the servers that live on one of the storages, unless forced. Otherwise the storages'.
/// What was copied stays, and copying again goes on.
///
/// # Cancel safety
/// As a crash: what was copied stays, and copying again goes on.
pub async fn copy<A, B>(
    from: &A,
    to: &B,
    options: Options,
    mut told: impl FnMut(&Copied),
) -> Result<Copied>
where
    A: Storage + ?Sized,
    B: Storage + ?Sized,
{
    if !options.force {
        refuse_live(from, "old").await?;
        refuse_live(to, "new").await?;
        settle(from).await?;
    }
    let mut copied = Copied::default();
    let mut after: Option<String> = None;
    let step = step_of(from).min(step_of(to));
    loop {
        let page = repeated(|| from.export(after.as_deref(), step)).await?;
        copied.running += page.running;
        for imported in
            repeated(|| async { to.import(&Call::default(), &page.items).await }).await?
        {
            match imported {
                Imported::Stored => copied.stored += 1,
                Imported::Already => copied.already += 1,
            }
        }
        told(&copied);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    verify(from, to, &mut copied, told).await?;
    Ok(copied)
}

/// Things in one call.
fn step_of<S: Storage + ?Sized>(storage: &S) -> usize {
    storage.capabilities().items_of(STEP)
}

async fn refuse_live<S: Storage + ?Sized>(storage: &S, which: &str) -> Result<()> {
    let now = storage.now().await?;
    let servers = storage.servers().await?.into_iter();
    let live = servers.filter(|server| !server.is_silent(now));
    let live: Vec<String> = live.map(|server| server.info.name.to_string()).collect();
    if live.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Conflict,
        format!("servers live on the {which} storage: {}; stop them first", live.join(", ")),
    ))
}

/// Completes what servers that are gone have left.
async fn settle<S: Storage + ?Sized>(from: &S) -> Result<()> {
    // Nobody lives who could renew, so that the second look may follow at once.
    let mut seen = Vec::new();
    loop {
        let request = RescueRequest {
            seen,
            crash_limit: bounds::CRASH_LIMIT,
            max: from.capabilities().items_of(bounds::STEP_ITEMS),
        };
        let rescue = from.rescue_expired(&Call::default(), &request).await?;
        if rescue.expired.is_empty() {
            break;
        }
        seen = rescue.expired;
    }
    let max = from.capabilities().items_of(bounds::MAX_STEP_ITEMS);
    let step = StepRequest { max };
    for _ in 0..SWEEPS {
        if !from.sweep(&Call::default(), step).await?.more {
            break;
        }
    }
    Ok(())
}

/// Looks at everything once more, in both.
async fn verify<A, B>(
    from: &A,
    to: &B,
    copied: &mut Copied,
    mut told: impl FnMut(&Copied),
) -> Result<()>
where
    A: Storage + ?Sized,
    B: Storage + ?Sized,
{
    let mut after: Option<String> = None;
    let step = step_of(from).min(step_of(to));
    loop {
        let page = repeated(|| from.export(after.as_deref(), step)).await?;
        let jobs = page.items.iter().filter_map(|item| match item {
            Whole::Job(job) => Some(&job.details.record),
            _ => None,
        });
        let jobs: Vec<&JobRecord> = jobs.collect();
        let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
        for (old, new) in jobs.iter().zip(repeated(|| to.jobs(&ids)).await?) {
            match new {
                Some(new) if is_same(old, &new) => copied.verified += 1,
                Some(_) => copied.changed += 1,
                None => copied.missing += 1,
            }
        }
        for item in &page.items {
            let there = match item {
                Whole::Batch(batch) => {
                    let ended = |record: &BatchRecord| record.counts.total - record.counts.open();
                    let new = to.batch(batch.record.id).await?;
                    // One that knows of fewer ends was copied before its members ended.
                    new.is_some_and(|new| ended(&new) >= ended(&batch.record))
                }
                Whole::Recurring(whole) if whole.record.is_some() => {
                    to.recurring(&whole.id).await?.is_some()
                }
                Whole::Limit { limit, .. } => {
                    to.limit(&Call::default(), &limit.name).await?.is_some()
                }
                // Of these no reader tells; the import did.
                Whole::Pause { .. } | Whole::Key { .. } | Whole::Recurring(_) => true,
                Whole::Job(_) => continue,
            };
            if there {
                copied.verified += 1;
            } else {
                copied.missing += 1;
            }
        }
        told(copied);
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

fn is_same(old: &JobRecord, new: &JobRecord) -> bool {
    let kept = |job: &JobRecord| (job.head.clone(), job.queue.clone(), job.priority, job.batch);
    kept(old) == kept(new)
}

/// Everything that is not running, as lines of JSON, one thing each: a dump that [`load`] reads. Arguments
/// and results stand in it as they are stored. Answers how many things were `stored` in it, and how many
/// `running` jobs were left out.
///
/// What servers that are gone have left is taken back and completed first, as by [`copy`].
///
/// # Errors
/// A conflict names the servers that live on the storage, unless forced; otherwise the storage's, and
/// those of `write`.
///
/// # Cancel safety
/// As a crash: half a dump is written.
pub async fn dump<S: Storage + ?Sized>(
    from: &S,
    options: Options,
    mut write: impl FnMut(&str) -> Result<()>,
) -> Result<Copied> {
    if !options.force {
        refuse_live(from, "old").await?;
        settle(from).await?;
    }
    let mut after: Option<String> = None;
    let mut copied = Copied::default();
    loop {
        let page = repeated(|| from.export(after.as_deref(), step_of(from))).await?;
        copied.running += page.running;
        for item in &page.items {
            let line = serde_json::to_string(item).map_err(|error| {
                Error::new(ErrorKind::Internal, "a record cannot be written as JSON")
                    .caused_by(error)
            })?;
            write(&line)?;
            copied.stored += 1;
        }
        after = page.next;
        if after.is_none() {
            return Ok(copied);
        }
    }
}

/// Reads a dump; empty lines are passed over. What is there already stays as it is.
///
/// # Errors
/// A line that is no record is named with its number; what stood before it is stored. Otherwise the
/// storage's.
///
/// # Cancel safety
/// As a crash: what was read stays, and reading again goes on.
pub async fn load<S: Storage + ?Sized>(
    to: &S,
    lines: impl IntoIterator<Item = Result<String>>,
) -> Result<Copied> {
    let mut copied = Copied::default();
    let step = step_of(to);
    let mut items = Vec::with_capacity(step);
    for (number, line) in lines.into_iter().enumerate() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let item: Whole = serde_json::from_str(&line).map_err(|error| {
            let reason = format_args!("line {} is no record of a dump: {error}", number + 1);
            Error::invalid("dump", reason)
        })?;
        items.push(item);
        if items.len() == step {
            import(to, &mut items, &mut copied).await?;
        }
    }
    import(to, &mut items, &mut copied).await?;
    Ok(copied)
}

async fn import<S: Storage + ?Sized>(
    to: &S,
    items: &mut Vec<Whole>,
    copied: &mut Copied,
) -> Result<()> {
    for imported in repeated(|| async { to.import(&Call::default(), items).await }).await? {
        match imported {
            Imported::Stored => copied.stored += 1,
            Imported::Already => copied.already += 1,
        }
    }
    items.clear();
    Ok(())
}
