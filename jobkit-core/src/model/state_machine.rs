//! The allowed transitions of a job: (head, event) in, (new head, effects) out.
//!
//! Pure: no I/O, no clock, no locks. Storages apply what [`apply`] computes and never invent a
//! transition; everything that is not listed here is refused.
//!
//! ```text
//! Awaiting → Scheduled → Enqueued → Processing → Succeeded | Failed | Deleted
//! ```
//!
//! | from | event | to |
//! |---|---|---|
//! | Awaiting | [`Decided`](Event::Decided) | Awaiting, Enqueued, Scheduled, Deleted |
//! | Awaiting, Scheduled | [`RunNow`](Event::RunNow) | Enqueued |
//! | Scheduled | [`Due`](Event::Due) | Enqueued |
//! | Scheduled, Enqueued | [`Reschedule`](Event::Reschedule) | Scheduled |
//! | Enqueued, Scheduled, Awaiting | [`Move`](Event::Move) | the same |
//! | Enqueued | [`Claim`](Event::Claim) | Processing |
//! | Enqueued | [`Unreadable`](Event::Unreadable), [`StartExpired`](Event::StartExpired) | Failed, Deleted |
//! | Processing | [`Settle`](Event::Settle) | Succeeded, Failed, Deleted, Scheduled, Enqueued |
//! | Processing | [`GiveBack`](Event::GiveBack) | Enqueued, Deleted |
//! | Processing | [`Rescue`](Event::Rescue) | Enqueued, Failed, Deleted |
//! | Processing | [`Delete`](Event::Delete) | Processing, marked |
//! | Awaiting, Scheduled, Enqueued, Succeeded, Failed | [`Delete`](Event::Delete) | Deleted |
//! | Succeeded, Failed, Deleted | [`Requeue`](Event::Requeue) | Enqueued, Scheduled |

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::clock::Timestamp;
use crate::model::edge::Finish;
use crate::model::ids::Incarnation;
use crate::model::state::{Hold, Reason, Retention, Start, State, StateName};

/// The part of a job's record that transitions read and write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobHead {
    /// The state, with its data.
    pub state: State,
    /// Why it is in this state.
    pub reason: Reason,
    /// When it came into this state, by the storage's clock.
    pub entered_at: Timestamp,
    /// Grows with every claim; never decreases or resets. The fencing token.
    pub fence: u64,
    /// Runs of the handler that failed, since the last requeue.
    pub failures: u32,
    /// Attempts known to have started whose server vanished, since the last requeue.
    pub crashes: u32,
    /// Requeues of the finished job.
    pub run: u32,
    /// Grows with every applied change; what guarded changes compare.
    pub version: u64,
    /// The last settle, by which its repetition is recognised: fence and incarnation.
    pub settled: Option<(u64, Incarnation)>,
    /// When it may run once it is released.
    pub start: Start,
}

/// A job that was scheduled so much ahead of the clock was so while the clock was wrong, and not by a server
/// whose clock differs a little.
pub const SCHEDULED_AHEAD: Duration = Duration::from_secs(60);

impl JobHead {
    /// What sets right a job that was scheduled while the clock was ahead: a delay counts from now on, and an
    /// instant that somebody named stays. `None` for any other job.
    pub fn set_right(&self, now: Timestamp) -> Option<Event> {
        let State::Scheduled { run_at } = self.state else { return None };
        if self.entered_at <= now.plus(SCHEDULED_AHEAD) {
            return None;
        }
        let is_delay = match self.reason {
            Reason::Retry | Reason::Snooze => true,
            Reason::Delay => matches!(self.start, Start::After(_)),
            _ => false,
        };
        let run_at = if is_delay { now.plus(run_at.since(self.entered_at)) } else { run_at };
        Some(Event::Reschedule { run_at })
    }

    /// What people read: failures + 1.
    pub fn attempt(&self) -> u32 {
        self.failures.saturating_add(1)
    }

    /// Whether this is the holder: (fence, incarnation) of the present lease (G5).
    pub fn is_held_by(&self, fence: u64, incarnation: Incarnation) -> bool {
        matches!(&self.state, State::Processing(hold)
            if self.fence == fence && hold.incarnation == incarnation)
    }

