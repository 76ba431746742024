//! Recurring jobs, as users declare and steer them.

use std::time::Duration;

use crate::client::Client;
use crate::client::changes::unless;
use crate::jobs::codec::Place;
use crate::jobs::new_job::NewJob;
use crate::model::bounds::MAX_STEP_ITEMS;
use crate::model::clock::Timestamp;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::ids::JobId;
use crate::model::record::{Occurrence, Payload};
use crate::model::recurring::{
    JobTemplate, Misfire, Overlap, Pause, RecurringRecord, RecurringSpec,
};
use crate::model::schedule::{Schedule, TimeZone};
use crate::storage::{Call, PauseChange, SaveOutcome, SaveRecurring, TriggerOutcome};

/// A recurring job being declared.
///
/// Mistakes are kept and told when it is saved, so that options chain.
///
/// # Example: every night in Berlin
/// ```
/// # use jobkit::{Job, NewJob, Recurring};
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # struct Report {}
/// # impl Job for Report { const KIND: &'static str = "report"; type Output = (); }
/// let nightly = Recurring::cron("nightly", "0 2 * * *")
///     .time_zone("Europe/Berlin")
///     .job(NewJob::new(Report {}));
/// assert!(nightly.into_spec().is_ok());
/// ```
#[derive(Debug)]
#[must_use = "a schedule does nothing until it is saved or given to a server"]
pub struct Recurring {
    id: String,
    schedule: Result<Schedule>,
    zone: Result<TimeZone>,
    misfire: Misfire,
    overlap: Overlap,
    jitter: Duration,
    starts_at: Option<Timestamp>,
    ends_at: Option<Timestamp>,
    template: Option<Result<JobTemplate>>,
}

impl Recurring {
    /// By a crontab expression; see [`Schedule::cron`].
    pub fn cron(id: impl Into<String>, expression: &str) -> Self {
        Self::schedule(id, Schedule::cron(expression))
    }

    /// By an expression in the dialect of Quartz; see [`Schedule::quartz`].
    pub fn quartz(id: impl Into<String>, expression: &str) -> Self {
        Self::schedule(id, Schedule::quartz(expression))
    }

    /// At a fixed pace, a second at least.
    pub fn every(id: impl Into<String>, interval: Duration) -> Self {
        Self::schedule(id, Schedule::every(interval))
    }

    fn schedule(id: impl Into<String>, schedule: Result<Schedule>) -> Self {
        Self {
            id: id.into(),
            schedule,
            zone: Ok(TimeZone::UTC),
            misfire: Misfire::default(),
            overlap: Overlap::default(),
            jitter: Duration::ZERO,
            starts_at: None,
            ends_at: None,
            template: None,
        }
    }

    /// The zone's IANA name, such as `Europe/Berlin`; UTC by default.
    pub fn time_zone(mut self, name: &str) -> Self {
        self.zone = TimeZone::parse(name);
        self
    }

    /// Occurrences that nobody was there to fire; the latest is fired by default.
    pub fn misfire(mut self, misfire: Misfire) -> Self {
        self.misfire = misfire;
        self
    }

    /// Occurrences whose predecessor has not finished; fired all the same by default.
    pub fn overlap(mut self, overlap: Overlap) -> Self {
        self.overlap = overlap;
        self
    }

    /// Fires each occurrence up to so much later, but before the next one; a day at most.
    pub fn jitter(mut self, jitter: Duration) -> Self {
        self.jitter = jitter;
        self
    }

    /// No occurrence before.
    pub fn starts_at(mut self, at: impl Into<Timestamp>) -> Self {
        self.starts_at = Some(at.into());
        self
    }

    /// No occurrence after.
    pub fn ends_at(mut self, at: impl Into<Timestamp>) -> Self {
        self.ends_at = Some(at.into());
        self
    }

    /// What each occurrence creates, with its options.
    pub fn job<J>(mut self, job: NewJob<J>) -> Self {
        self.template =
            Some(job.into_template().and_then(|record| JobTemplate::from_record(&record)));
        self
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The definition, checked.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput), with the field and the reason.
    pub fn into_spec(self) -> Result<RecurringSpec> {
        let id = self.id;
        let named = |error: Error| error.with("recurring", &id);
        let job = self.template.ok_or_else(|| named(Error::invalid("job", "is missing")))?;
        let spec = RecurringSpec {
            schedule: self.schedule.map_err(named)?,
            time_zone: self.zone.map_err(named)?,
            misfire: self.misfire,
            overlap: self.overlap,
            jitter: self.jitter,
            starts_at: self.starts_at,
            ends_at: self.ends_at,
            job: job.map_err(named)?,
            id: id.clone(),
        };
        spec.check().map_err(named)?;
        Ok(spec)
    }
}

impl Client {
    /// Saves a recurring job. An unchanged definition keeps its next occurrence; a pause stays. What is due is
    /// still fired when only the job or a policy changes; with another schedule it is recorded as skipped.
    ///
    /// # Errors
    /// Invalid input names the field.
    pub async fn save_recurring(&self, recurring: Recurring) -> Result<()> {
        self.save_specs(vec![recurring.into_spec()?]).await
    }

