//! Any number of independent jobs.

use crate::client::Client;
use crate::client::independent::{Independent, Outcome};
use crate::jobs::new_job::NewJob;
use crate::model::error::{Error, Result};

/// The outcome of [`Client::enqueue_many`].
#[derive(Debug, Default)]
pub struct EnqueueMany {
    /// How many were stored, or had been before.
    pub stored: usize,
    /// Those that were not: the job's place in the iterator, and why. In the order of places.
    pub refused: Vec<(usize, Error)>,
}

impl EnqueueMany {
    fn note(&mut self, outcomes: Vec<Outcome>) {
        for (place, outcome) in outcomes {
            match outcome {
                Ok(()) => self.stored += 1,
                Err(error) => self.refused.push((place, error)),
            }
        }
    }
}

impl Client {
    /// Enqueues any number of independent jobs, and reports each. Up to 500 jobs share a call, up to six calls
    /// are on their way at a time, and the iterator is read as they are sent: so a million rows need no
    /// memory. Each job is stored or refused by itself.
    ///
    /// Jobs of one call are stored in the order of the iterator. Between calls there is no order, but for jobs
    /// that name earlier ones as parents: they are sent once those are stored.
    ///
    /// # Errors
    /// The storage could not be reached for `submit_timeout`; what was stored before stays. Enqueueing
    /// the same job values again makes no second jobs.
    ///
    /// # Cancel safety
    /// A dropped future leaves it open which jobs were stored; the calls on their way go on.
    pub async fn enqueue_many<J>(
        &self,
        jobs: impl IntoIterator<Item = NewJob<J>>,
    ) -> Result<EnqueueMany> {
        let mut report = EnqueueMany::default();
        let mut independent = Independent::new(&self.shared)?;
        for (place, job) in jobs.into_iter().enumerate() {
            let record = job.into_record().and_then(|mut record| {
                self.shared.prepare(std::slice::from_mut(&mut record))?;
                Ok(record)
            });
            match record {
                Ok(record) => independent.add(place, record).await?,
                Err(error) => independent.refused(place, error),
            }
            report.note(independent.take_outcomes());
        }
        independent.finish().await?;
        report.note(independent.take_outcomes());
        report.refused.sort_by_key(|(place, _)| *place);
        Ok(report)
    }
}