    /// The instant by which it still has to be started, of the one it was submitted with: none once it
    /// was claimed, and none after a requeue, which gives the finished job a run of its own (CLM-8).
    pub fn must_start_by(&self, start_by: Option<Timestamp>) -> Option<Timestamp> {
        start_by.filter(|_| self.fence == 0 && self.run == 0)
    }
}

/// What happens to a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// One of the things an Awaiting job waits for was decided: `met`, or never to be met.
    Decided {
        /// Whether the condition is met.
        met: bool,
        /// The reason if it is not: [`Reason::Unmeetable`], or that of a batch.
        otherwise: Reason,
    },
    /// Its instant came.
    Due,
    /// A person wants it now.
    RunNow,
    /// A person sets another instant.
    Reschedule {
        /// The instant.
        run_at: Timestamp,
    },
    /// It goes to another queue or priority; the state stays.
    Move,
    /// A server takes it.
    Claim(Hold),
    /// The record cannot be decoded.
    Unreadable,
    /// It had to be started by an instant that has passed.
    StartExpired,
    /// Its holder tells how the attempt ended.
    Settle(Ending),
    /// Its holder does not list it in a renew: the claim's answer was lost. Unlike a settle that gives
    /// back it leaves no trace by which a later settle of this attempt could pass for a repetition.
    GiveBack,
    /// Its lease expired, was seen so twice, and is taken away.
    Rescue {
        /// How many crashes a job may have; the next one makes it Failed.
        crash_limit: u32,
    },
    /// A client, a person or a condition gives it up.
    Delete(Reason),
    /// It runs again after it had finished.
    Requeue {
        /// Not before this instant.
        run_at: Option<Timestamp>,
    },
}

/// How an attempt ended, as the state machine sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The handler returned.
    Succeeded,
    /// The handler failed; run it again after `delay`.
    Retry {
        /// Zero makes it claimable at once.
        delay: Duration,
    },
    /// The handler failed; do not run it again.
    Failed(Reason),
    /// The handler asked to run later; consumes no attempt.
    Snoozed {
        /// How much later.
        delay: Duration,
    },
    /// The attempt did not end, or never began; consumes nothing.
    GivenBack,
    /// The handler obeyed a cancellation, or a filter gave it up.
    Deleted(Reason),
}

impl Ending {
    /// Whether the job may be claimable again at once.
    pub(crate) fn may_enqueue(self) -> bool {
        match self {
            Self::Retry { delay } | Self::Snoozed { delay } => delay.is_zero(),
            Self::GivenBack => true,
            Self::Succeeded | Self::Failed(_) | Self::Deleted(_) => false,
        }
    }

    /// Whether an attempt that ended so, and left its job in a state, is a failure that somebody should hear of.
    /// One whose job became Deleted is none: it was asked to stop, or a filter gave it up.
    pub const fn has_failed(self, now: StateName) -> bool {
        match self {
            Self::Retry { .. } | Self::Failed(_) => !matches!(now, StateName::Deleted),
            Self::Succeeded | Self::Snoozed { .. } | Self::GivenBack | Self::Deleted(_) => false,
        }
    }
}

/// What the machine must know besides head and event.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// The storage's clock.
    pub now: Timestamp,
    /// How long the job is kept once finished.
    pub retention: Retention,
    /// Whether the job belongs to a batch that was cancelled.
    pub batch_cancelled: bool,
}

/// What happens beside the new head, in the same atomic step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Limit slots that the claim took are free again.
    pub frees_slots: bool,
    /// The unique key is free again, whatever it holds until.
    pub frees_key: bool,
    /// A key that holds until the job is started is free.
    pub frees_key_at_start: bool,
    /// The unique key must be taken, or the transition is refused.
    pub takes_key: bool,
    /// A run finished so: decide the edges to children, count it in the batch.
    pub finished: Option<Finish>,
    /// A finished job came back: its batch counts it as open again.
    pub reopened: Option<Finish>,
    /// When retention ends; `Some(None)` clears it or keeps the job forever.
    pub expires_at: Option<Option<Timestamp>>,
    /// The job is claimable, in its old place.
    pub claimable: bool,
    /// A history entry is due (all but marks and moves).
    pub history: bool,
}

/// An allowed transition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The state before.
    pub from: StateName,
    /// The head after.
    pub head: JobHead,
    /// What else must be written.
    pub effects: Effects,
}

