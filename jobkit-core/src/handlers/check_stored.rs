//! Whether stored jobs fit a set of [`Jobs`], asked before a deploy.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use futures_util::future::try_join_all;

use crate::client::Client;
use crate::handlers::registry::{Jobs, Kind};
use crate::jobs::codec::Place;
use crate::jobs::upgrade::ArgumentMismatch;
use crate::model::bounds::PAGE;
use crate::model::error::Result;
use crate::model::ids::JobId;
use crate::model::name::Name;
use crate::model::record::{JobDetails, Payload};
use crate::model::state::StateName;
use crate::storage::JobQuery;

/// How many misfits are told one by one; the others are counted.
pub const MAX_REPORTED: usize = 1_000;

/// Jobs read at the same time.
const AT_ONCE: usize = 16;

/// In the order in which jobs move, so that one which moves on meanwhile is still met.
const STATES: [StateName; 4] =
    [StateName::Awaiting, StateName::Scheduled, StateName::Enqueued, StateName::Processing];

/// What [`Jobs::check_stored`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompatibilityReport {
    /// How many stored jobs and recurring definitions were looked at.
    pub checked: u64,
    /// How many of them do not fit.
    pub misfits: u64,
    /// The first 1,000 that do not fit.
    pub told: Vec<IncompatibleJob>,
}

impl CompatibilityReport {
    /// Whether everything fits.
    pub fn is_ok(&self) -> bool {
        self.misfits == 0
    }

    fn add(&mut self, what: StoredJob, kind: &Name, misfit: ArgumentMismatch) {
        self.misfits += 1;
        if self.told.len() < MAX_REPORTED {
            let ArgumentMismatch { field, reason } = misfit;
            self.told.push(IncompatibleJob { what, kind: kind.clone(), field, reason });
        }
    }
}

impl fmt::Display for CompatibilityReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} stored jobs do not fit", self.misfits, self.checked)?;
        for misfit in &self.told {
            write!(f, "\n- {misfit}")?;
        }
        Ok(())
    }
}

/// A stored job that these [`Jobs`] cannot run.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IncompatibleJob {
    /// Which one.
    pub what: StoredJob,
    /// Its kind, with its version.
    pub kind: Name,
    /// The argument that does not fit, as a path such as `address.street`, where it is known.
    pub field: Option<String>,
    /// Why.
    pub reason: String,
}

