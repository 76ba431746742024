//! Submissions, with everything that can be computed before the writer has to wait for it.

use jobkit_core::JobId;
use jobkit_core::batch::NewBatch;
use jobkit_core::record::NewRecord;
use jobkit_core::refusal::Refusal;
use jobkit_core::state::Start;
use jobkit_core::storage::Submission;

use crate::codec::job_row::INLINE_BYTES;
use crate::codec::to_json;

/// A submission with everything that can be computed before the writer has to wait for it.
#[derive(Debug)]
pub(crate) struct PreparedSubmission {
    pub(super) batch: Option<NewBatch>,
    pub(super) jobs: Vec<PreparedJob>,
    /// The indices of the jobs, parents before their children.
    pub(super) order: Vec<usize>,
    /// Only an id can be refused after part of it is stored.
    pub(super) simple: bool,
    pub(super) refused: Option<Refusal>,
}

#[derive(Debug)]
pub(crate) struct PreparedJob {
    pub(super) record: NewRecord,
    pub(super) digest: [u8; 16],
    pub(super) tags: Option<String>,
    pub(super) unique: Option<String>,
    pub(super) limits: Option<String>,
    pub(super) extras: Option<String>,
}

impl PreparedSubmission {
    pub(crate) fn new(submission: &Submission) -> Self {
        let simple = submission.batch.is_none()
            && submission.jobs.iter().all(|job| {
                job.edges.is_empty()
                    // A job with a latest start may be refused as long as it is not stored.
                    && (job.start_by.is_none() || job.start == Start::Now)
                    && job.unique.is_none()
                    && job.limits.is_empty()
                    && job.batch.is_none()
            });
        Self {
            refused: submission.check().err().map(Refusal::from),
            batch: submission.batch.clone(),
            jobs: submission.jobs.iter().map(PreparedJob::new).collect(),
            // A circle is refused.
            order: submission.parents_first().unwrap_or_default(),
            simple,
        }
    }

    /// Whether it changes no job that exists.
    pub(crate) fn is_simple(&self) -> bool {
        self.simple
    }

    /// Its only job, if that needs only a row.
    pub(super) fn single(&self) -> Option<&PreparedJob> {
        match (self.simple && self.refused.is_none(), self.jobs.as_slice()) {
            (true, [job]) => Some(job),
            _ => None,
        }
    }
}

impl PreparedJob {
    pub(crate) fn new(record: &NewRecord) -> Self {
        Self {
            digest: record.content_digest(),
            tags: (!record.tags.is_empty()).then(|| to_json(&record.tags)).flatten(),
            unique: record.unique.as_ref().and_then(to_json),
            limits: (!record.limits.is_empty()).then(|| to_json(&record.limits)).flatten(),
            extras: record.extras.as_ref().and_then(to_json),
            record: record.clone(),
        }
    }

    /// Whether both need only a row, and the rows differ only in sequence, id and arguments.
    pub(super) fn same_columns(&self, other: &Self) -> bool {
        let (mine, theirs) = (&self.record, &other.record);
        mine.kind == theirs.kind
            && mine.queue == theirs.queue
            && mine.priority == theirs.priority
            && mine.start == theirs.start
            && mine.start_by == theirs.start_by
            && self.extras == other.extras
            && self.tags == other.tags
            && mine.args.len() <= INLINE_BYTES
            && theirs.args.len() <= INLINE_BYTES
    }
}

pub(crate) fn id_bytes(id: &JobId) -> &[u8] {
    &id.as_bytes()[..]
}
