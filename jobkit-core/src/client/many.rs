//! Any number of independent jobs.

use crate::client::Client;
use crate::jobs::new_job::NewJob;
use crate::model::bounds;
use crate::model::error::{Error, Result};
use crate::storage::Submission;

/// The outcome of [`Client::enqueue_many`].
#[derive(Debug, Default)]
pub struct EnqueueMany {
    /// How many were stored, or had been before.
    pub stored: usize,
    /// Those that were not: the job's place in the iterator, and why.
    pub refused: Vec<(usize, Error)>,
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
