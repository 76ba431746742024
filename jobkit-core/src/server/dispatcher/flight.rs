//! Flights: what is told to the storage and claimed from it together.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::suspects::is_suspect;
use super::{Dispatcher, Waiting};
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::name::Name;
use crate::model::state::StateName;
use crate::server::failed;
use crate::server::held::{HeldJob, Phase, attempt};
use crate::server::outcomes::{Outcome, Outcomes};
use crate::storage::{Call, ClaimRequest, Claimed, SettleAnswer, SettleRequest, Support};

/// How long after an instant that a claim named the next claim leaves: what is due is promoted first, and a
/// wake-up tells of it.
const AGAIN: Duration = Duration::from_millis(10);
/// A claim in vain that named an instant closer than this doubles [`AGAIN`], so that what stays held or due makes
/// nobody spin; [`VAIN_MOST`] times.
const VAIN: Duration = Duration::from_secs(1);
const VAIN_MOST: u32 = 7;

/// A flight that is under way, in a task of its own: so the storage, in this process or not, is at work
/// while jobs are started and ends noted. With the dispatcher it is torn off.
pub(super) type Flight = AbortOnDropHandle<Landed>;

/// A flight that is back. Where settles and claim were one call, they share its fate.
pub(super) struct Landed {
    outcomes: Vec<Outcome>,
    /// The answers, where anything was settled.
    settled: Option<Result<Vec<SettleAnswer>>>,
    /// The answer, where anything was claimed.
    claimed: Option<Result<Claimed>>,
    /// The claim may not have seen what the settles made claimable.
    apart: bool,
}

/// The claim that has not been answered yet. It is repeated as it was, whatever is wanted meanwhile:
/// what it took is known to the storage alone.
#[derive(Clone)]
pub(super) struct Pending {
    request: ClaimRequest,
    /// When it was sent first: leases begin then, at the earliest.
    sent_at: Instant,
}

/// Waits for a flight to be back; forever, where none is under way.
pub(super) async fn landed(flight: &mut Option<Flight>) -> Landed {
    let Some(flight) = flight else { return std::future::pending().await };
    match flight.await.map_err(JoinError::try_into_panic) {
        Ok(landed) => landed,
        // Panics of the storage are errors of its call, so this one is of the flight itself.
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // The runtime is being shut down.
        Err(Err(_)) => std::future::pending().await,
    }
}

impl Dispatcher {
    pub(super) fn next_flight(&mut self) -> Option<Flight> {
        let now = Instant::now();
        if self.blocked_until.is_some_and(|until| until > now) {
            return None;
        }
        self.blocked_until = None;
        let outcomes = self.outcomes.next(now, self.engine.step_items());
        if outcomes.iter().any(|outcome| outcome.settle.ending.may_enqueue()) {
            // What goes back to its old place would stand before what the note skips.
            self.hint = None;
            if let Some(pending) = &mut self.pending {
                pending.request.hint = None;
            }
        }
        let wanted = self.wants();
        let may_claim = now >= self.claims_from;
        let due = self.may_be_work || now >= self.poll_at;
        let fits = outcomes.first().is_none_or(|outcome| !outcome.goes_alone());
        if self.pending.is_none()
            && may_claim
            && wanted > 0
            && fits
            && (due || !outcomes.is_empty())
        {
            let request = self.claim_request(wanted);
            self.pending = Some(Pending { request, sent_at: now });
        }
        let claim = self.pending.as_ref().filter(|_| fits).map(|pending| pending.request.clone());
        if outcomes.is_empty() && claim.is_none() {
            return None;
        }
        Some(AbortOnDropHandle::new(tokio::spawn(self.fly(outcomes, claim))))
    }

    fn claim_request(&mut self, wanted: usize) -> ClaimRequest {
        if self.hint_since.elapsed() > Duration::from_secs(1) {
            self.hint = None;
            self.hint_since = Instant::now();
        }
        self.may_be_work = false;
        let free = self.free_workers().saturating_sub(self.waiting.len());
        ClaimRequest {
            server: self.engine.info.name.clone(),
            incarnation: self.engine.incarnation(),
            sequence: self.next_claim,
            queues: self.engine.queues.quotas(wanted, |queue| self.rooms.of(queue)),
            kinds: Arc::clone(&self.engine.kind_names),
            max: wanted,
            // While one is suspected, a crash counts against it alone.
            started: match self.suspects.are_there() {
                true => 0,
                false => free,
            },
            lease: self.engine.options.lease,
            sleeps_below: free,
            hint: self.hint.clone(),
        }
    }