/// Why a transition is refused. Nothing changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Forbidden {
    /// The event does not apply to this state.
    State(StateName),
    /// The job's batch was cancelled.
    BatchCancelled,
    /// A running job that was already asked to stop.
    AlreadyCancelling,
}

/// Applies `event` to `head`, or refuses it.
///
/// # Errors
/// [`Forbidden`], when the table above does not list the pair.
pub fn apply(head: &JobHead, event: &Event, at: &Situation) -> Result<Transition, Forbidden> {
    let from = head.state.name();
    let forbidden = Err(Forbidden::State(from));
    let mut step = Step { head: head.clone(), effects: Effects::default(), at, from };
    match (event, &head.state) {
        (Event::Decided { met, otherwise }, State::Awaiting { open }) => match (met, open) {
            (false, _) => step.finish(State::Deleted, *otherwise),
            (true, 0 | 1) => step.release(),
            (true, open) => {
                // One of several parents: counted, but no entry in the history.
                step.head.state = State::Awaiting { open: open - 1 };
                step.head.version = step.head.version.saturating_add(1);
            }
        },
        (Event::RunNow, State::Awaiting { .. } | State::Scheduled { .. }) => {
            step.enqueue(Reason::RunNow);
        }
        (Event::Due, State::Scheduled { .. }) => step.enqueue(Reason::Due),
        (Event::Reschedule { run_at }, State::Scheduled { .. } | State::Enqueued) => {
            step.enter(State::Scheduled { run_at: *run_at }, Reason::Rescheduled);
        }
        (Event::Move, State::Awaiting { .. } | State::Scheduled { .. } | State::Enqueued) => {
            step.head.version = step.head.version.saturating_add(1);
            step.effects.claimable = from == StateName::Enqueued;
        }
        (Event::Claim(hold), State::Enqueued) => {
            step.head.fence = step.head.fence.saturating_add(1);
            step.enter(State::Processing(hold.clone()), Reason::Claimed);
            step.effects.frees_key_at_start = true;
        }
        (Event::Unreadable, State::Enqueued) => step.finish(State::Failed, Reason::Unreadable),
        (Event::StartExpired, State::Enqueued) => {
            step.finish(State::Deleted, Reason::NotStartedInTime);
        }
        (Event::Settle(ending), State::Processing(hold)) => {
            step.effects.frees_slots = true;
            step.head.settled = Some((head.fence, hold.incarnation));
            step.settle(*ending, hold.cancel);
        }
        (Event::GiveBack, State::Processing(hold)) => {
            step.effects.frees_slots = true;
            step.settle(Ending::GivenBack, hold.cancel);
        }
        (Event::Rescue { crash_limit }, State::Processing(hold)) => {
            step.effects.frees_slots = true;
            step.head.crashes = step.head.crashes.saturating_add(u32::from(hold.started));
            match hold.cancel {
                Some(reason) => step.finish(State::Deleted, reason),
                None if at.batch_cancelled => step.finish(State::Deleted, Reason::BatchCancelled),
                None if hold.started && step.head.crashes >= *crash_limit => {
                    step.finish(State::Failed, Reason::CrashLimit);
                }
                None => step.enqueue(Reason::Rescued),
            }
        }
        (Event::Delete(reason), State::Processing(hold)) => {
            if hold.cancel.is_some() {
                return Err(Forbidden::AlreadyCancelling);
            }
            // Lease, slot, key and batch membership stay until settle or rescue.
            step.head.state = State::Processing(Hold { cancel: Some(*reason), ..hold.clone() });
            step.head.version = step.head.version.saturating_add(1);
        }
        (
            Event::Delete(reason),
            State::Awaiting { .. } | State::Scheduled { .. } | State::Enqueued,
        ) => step.finish(State::Deleted, *reason),
        (Event::Delete(reason), State::Succeeded | State::Failed) => {
            // The run has finished before: children and batch are told that the member is
            // another finished one now, which `reopened` and `finished` together express.
            step.effects.reopened = Finish::of(from);
            step.finish(State::Deleted, *reason);
        }
        (Event::Requeue { run_at }, State::Succeeded | State::Failed | State::Deleted) => {
            if at.batch_cancelled {
                return Err(Forbidden::BatchCancelled);
            }
            step.head.run = step.head.run.saturating_add(1);
            step.head.failures = 0;
            step.head.crashes = 0;
            step.effects.reopened = Finish::of(from);
            step.effects.takes_key = true;
            step.effects.expires_at = Some(None);
            match run_at.filter(|run_at| *run_at > at.now) {
                Some(run_at) => step.enter(State::Scheduled { run_at }, Reason::Requeued),
                None => step.enqueue(Reason::Requeued),
            }
        }
        _ => return forbidden,
    }
    Ok(Transition { from, head: step.head, effects: step.effects })
}