impl fmt::Display for IncompatibleJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            StoredJob::Job(id) => write!(f, "job {id}")?,
            StoredJob::Recurring(id) => write!(f, "recurring job {id:?}")?,
        }
        write!(f, " of kind {}: ", self.kind)?;
        match &self.field {
            Some(field) => write!(f, "argument `{field}`: {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

/// A stored job, or the definition of a recurring one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoredJob {
    /// A job.
    Job(JobId),
    /// A recurring job, by its id.
    Recurring(String),
}

impl Jobs {
    /// Decodes one job as a server of these jobs would; what does not fit, if anything.
    ///
    /// # Example: a job whose kind nobody serves
    /// ```
    /// # use jobkit::{Client, Jobs, MemoryStorage, job_by_name};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), jobkit::Error> {
    /// # let client = Client::new(MemoryStorage::new());
    /// let id = client.enqueue(job_by_name("lost", &Default::default())?).await?.id();
    /// let job = client.job(id).await?.expect("is stored");
    /// let misfit = Jobs::new().check_job(&client, &job).expect("does not fit");
    /// assert_eq!(misfit.reason, "no registered job is of this kind");
    /// # Ok(())
    /// # }
    /// ```
    pub fn check_job(&self, client: &Client, job: &JobDetails) -> Option<IncompatibleJob> {
        let (kinds, _) = self.by_name();
        let record = &job.record;
        let args = client.open_args(job);
        let misfit = mismatch(&kinds, &record.kind, args, job.args.is_sealed())?;
        let ArgumentMismatch { field, reason } = misfit;
        let what = StoredJob::Job(record.id);
        Some(IncompatibleJob { what, kind: record.kind.clone(), field, reason })
    }

    /// Decodes every job that waits or runs, and every recurring job's, as a server of these jobs would,
    /// and tells which do not fit.
    ///
    /// Use it before a deploy, with the new program's jobs and a client of the storage in use, which has
    /// the codecs if there are any. It changes nothing and reads in pages. Jobs that are enqueued meanwhile
    /// may or may not be checked. A kind that none of these jobs serves is reported too: pass the jobs of
    /// all servers, merged.
    ///
    /// # Errors
    /// The storage's.
    ///
    /// # Example: a version that forgot the jobs which wait
    /// ```
    /// # use jobkit::{Client, Failure, Job, Jobs, MemoryStorage, job_by_name};
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// # struct Resize { width: u32 }
    /// # impl Job for Resize { const KIND: &'static str = "resize"; type Output = (); }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let storage = MemoryStorage::new();
    /// # let old = serde_json::json!({ "width": "800px" });
    /// # let old = old.as_object().ok_or("an object")?;
    /// # let client = Client::new(storage.clone());
    /// # client.enqueue(job_by_name("resize", old)?).await?;
    /// let jobs = Jobs::new().handle(|_: Resize, _| async { Ok::<_, Failure>(()) });
    /// let found = jobs.check_stored(&client).await?;
    /// assert_eq!(found.told[0].field.as_deref(), Some("width"));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn check_stored(&self, client: &Client) -> Result<CompatibilityReport> {
        let storage = client.storage();
        let (kinds, _) = self.by_name();
        let mut found = CompatibilityReport::default();
        // Told already: a job may move on into the next list.
        let mut told = HashSet::new();
        for state in STATES {
            let mut query = JobQuery { limit: PAGE, ..JobQuery::new(state) };
            loop {
                let page = storage.list(&query).await?;
                for records in page.jobs.chunks(AT_ONCE) {
                    let jobs = records.iter().map(|record| storage.job(record.id));
                    for job in try_join_all(jobs).await?.into_iter().flatten() {
                        found.checked += 1;
                        let (id, kind) = (job.record.id, &job.record.kind);
                        let extras = job.record.extras.as_deref();
                        let args = client.open_stored_args(id, extras, &job.args);
                        if let Some(misfit) = mismatch(&kinds, kind, args, job.args.is_sealed())
                            && !told.contains(&id)
                        {
                            if told.len() < MAX_REPORTED {
                                told.insert(id);
                            }
                            found.add(StoredJob::Job(id), kind, misfit);
                        }
                    }
                }
                query.after = page.next;
                if query.after.is_none() {
                    break;
                }
            }
        }
        let mut after: Option<String> = None;
        loop {
            let page = storage.list_recurring(after.as_deref(), PAGE).await?;
            for recurring in &page {
                found.checked += 1;
                let job = &recurring.spec.job;
                let place = Place { owner: &recurring.spec.id, part: "args" };
                let args = Payload::from(job.args.get().as_bytes());
                let opened = client.codecs().open(place, &args);
                if let Some(misfit) = mismatch(&kinds, &job.kind, opened, args.is_sealed()) {
                    let what = StoredJob::Recurring(recurring.spec.id.clone());
                    found.add(what, &job.kind, misfit);
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after = Some(last.spec.id.clone()),
                _ => return Ok(found),
            }
        }
    }
}

fn unknown() -> ArgumentMismatch {
    ArgumentMismatch { field: None, reason: "no registered job is of this kind".to_owned() }
}

/// Why arguments do not fit the kind that serves them, if they do not. Of sealed ones nothing is quoted.
fn mismatch(
    kinds: &BTreeMap<String, Arc<Kind>>,
    kind: &Name,
    args: Result<Payload>,
    is_sealed: bool,
) -> Option<ArgumentMismatch> {
    let fits = match (kinds.get(kind.as_str()), args) {
        (Some(served), Ok(args)) => (served.check)(kind, &args),
        (Some(_), Err(error)) => Err(ArgumentMismatch { field: None, reason: error.to_string() }),
        (None, _) => Err(unknown()),
    };
    let mut mismatch = fits.err()?;
    if is_sealed {
        mismatch.hide("not told, since the arguments are sealed");
    }
    Some(mismatch)
}
