//! A history from what real processes leave behind: what the storage tells at the end, what handlers
//! wrote into a ledger, and what clients were answered.
//!
//! Commits cannot be seen so. What bears one instant of the storage's clock counts as one commit, and
//! what is decided by an end stands right after it. So these can be answered: G1, G2, G3 (whole or not at
//! all), G4 (fences grow), G6, G7 and G9 (at the end), G8, G10, G11, G13, G16 and G18. The others hold
//! vacuously: G5, since a storage tells only of the writes that it accepted from whom it took for the
//! holder; G14 and G15, since nobody saw what a claim asked for and what was paused then; G12, since locks
//! leave no record; G17, since the transitions are taken from the very histories; G19, since nothing
//! expires in such a run. What is told twice, by a history and by a ledger, is compared by G6.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jobkit_core::batch::BatchRecord;
use jobkit_core::edge::{Decision, Edge, Finish, Parent};
use jobkit_core::record::{HistoryEntry, JobDetails};
use jobkit_core::recurring::{RecurringRun, RunOutcome};
use jobkit_core::state::StateName;
use jobkit_core::stats::Scope;
use jobkit_core::storage::{Call, JobQuery, Storage};
use jobkit_core::unique::Until;
use jobkit_core::{BatchId, Incarnation, JobId, Result, Timestamp};

use super::{Event, Fact, History, Place};

/// What a storage tells when all is over.
#[derive(Clone, Debug, Default)]
pub struct Remains {
    /// Every job.
    pub jobs: Vec<JobDetails>,
    /// Every batch that a job names.
    pub batches: Vec<BatchRecord>,
    /// Limits that count holders: how many may hold each.
    pub limits: Vec<(String, u32)>,
    /// Schedules of a fixed pace, with what is kept of their occurrences, newest first.
    pub schedules: Vec<(String, Duration, Vec<RecurringRun>)>,
    /// Transitions to each state, as they were counted.
    pub totals: [u64; 7],
    /// Jobs in each state, as they were counted.
    pub standing: [u64; 7],
    /// When it told so.
    pub at: Timestamp,
}

/// What others than the storage know.
#[derive(Clone, Debug, Default)]
pub struct Witnesses {
    /// When a client was told that a job is stored.
    pub told: Vec<(JobId, Timestamp)>,
    /// What was submitted together, whatever the answer.
    pub submissions: Vec<Vec<JobId>>,
    /// When a handler began: the job, the fence that it was given.
    pub started: Vec<(JobId, u64, Timestamp)>,
}

impl Remains {
    /// Reads it, once nothing moves any more. `schedules` have a fixed pace.
    ///
    /// # Errors
    /// What the storage answers; it must offer monitoring.
    pub async fn of(storage: &dyn Storage, schedules: &[(&str, Duration)]) -> Result<Self> {
        let mut remains = Self { at: storage.now().await?, ..Self::default() };
        let mut batches = BTreeSet::new();
        for state in StateName::ALL {
            let mut query = JobQuery { limit: 200, ..JobQuery::new(state) };
            loop {
                let page = storage.list(&query).await?;
                for job in page.jobs {
                    batches.extend(job.batch);
                    remains.jobs.extend(storage.job(job.id).await?);
                }
                query.after = page.next;
                if query.after.is_none() {
                    break;
                }
            }
        }
        for batch in batches {
            remains.batches.extend(storage.batch(batch).await?);
        }
        for usage in storage.limits(&Call::default(), None, 1000).await? {
            if usage.limit.window.is_none() {
                remains.limits.push((usage.limit.name, usage.limit.max));
            }
        }
        for (id, pace) in schedules {
            let runs = storage.recurring_runs(id, 100).await?;
            remains.schedules.push(((*id).to_owned(), *pace, runs));
        }
        remains.totals = storage.counters(&Scope::Total).await?.to;
        remains.standing = storage.snapshot(&Call::default()).await?.by_state;
        Ok(remains)
    }