    fn fly(
        &self,
        outcomes: Vec<Outcome>,
        claim: Option<ClaimRequest>,
    ) -> impl Future<Output = Landed> + Send + use<> {
        let engine = Arc::clone(&self.engine);
        let server: Name = self.engine.info.name.clone();
        async move {
            let settles = outcomes.iter().map(|outcome| outcome.settle.clone()).collect();
            let request = SettleRequest { server, settles };
            let storage = &engine.storage;
            let together = storage.capabilities().settle_and_claim == Support::Yes;
            let call = &Call::default();
            let (settled, claimed) = match (&claim, request.settles.is_empty()) {
                (None, _) => {
                    let settled = engine.bounded(storage.settle(call, &request)).await;
                    (Some(settled), None)
                }
                (Some(claim), true) => {
                    let claimed = engine.bounded(storage.claim(call, claim)).await;
                    (None, Some(claimed))
                }
                (Some(claim), false) if together => {
                    let both = storage.settle_and_claim(call, &request, claim);
                    match engine.bounded(both).await {
                        Ok((answers, claimed)) => (Some(Ok(answers)), Some(Ok(claimed))),
                        Err(error) => (Some(Err(error.duplicate())), Some(Err(error))),
                    }
                }
                // As two calls they need not wait for each other.
                (Some(claim), false) => {
                    let settled = engine.bounded(storage.settle(call, &request));
                    let claimed = engine.bounded(storage.claim(call, claim));
                    let (settled, claimed) = tokio::join!(settled, claimed);
                    (Some(settled), Some(claimed))
                }
            };
            let apart = !together && settled.is_some() && claimed.is_some();
            Landed { outcomes, settled, claimed, apart }
        }
    }

    /// Takes in what was claimed; what is left are the outcomes that were answered.
    pub(super) fn landed(&mut self, landed: Landed) -> Option<(Vec<Outcome>, Vec<SettleAnswer>)> {
        let Landed { outcomes, settled, claimed, apart } = landed;
        let settled = settled.map(|settled| match settled {
            Ok(answers) if answers.len() != outcomes.len() => {
                let text = "the storage answered another number of settles";
                Err(Error::new(ErrorKind::Internal, text))
            }
            settled => settled,
        });
        // The answers of one call are right or wrong together.
        let (settled, claimed) = match (settled, claimed) {
            (Some(Err(error)), Some(Ok(_))) if !apart => {
                (Some(Err(error.duplicate())), Some(Err(error)))
            }
            both => both,
        };
        let mut failed = None;
        let with_claim = claimed.is_some() && !apart;
        let answered = match settled {
            Some(Ok(answers)) => {
                self.engine.signals.activity.notify_one();
                Some((outcomes, answers))
            }
            Some(Err(error)) => {
                self.settles_failed(outcomes, with_claim, &error);
                failed = Some(error);
                None
            }
            // The claim alone.
            None => Some((Vec::new(), Vec::new())),
        };
        match claimed {
            Some(Ok(claimed)) => {
                if let Some(pending) = self.pending.take() {
                    self.claimed(claimed, &pending);
                }
                // What the settles released may have come too late for this claim, and nobody tells of it.
                self.may_be_work |= apart && !self.pushes.are_offered();
            }
            Some(Err(error)) => {
                // What a lost answer said of more is not said again.
                self.may_be_work = true;
                failed.get_or_insert(error);
            }
            None => {}
        }
        if let Some((_, answers)) = &answered {
            self.note_enqueued(answers);
        }
        match failed {
            None => {
                self.engine.health.works("dispatcher");
                self.backoff.reset();
            }
            Some(error) => self.flight_failed(&error),
        }
        answered
    }

    /// Notes which settles made jobs claimable: before the next flight leaves, since their places may lie
    /// before what the storage's note skips.
    fn note_enqueued(&mut self, answers: &[SettleAnswer]) {
        let enqueued = SettleAnswer::Settled(StateName::Enqueued);
        if answers.contains(&enqueued) {
            self.may_be_work = true;
            self.hint = None;
        }
    }

    fn flight_failed(&mut self, error: &Error) {
        if error.kind() == ErrorKind::NotAnnounced {
            // Forgotten as dead, or not known yet: the heartbeat announces again.
            self.engine.signals.heartbeat.notify_one();
            if self.engine.stands_by() {
                // What an unanswered claim took is taken back when its leases expire.
                self.pending = None;
            }
        } else {
            self.engine.health.failed("dispatcher", error);
        }
        self.blocked_until = Some(Instant::now() + self.backoff.next());
    }

    /// Outcomes are kept until the storage answers; claims are repeated as they were.
    fn settles_failed(&mut self, mut outcomes: Vec<Outcome>, with_claim: bool, error: &Error) {
        let alone = outcomes.len() == 1 && !with_claim;
        let poisoned = !error.is_retryable() && error.kind() != ErrorKind::NotAnnounced;
        if poisoned && alone && outcomes.iter_mut().all(Outcomes::is_at_fault) {
            outcomes.into_iter().for_each(|outcome| self.replace_by_bare(outcome, error));
        } else {
            // One of them may be what the storage chokes on.
            self.outcomes.put_back(outcomes, poisoned);
        }
    }

