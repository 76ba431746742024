//! The transaction of one call, and what has to be told once it is committed.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use jobkit_core::record::{HistoryEntry, Lease, retention_of};
use jobkit_core::state::{Retention, State, StateName};
use jobkit_core::state_machine::{Event, Forbidden, Situation, Transition, apply};
use jobkit_core::{BatchId, Error, ErrorKind, JobId, Result, Timestamp, bounds};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::fault::Fault;
use crate::keys::{self, Key, beside, table};
use crate::kv::Tx;
use crate::record::Job;

/// The transaction in progress: everything that one call writes.
pub(crate) struct Txn<'a> {
    pub(crate) tx: Tx<'a>,
    /// The storage's clock, or what a test says.
    pub(crate) now: Timestamp,
    pub(crate) told: Told,
    /// Children that may still be decided in this step.
    pub(crate) budget: usize,
    /// Parents that ended, whose children are to be decided before the call ends.
    pub(crate) ended: VecDeque<crate::edges::Ended>,
    /// Batches whose counts changed.
    pub(crate) batches: BTreeSet<BatchId>,
    /// Limits that may have room for those who wait.
    pub(crate) limits: BTreeSet<String>,
    pub(crate) fault: Option<Fault>,
}

/// What listeners are told after the commit.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) work: bool,
    /// Something was left to sweeps.
    pub(crate) marks: bool,
    pub(crate) due: Option<Timestamp>,
    pub(crate) finished: Vec<JobId>,
    pub(crate) cancelled: Vec<JobId>,
    /// When sweeps are to look at limits again.
    pub(crate) look_again: Option<Timestamp>,
}

impl<'a> Txn<'a> {
    pub(crate) fn new(tx: Tx<'a>, now: Timestamp, fault: Option<Fault>) -> Self {
        Self {
            tx,
            now,
            told: Told::default(),
            budget: bounds::CHILDREN_IN_SETTLE,
            ended: VecDeque::new(),
            batches: BTreeSet::new(),
            limits: BTreeSet::new(),
            fault,
        }
    }

    /// Whether a fault is planted; never without the feature.
    pub(crate) fn has(&self, fault: Fault) -> bool {
        cfg!(feature = "_faults") && self.fault == Some(fault)
    }

    pub(crate) fn due_at(&mut self, at: Timestamp) {
        self.told.due = Some(self.told.due.map_or(at, |due| due.min(at)));
    }
}

/// Documents.
impl Txn<'_> {
    pub(crate) fn get<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>> {
        let decode = |bytes: &[u8]| {
            serde_json::from_slice(bytes).map_err(|error| {
                let key = String::from_utf8_lossy(key).into_owned();
                Error::corrupt("a document cannot be decoded").with("key", key).caused_by(error)
            })
        };
        self.tx.get(key).map(decode).transpose()
    }

    pub(crate) fn put<T: Serialize>(&mut self, key: Key, value: &T) -> Result<()> {
        let bytes = serde_json::to_vec(value).map_err(|error| {
            Error::new(ErrorKind::Internal, "a document cannot be encoded").caused_by(error)
        })?;
        self.tx.put(key, bytes);
        Ok(())
    }

    pub(crate) fn has_key(&self, key: &[u8]) -> bool {
        self.tx.get(key).is_some()
    }

    /// The first keys of a table, at most `max`.
    pub(crate) fn keys(&self, of: &Key, max: usize) -> Vec<Vec<u8>> {
        self.keys_from(of, of, max)
    }

    /// The first keys of a table from one on, at most `max`.
    pub(crate) fn keys_from(&self, of: &Key, from: &[u8], max: usize) -> Vec<Vec<u8>> {
        self.tx.keys(from, &of.end()).take(max).map(<[u8]>::to_vec).collect()
    }

    pub(crate) fn first(&self, of: &Key) -> Option<Vec<u8>> {
        self.tx.keys(of, &of.end()).next().map(<[u8]>::to_vec)
    }

    pub(crate) fn count(&self, of: &Key, max: usize) -> usize {
        self.tx.keys(of, &of.end()).take(max).count()
    }

    pub(crate) fn delete_all(&mut self, of: &Key) {
        for key in self.keys(of, usize::MAX) {
            self.tx.delete(key);
        }
    }

    /// The last number given under a name.
    pub(crate) fn last(&self, name: &str) -> u64 {
        self.tx.get(&table("last").text(name)).map_or(0, keys::last_number)
    }

    /// The next number under a name: the sequence of jobs, of marks, of etags.
    pub(crate) fn next(&mut self, name: &str) -> u64 {
        let next = self.last(name) + 1;
        self.tx.put(table("last").text(name), next.to_be_bytes());
        next
    }
}