    /// The history that led there.
    pub fn history(&self, witnesses: &Witnesses) -> History {
        let mut telling = Telling { depths: depths(self), ..Telling::default() };
        let submissions = (1..).zip(&witnesses.submissions);
        let submission: BTreeMap<JobId, u64> =
            submissions.flat_map(|(n, jobs)| jobs.iter().map(move |job| (*job, n))).collect();
        let ends = Ends::of(self);
        let alone = witnesses.submissions.len() as u64;
        for (n, job) in (1..).zip(&self.jobs) {
            let submission = submission.get(&job.record.id).copied().unwrap_or(alone + n);
            telling.job(job, submission, &ends);
        }
        for (name, max) in &self.limits {
            telling.push(Timestamp::MIN, 0, Fact::LimitMax { name: name.clone(), max: *max });
        }
        for (job, at) in &witnesses.told {
            telling.push(*at, LATE, Fact::Told(*job));
        }
        // A claim may be among what fell out of a history.
        let with_gap: BTreeSet<JobId> = self
            .jobs
            .iter()
            .filter(|job| job.history.dropped > 0)
            .map(|job| job.record.id)
            .collect();
        for (job, fence, at) in witnesses.started.iter().filter(|it| !with_gap.contains(&it.0)) {
            telling.push(*at, LATE, Fact::Started { job: *job, fence: *fence });
        }
        self.occurrences(&mut telling);
        for jobs in &witnesses.submissions {
            telling.push(self.at, LATE, Fact::Together(jobs.clone()));
        }
        for batch in &self.batches {
            telling.push(self.at, LATE, Fact::Batch(Box::new(batch.clone())));
        }
        // What fell out of a history was counted, and nobody can tell as what.
        if self.jobs.iter().all(|job| job.history.dropped == 0) {
            telling.push(self.at, LATE, Fact::Totals(self.totals));
        }
        telling.push(self.at, LATE, Fact::Standing(self.standing));
        telling.push(self.at, LATE + 1, Fact::Quiet);
        telling.history()
    }

    /// Every job of an occurrence is one that was fired. Which were left out is known as far back as
    /// occurrences are kept.
    fn occurrences(&self, telling: &mut Telling) {
        let occurrence = |job: &JobDetails| {
            job.record.extras.as_ref().and_then(|extras| extras.occurrence.clone())
        };
        for (id, pace, runs) in &self.schedules {
            let mut facts: Vec<(Timestamp, Fact)> = Vec::new();
            let its = self.jobs.iter().filter_map(occurrence).filter(|it| it.recurring == *id);
            for nominal_at in its.map(|it| it.nominal_at) {
                facts.push((nominal_at, Fact::Fired { id: id.clone(), nominal_at }));
            }
            let skipped = |run: &&RecurringRun| {
                !matches!(run.outcome, RunOutcome::Fired { .. } | RunOutcome::Triggered { .. })
            };
            for run in runs.iter().filter(skipped) {
                let (id, from, through) = (id.clone(), run.nominal_at, run.through);
                facts.push((from, Fact::Skipped { id, from, through }));
            }
            if let Some(first) = runs.last() {
                let schedule = Fact::Schedule { id: id.clone(), every: *pace };
                facts.push((first.nominal_at.plus(Duration::from_micros(1)), schedule));
            }
            facts.sort_by_key(|(at, _)| *at);
            for (at, fact) in facts {
                telling.push(at.min(self.at), LATE, fact);
            }
        }
    }
}

/// After everything that the storage did at that instant.
const LATE: u32 = 1_000_000;

/// The place of each entry of each job among those of the same instant.
type Depths = BTreeMap<JobId, Vec<u32>>;

/// What ended, and so decides edges: when, and the place there.
struct Ends<'a> {
    jobs: BTreeMap<JobId, &'a JobDetails>,
    batches: BTreeMap<BatchId, &'a BatchRecord>,
}

impl<'a> Ends<'a> {
    fn of(remains: &'a Remains) -> Self {
        let jobs = remains.jobs.iter().map(|job| (job.record.id, job));
        let batches = remains.batches.iter().map(|batch| (batch.id, batch));
        Self { jobs: jobs.collect(), batches: batches.collect() }
    }

    /// When the edge could be decided first.
    fn decides(&self, edge: &Edge, depths: &Depths) -> Option<(Timestamp, u32)> {
        match edge.parent {
            Parent::Job(id) => {
                let entries = &self.jobs.get(&id)?.history.entries;
                let place = entries.iter().position(|entry| {
                    Finish::of(entry.state)
                        .map(|finish| edge.on.decide(finish))
                        .is_some_and(|decision| decision != Decision::Open)
                })?;
                Some((entries[place].at, depths.get(&id)?[place] + 1))
            }
            Parent::Batch(id) => {
                let at = self.batches.get(&id)?.completed_at?;
                Some((at, BATCH_END))
            }
        }
    }
}

/// A batch completes after the ends of its members.
const BATCH_END: u32 = 1_000;

/// Within an instant causes come before effects: an end, the decision, the release.
fn depths(remains: &Remains) -> Depths {
    let ends = Ends::of(remains);
    let start = |job: &JobDetails| (job.record.id, vec![0; job.history.entries.len()]);
    let mut depths: Depths = remains.jobs.iter().map(start).collect();
    // As often as the longest line of jobs that end each other is long.
    for _ in 0..100 {
        let mut changed = false;
        for job in &remains.jobs {
            let entries = &job.history.entries;
            let mut mine = depths[&job.record.id].clone();
            for place in 0..entries.len() {
                let mut least = mine[place];
                if place > 0 && entries[place].at == entries[place - 1].at {
                    least = least.max(mine[place - 1]);
                }
                if place > 0 && entries[place - 1].state == StateName::Awaiting {
                    let decided = job.parents.iter().filter(|status| status.decided);
                    let causes = decided.filter_map(|it| ends.decides(&it.edge, &depths));
                    let now = causes.filter(|(at, _)| *at == entries[place].at);
                    least = least.max(now.map(|(_, depth)| depth + 1).max().unwrap_or(0));
                }
                changed |= std::mem::replace(&mut mine[place], least) != least;
            }
            depths.insert(job.record.id, mine);
        }
        if !changed {
            break;
        }
    }
    depths
}