    /// What the storage cannot keep is settled as a bare failure that says so; if it cannot keep that
    /// either, the job stays held, and the failure is sent again later.
    fn replace_by_bare(&mut self, outcome: Outcome, reason: &dyn std::fmt::Display) {
        let job = outcome.settle.lease.job;
        if self.outcomes.replace_by_bare(outcome, reason) {
            tracing::warn!(%job, reason = %reason, "the storage refused an outcome");
        } else {
            let text = format!("the storage refused the outcome of job {job}: {reason}");
            self.engine.health.failed("outcomes", &text);
        }
    }

    pub(super) fn settled(&mut self, outcomes: Vec<Outcome>, answers: Vec<SettleAnswer>) {
        let mut over = Vec::with_capacity(outcomes.len());
        for (outcome, answer) in outcomes.into_iter().zip(answers) {
            let lease = outcome.settle.lease;
            failed::settled(&self.engine.hooks, &outcome.subject, &outcome.settle, &answer);
            match answer {
                SettleAnswer::Settled(state) => {
                    if state.is_finished() {
                        self.engine.finished.add_one();
                    }
                    let later = state == StateName::Scheduled;
                    if later && !self.pushes.are_offered() {
                        self.engine.signals.scheduler.notify_one();
                    }
                }
                SettleAnswer::AlreadyApplied => {}
                SettleAnswer::LeaseLost => {
                    tracing::warn!(job = %lease.job, fence = lease.fence, "lease lost, discarding the outcome");
                }
                SettleAnswer::Refused(refusal) => {
                    self.replace_by_bare(outcome, &refusal);
                    continue;
                }
                SettleAnswer::Busy => {
                    self.outcomes.try_later(outcome);
                    continue;
                }
            }
            over.push(attempt(&lease));
        }
        if !self.outcomes.has_refused() {
            self.engine.health.works("outcomes");
        }
        let mut held = self.engine.held.lock();
        for attempt in over {
            held.jobs.remove(&attempt);
        }
    }

    fn claimed(&mut self, claimed: Claimed, pending: &Pending) {
        let request = &pending.request;
        let got = claimed.jobs.len();
        self.next_claim = request.sequence + 1;
        {
            let mut held = self.engine.held.lock();
            held.seen_claim = request.sequence;
            if got > 0 {
                held.last_taken = request.sequence;
            }
            // A repeated claim answers leases that began with the first one.
            let sure_until = pending.sent_at + request.lease;
            for (index, job) in claimed.jobs.iter().enumerate() {
                let started = index < request.started;
                let job = HeldJob {
                    lease: job.lease,
                    claim: request.sequence,
                    phase: Phase::Prefetched,
                    started,
                    counted: started,
                    limited: job.limited,
                    sure_until,
                };
                held.jobs.insert(attempt(&job.lease), job);
            }
        }
        let now = Instant::now();
        let options = &self.engine.options;
        let at_once = claimed.again_in.is_some_and(|again| again.is_zero());
        if got >= request.max || at_once {
            self.hint = claimed.hint;
            self.may_be_work = true;
        } else {
            self.hint = None;
        }
        self.poll_pause = match got {
            0 => (self.poll_pause * 2).min(options.max_poll_interval),
            _ => options.poll_interval,
        };
        // Where the storage pushes, polling merely finds what a lost push left.
        let pause =
            if self.pushes.are_offered() { options.max_poll_interval } else { self.poll_pause };
        self.poll_at = now + crate::model::ids::jittered(pause);
        if let Some(again) = claimed.again_in.filter(|_| !at_once) {
            // Each time in vain it waits for longer: what is due may not be promoted, and what is held may stay so.
            let pause = again + AGAIN * 2u32.pow(self.vain);
            self.poll_at = self.poll_at.min(now + pause);
            if got == 0 {
                self.engine.due_told.tell(now + again);
                self.vain = if again < VAIN { (self.vain + 1).min(VAIN_MOST) } else { 0 };
            }
        }
        if got > 0 {
            self.vain = 0;
            if !self.claimed_too_far {
                self.ahead.in_time(self.farthest());
            }
        }
        let crash_limit = options.crash_limit;
        let mut free = self.free_workers().saturating_sub(self.waiting.len());
        for job in claimed.jobs {
            self.rooms.taken(&job.queue);
            let is_suspect = is_suspect(&job, crash_limit);
            if job.crashes > 0 && free == 0 && !is_suspect {
                // Rescued before: it never waits beside others for a worker.
                self.claimed_too_far = true;
                self.give_back(job);
                continue;
            }
            let waiting = Waiting { job, claimed_at: pending.sent_at, since: now };
            if is_suspect {
                self.suspects.push(waiting);
            } else {
                free = free.saturating_sub(1);
                self.waiting.push_back(waiting);
            }
        }
    }
}