    pub(crate) async fn save_specs(&self, specs: Vec<RecurringSpec>) -> Result<()> {
        let storage = self.dyn_storage();
        let now = storage.now().await?;
        let mut saves = Vec::with_capacity(specs.len());
        for mut spec in specs {
            self.prepare_template(&mut spec).await?;
            saves.push(SaveRecurring { next: spec.next_after(now), spec, if_etag: None });
        }
        let step = storage.capabilities().items_of(MAX_STEP_ITEMS);
        for saves in saves.chunks(step) {
            let saved = super::changes::repeated(|| async {
                let outcomes = storage.save_recurring(&Call::default(), saves).await?;
                unless(outcomes.contains(&SaveOutcome::Busy), outcomes)
            })
            .await?;
            for (save, outcome) in saves.iter().zip(saved) {
                if let SaveOutcome::Refused(refusal) = outcome {
                    return Err(Error::from(refusal).with("recurring", &save.spec.id));
                }
            }
        }
        Ok(())
    }

    /// Lets this client's filters look at the template, and its codecs seal the arguments.
    async fn prepare_template(&self, spec: &mut RecurringSpec) -> Result<()> {
        let options = &self.shared.options;
        let capabilities = self.dyn_storage().capabilities();
        if options.are_plain() {
            return capabilities.check_payload(spec.job.args.get().len());
        }
        // Each occurrence has an id of its own; this one is never stored.
        let id = JobId::from_key("template", &spec.id);
        let occurrence = Occurrence { recurring: spec.id.clone(), nominal_at: Timestamp::MIN };
        let mut record = spec.job.instantiate(id, occurrence);
        record.extras_mut().occurrence = None;
        options
            .prepare(&mut record, &spec.id)
            .map_err(|error| error.with("recurring", &spec.id))?;
        capabilities.check_payload(record.args.len())?;
        spec.job = JobTemplate::from_record(&record)?;
        if record.args.is_sealed()
            && let Some(stored) = self.dyn_storage().recurring(&spec.id).await?
        {
            // Sealed by another codec or key it is the same definition.
            let place = Place { owner: &spec.id, part: "args" };
            let before = Payload::from(stored.spec.job.args.get().as_bytes());
            let (before, now) =
                (self.codecs().open(place, &before), self.codecs().open(place, &record.args));
            if matches!((before, now), (Ok(before), Ok(now)) if before == now) {
                spec.job.args = stored.spec.job.args;
            }
        }
        Ok(())
    }

    /// A recurring job; `None` if there is none.
    ///
    /// # Errors
    /// The storage's.
    pub async fn recurring(&self, id: &str) -> Result<Option<RecurringRecord>> {
        self.dyn_storage().recurring(id).await
    }

    /// Removes a recurring job; jobs it created stay. `false` if there was none. What was due and not fired
    /// is recorded, and stands among its occurrences when it is saved again.
    ///
    /// # Errors
    /// The storage's.
    pub async fn remove_recurring(&self, id: &str) -> Result<bool> {
        self.dyn_storage().remove_recurring(&Call::default(), id).await
    }

    /// Pauses a recurring job: nothing is fired until it is resumed.
    ///
    /// # Errors
    /// Not found.
    pub async fn pause_recurring(&self, id: &str, pause: Pause) -> Result<()> {
        pause.check()?;
        self.change_pause(id, PauseChange::Pause(pause)).await
    }

    /// Resumes a recurring job with its next occurrence from now.
    ///
    /// # Errors
    /// Not found.
    pub async fn resume_recurring(&self, id: &str) -> Result<()> {
        let record = self.recurring(id).await?.ok_or_else(|| no_recurring(id))?;
        let next = record.spec.next_after(self.dyn_storage().now().await?);
        self.change_pause(id, PauseChange::Resume { next }).await
    }

    async fn change_pause(&self, id: &str, change: PauseChange) -> Result<()> {
        let storage = self.dyn_storage();
        let changed = super::changes::repeated(|| async {
            storage.pause_recurring(&Call::default(), id, change.clone()).await
        });
        match changed.await? {
            true => Ok(()),
            false => Err(no_recurring(id)),
        }
    }

    /// Creates a job of the schedule now, beside its occurrences.
    ///
    /// # Errors
    /// Not found; or what `enqueue` says.
    pub async fn trigger_recurring(&self, id: &str) -> Result<JobId> {
        let record = self.recurring(id).await?.ok_or_else(|| no_recurring(id))?;
        let storage = self.dyn_storage();
        let now = storage.now().await?;
        let occurrence = Occurrence { recurring: id.to_owned(), nominal_at: now };
        // The id stays the same when the answer is lost and the call repeated. Its time is the storage's,
        // which judges it.
        let job = record.spec.job.instantiate(JobId::new_at(now), occurrence);
        match super::changes::repeated(|| async {
            let outcome = storage.trigger_recurring(&Call::default(), id, &job).await?;
            unless(outcome == TriggerOutcome::Busy, outcome)
        })
        .await?
        {
            TriggerOutcome::Created(job) | TriggerOutcome::Existing(job) => Ok(job),
            TriggerOutcome::NotFound | TriggerOutcome::Busy => Err(no_recurring(id)),
            TriggerOutcome::Refused(refusal) => Err(refusal.into()),
        }
    }
}

fn no_recurring(id: &str) -> Error {
    Error::new(ErrorKind::NotFound, "there is no such recurring job").with("recurring", id)
}