struct Step<'a> {
    head: JobHead,
    effects: Effects,
    at: &'a Situation,
    from: StateName,
}

impl Step<'_> {
    fn enter(&mut self, state: State, reason: Reason) {
        self.head.state = state;
        self.head.reason = reason;
        self.head.entered_at = self.at.now;
        self.head.version = self.head.version.saturating_add(1);
        self.effects.history = true;
    }

    fn enqueue(&mut self, reason: Reason) {
        self.enter(State::Enqueued, reason);
        self.effects.claimable = true;
    }

    fn release(&mut self) {
        match self.head.start.run_at(self.at.now) {
            Some(run_at) => self.enter(State::Scheduled { run_at }, Reason::Delay),
            None => self.enqueue(Reason::Released),
        }
    }

    fn finish(&mut self, state: State, reason: Reason) {
        let keep = match state {
            State::Succeeded => self.at.retention.succeeded,
            State::Failed => self.at.retention.failed,
            _ => self.at.retention.deleted,
        };
        self.effects.expires_at = Some(keep.expires_at(self.at.now));
        self.effects.frees_key = true;
        self.effects.finished = Finish::of(state.name());
        self.enter(state, reason);
    }

    fn settle(&mut self, ending: Ending, cancel: Option<Reason>) {
        debug_assert_eq!(self.from, StateName::Processing, "only a held job is settled");
        // Success wins over a cancellation; anything else becomes Deleted.
        let cancel = cancel.or(self.at.batch_cancelled.then_some(Reason::BatchCancelled));
        if matches!(ending, Ending::Retry { .. } | Ending::Failed(_)) {
            self.head.failures = self.head.failures.saturating_add(1);
        }
        match (ending, cancel) {
            (Ending::Succeeded, _) => self.finish(State::Succeeded, Reason::Done),
            (_, Some(reason)) => self.finish(State::Deleted, reason),
            (Ending::Deleted(reason), None) => self.finish(State::Deleted, reason),
            (Ending::Failed(reason), None) => self.finish(State::Failed, reason),
            (Ending::Retry { delay }, None) => self.wait(delay, Reason::Retry),
            (Ending::Snoozed { delay }, None) => self.wait(delay, Reason::Snooze),
            (Ending::GivenBack, None) => self.enqueue(Reason::GivenBack),
        }
    }

    fn wait(&mut self, delay: Duration, reason: Reason) {
        if delay.is_zero() {
            self.enqueue(reason);
        } else {
            self.enter(State::Scheduled { run_at: self.at.now.plus(delay) }, reason);
        }
    }
}

/// The head of a new job that waits for `open` decisions.
///
/// `submitted` is [`Reason::Submitted`] or [`Reason::Recurring`].
pub fn new_head(
    start: Start,
    open: u32,
    waits_for_batch: bool,
    submitted: Reason,
    now: Timestamp,
) -> JobHead {
    let (state, reason) = if open > 0 {
        let only_batch = waits_for_batch && open == 1;
        (State::Awaiting { open }, if only_batch { Reason::BatchFilling } else { Reason::Parents })
    } else {
        match start.run_at(now) {
            Some(run_at) => (State::Scheduled { run_at }, Reason::Delay),
            None => (State::Enqueued, submitted),
        }
    };
    JobHead {
        state,
        reason,
        entered_at: now,
        fence: 0,
        failures: 0,
        crashes: 0,
        run: 0,
        version: 1,
        settled: None,
        start,
    }
}

/// The head of a new job whose condition can no longer be met: it is stored as Deleted.
pub fn new_unmeetable_head(start: Start, now: Timestamp) -> JobHead {
    let mut head = new_head(start, 0, false, Reason::Submitted, now);
    head.state = State::Deleted;
    head.reason = Reason::Unmeetable;
    head
}

#[cfg(test)]
mod tests;