/// Jobs.
impl Txn<'_> {
    pub(crate) fn find(&self, id: JobId) -> Option<u64> {
        self.tx.get(&keys::id(id)).map(keys::last_number)
    }

    /// The job at a place that an index names.
    pub(crate) fn job(&self, place: u64) -> Result<Job> {
        let mut job: Job = self.get(&keys::job(place))?.ok_or_else(|| {
            Error::corrupt("an index names a job that is not there").with("place", place)
        })?;
        if let Some(bytes) = self.tx.get(&beside(place, "extras")) {
            match serde_json::from_slice(bytes) {
                Ok(extras) => job.record.extras = Some(extras),
                Err(_) => job.unreadable = true,
            }
        }
        Ok(job)
    }

    pub(crate) fn job_by_id(&self, id: JobId) -> Result<Option<Job>> {
        self.find(id).map(|place| self.job(place)).transpose()
    }

    // [guide: save]
    /// Writes a job, and exactly the index keys of its state.
    pub(crate) fn save(&mut self, job: &Job) -> Result<()> {
        let before: Option<Job> = self.get(&job.key())?;
        let (old, new) = (before.as_ref().map(Job::indexes).unwrap_or_default(), job.indexes());
        for key in old.difference(&new) {
            self.tx.delete(key.clone());
        }
        for key in new.difference(&old) {
            self.tx.put(key.clone(), []);
        }
        self.put(job.key(), job)?;
        let parked = before.and_then(|before| before.record.parked_at);
        if parked != job.record.parked_at {
            for limit in parked.iter().chain(&job.record.parked_at) {
                self.note_room(limit)?;
            }
        }
        Ok(())
    }
    // [end]

    /// The place of a job whose holder this is.
    pub(crate) fn find_held(&self, lease: &Lease) -> Result<Option<u64>> {
        let Some(place) = self.find(lease.job) else { return Ok(None) };
        let held = self.job(place)?.record.head.is_held_by(lease.fence, lease.incarnation);
        Ok(held.then_some(place))
    }
}

/// What a transition is accompanied by.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct With<'a> {
    /// Instead of the job's own.
    pub(crate) retention: Option<Retention>,
    pub(crate) duration: Option<Duration>,
    pub(crate) actor: Option<&'a str>,
}