#[derive(Default)]
struct Telling {
    depths: Depths,
    facts: Vec<(Timestamp, u32, Fact)>,
}

impl Telling {
    fn push(&mut self, at: Timestamp, depth: u32, fact: Fact) {
        self.facts.push((at, depth, fact));
    }

    fn job(&mut self, details: &JobDetails, submission: u64, ends: &Ends<'_>) {
        let JobDetails { record, history, parents, .. } = details;
        let job = record.id;
        let depths = self.depths[&job].clone();
        // What fell out in the middle is no transition that can be told: it begins after the gap.
        let begins = if history.dropped > 0 { jobkit_core::bounds::HISTORY_FIRST } else { 0 };
        let Some(first) = history.entries.get(begins) else { return };
        let place = Place {
            queue: record.queue.clone(),
            kind: record.kind.clone(),
            rank: (9 - record.priority, record.sequence),
            conditional: true,
        };
        let born = (record.created_at, depths[0]);
        self.push(born.0, born.1, Fact::Create { job, submission, to: first.state, place });
        if let Some(batch) = record.batch {
            self.push(born.0, born.1, Fact::Member { job, batch });
        }
        for limit in &record.limits {
            self.push(born.0, born.1, Fact::Limited { job, limit: limit.name.clone() });
        }
        let key = record.unique.as_ref().filter(|it| !matches!(it.until, Until::Period(_)));
        if !history.entries[0].state.is_finished() {
            for status in parents {
                self.push(born.0, born.1, Fact::Edge { child: job, edge: status.edge });
                if let Some(end) =
                    ends.decides(&status.edge, &self.depths).filter(|_| status.decided)
                {
                    let (at, depth) = end.max(born);
                    let parent = status.edge.parent;
                    self.push(at, depth, Fact::Decided { child: job, parent });
                }
            }
            if let Some(unique) = key {
                let key = unique.key.clone();
                self.push(born.0, born.1, Fact::KeyTaken { job, key });
            }
        }
        if begins > 0 && first.state == StateName::Processing {
            self.claimed(job, first, depths[begins]);
        }
        let (mut before, mut run) = (first, 0);
        for (entry, depth) in history.entries.iter().zip(&depths).skip(begins + 1) {
            let mut tell = |fact| self.facts.push((entry.at, *depth, fact));
            if before.state.is_finished() && !entry.state.is_finished() {
                run += 1;
                tell_key(key, |key| tell(Fact::KeyTaken { job, key }));
            }
            if before.state == StateName::Processing {
                let fence = before.fence.unwrap_or_default();
                tell(Fact::End { job, fence: entry.fence.unwrap_or(fence) });
            }
            tell(Fact::Step { job, to: entry.state, reason: entry.reason, run });
            let started = entry.state == StateName::Processing;
            let freed = key.filter(|unique| {
                entry.state.is_finished() || (started && unique.until == Until::Started)
            });
            tell_key(freed, |key| tell(Fact::KeyFreed { job, key }));
            if started {
                self.claimed(job, entry, *depth);
            }
            before = entry;
        }
    }

    fn claimed(&mut self, job: JobId, entry: &HistoryEntry, depth: u32) {
        // Which call it was nobody wrote down: that claims of one instant are one is no fault.
        let server = entry.server.as_ref().map_or("", |server| server.as_str());
        let digest = jobkit_core::unique::KeyHash::of(server).0;
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&digest[..8]);
        let life = Incarnation::from_i64(i64::from_be_bytes(bytes));
        let call = u64::try_from(entry.at.as_micros()).unwrap_or(0);
        let fence = entry.fence.unwrap_or_default();
        self.push(entry.at, depth, Fact::Claim { job, fence, life, call });
    }

    /// All of it in order, with a number for each instant.
    fn history(mut self) -> History {
        self.facts.sort_by_key(|(at, depth, _)| (*at, *depth));
        let mut history = History::default();
        let mut s = 0;
        let mut last = None;
        for (at, _, fact) in self.facts {
            s += u64::from(last.replace(at) != Some(at));
            history.events.push(Event { s, at, fact });
        }
        history
    }
}

fn tell_key(unique: Option<&jobkit_core::unique::Unique>, tell: impl FnOnce(String)) {
    if let Some(unique) = unique {
        tell(unique.key.clone());
    }
}

#[cfg(test)]
mod tests;