/// Transitions.
impl Txn<'_> {
    // [guide: transition]
    /// Applies an event as the state machine allows, with everything that changes in the same step.
    pub(crate) fn transition(
        &mut self,
        place: u64,
        event: &Event,
        with: With<'_>,
    ) -> Result<std::result::Result<StateName, Forbidden>> {
        let mut job = self.job(place)?;
        let batch_cancelled = match job.record.batch {
            Some(batch) => self.is_cancelled(batch)?,
            None => false,
        };
        let own = || retention_of(job.record.extras.as_deref());
        let retention = with.retention.unwrap_or_else(own);
        let situation = Situation { now: self.now, retention, batch_cancelled };
        let Transition { from, head, effects } = match apply(&job.record.head, event, &situation) {
            Ok(transition) => transition,
            Err(forbidden) => return Ok(Err(forbidden)),
        };
        let to = head.state.name();
        let server = match (&job.record.head.state, &head.state) {
            (State::Processing(hold), _) | (_, State::Processing(hold)) => {
                Some(hold.server.clone())
            }
            _ => None,
        };
        let run_at = match head.state {
            State::Scheduled { run_at } => Some(run_at),
            _ => None,
        };
        let forgotten = to == StateName::Processing && self.has(Fault::HistoryForgetsClaims);
        let no_actor = self.has(Fault::HistoryForgetsTheActor);
        if effects.history && !forgotten {
            job.history.push(HistoryEntry {
                state: to,
                reason: head.reason,
                at: self.now,
                fence: server.is_some().then_some(head.fence),
                server,
                duration: with.duration,
                run_at,
                actor: with.actor.map(str::to_owned).filter(|_| !no_actor),
            });
        }
        let record = &mut job.record;
        if from == StateName::Enqueued && to == StateName::Processing {
            record.claimed_at = Some(self.now);
        }
        if effects.claimable {
            self.told.work = true;
            if effects.history {
                record.enqueued_at = Some(self.now);
            }
        }
        if let Some(run_at) = run_at {
            self.due_at(run_at);
        }
        if let Some(expires_at) = effects.expires_at {
            record.expires_at = expires_at;
        }
        record.head = head;
        job.kept = false;
        self.leave_limit(&mut job, to);
        #[cfg(feature = "_faults")]
        self.spoil(&mut job, event);
        self.save(&job)?;
        #[cfg(feature = "_faults")]
        self.spoil_indexes(&job, event);
        if matches!(event, Event::Requeue { .. }) && !self.has(Fault::RequeueKeepsTheResult) {
            for what in ["result", "checkpoint", "memo"] {
                self.delete_all(&beside(place, what));
            }
        }
        self.change_key(&job, &effects)?;
        if effects.frees_slots {
            self.freed_slots(&job)?;
        }
        self.tell_batch(&job, effects.reopened, effects.finished)?;
        if let Some(finish) = effects.finished {
            self.told.finished.push(job.record.id);
            self.parent_finished(job.record.id, finish);
        }
        Ok(Ok(to))
    }
    // [end]

    /// A transition that the job's state allows, as the caller has made sure.
    pub(crate) fn must(&mut self, place: u64, event: &Event) -> Result<StateName> {
        let applied = self.transition(place, event, With::default())?;
        applied.map_err(|forbidden| {
            let message = format!("{event:?} was refused: {forbidden:?}");
            Error::new(ErrorKind::Internal, message)
        })
    }

    /// Deletes a waiting job, or asks a running one to stop.
    pub(crate) fn give_up(&mut self, place: u64, reason: jobkit_core::state::Reason) -> Result<()> {
        let record = self.job(place)?.record;
        if record.state().is_finished() {
            return Ok(());
        }
        let applied = self.transition(place, &Event::Delete(reason), With::default())?;
        if applied.is_ok() && record.state() == StateName::Processing {
            self.told.cancelled.push(record.id);
        }
        Ok(())
    }
}

#[cfg(feature = "_faults")]
impl Txn<'_> {
    /// What planted faults make of a transition.
    fn spoil(&mut self, job: &mut Job, event: &Event) {
        use jobkit_core::state_machine::Ending;
        let given_back = matches!(event, Event::GiveBack | Event::Settle(Ending::GivenBack));
        let head = &mut job.record.head;
        if given_back && self.has(Fault::GiveBackDecreasesTheFence) {
            head.fence -= 1;
        }
        if let (Event::Decided { .. }, State::Awaiting { open }) = (event, &mut head.state)
            && self.has(Fault::EdgeCountsTwice)
        {
            *open = open.saturating_sub(1);
            if *open == 0 {
                head.state = State::Enqueued;
            }
        }
        if let (Event::Decided { .. }, State::Awaiting { .. }) = (event, &head.state)
            && self.has(Fault::SecondParentReleases)
        {
            head.state = State::Enqueued;
        }
        if let Event::Settle(ending) = event
            && self.has(Fault::RepeatedSettleIsForgotten)
            && *ending == Ending::Succeeded
        {
            head.settled = None;
        }
    }

    fn spoil_indexes(&mut self, job: &Job, event: &Event) {
        for limit in &job.record.limits {
            let slots = table("slot").text(&limit.name);
            let claimed_at = job.record.claimed_at.unwrap_or_default();
            let slot = slots.at(claimed_at).number(job.record.sequence);
            if matches!(event, Event::Rescue { .. }) && self.has(Fault::RescueKeepsTheSlot) {
                self.tx.put(slot, []);
            } else if matches!(event, Event::Delete(_)) && self.has(Fault::DeleteFreesTheSlot) {
                self.tx.delete(slot);
                self.limits.insert(limit.name.clone());
            }
        }
    }
}
