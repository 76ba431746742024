//! One claimer per server: claims for free workers and a little ahead, starts, and settles.
//!
//! At most one flight to the storage is under way; what ends meanwhile leaves with the next one,
//! together with a claim for the workers that became free. So a busy server needs one round trip for
//! hundreds of jobs, and an idle one none.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::bounds::STEP_ITEMS;
use crate::error::{Error, ErrorKind, Result};
use crate::name::Name;
use crate::server::engine::Engine;
use crate::server::executor::{self, End, How};
use crate::server::held::{Attempt, HeldJob, Phase, attempt};
use crate::server::options::Prefetch;
use crate::server::outcomes::{Outcome, Outcomes};
use crate::server::settler;
use crate::server::supervisor::Backoff;
use crate::state::StateName;
use crate::state_machine::Ending;
use crate::storage::{
    ClaimHint, ClaimRequest, Claimed, ClaimedJob, OtherPushes, SettleAnswer, SettleRequest, WakeUp,
    WakeUpFilter, WakeUps,
};

/// After how long a job that was claimed ahead and not started is given back.
const PREFETCH_KEPT: Duration = Duration::from_millis(200);
/// Handlers that ignore their cancellation get their worker replaced, up to as many as there are
/// workers.
const STUCK_CHECK: Duration = Duration::from_secs(1);

/// How long a job near its crash limit waits for others to end, and for the storage to know of it, before
/// it is started beside them.
const ALONE_WAIT: Duration = Duration::from_secs(5);
/// How long nothing else is started beside it.
const ALONE_FOR: Duration = Duration::from_secs(30);

/// A flight that is under way, in a task of its own: so the storage, in this process or not, is at work
/// while jobs are started and ends noted. With the dispatcher it is torn off.
type Flight = AbortOnDropHandle<Landed>;

/// A flight that is back.
struct Landed {
    outcomes: Vec<Outcome>,
    answers: Result<(Vec<SettleAnswer>, Option<Claimed>)>,
    claimed: bool,
}

/// The claim that has not been answered yet. It is repeated as it was, whatever is wanted meanwhile:
/// what it took is known to the storage alone.
#[derive(Clone)]
struct Pending {
    request: ClaimRequest,
    /// When it was sent first: leases begin then, at the earliest.
    sent_at: Instant,
}

/// A job that waits for a worker.
struct Waiting {
    job: ClaimedJob,
    /// When its claim was sent.
    claimed_at: Instant,
    since: Instant,
}

pub(super) struct Dispatcher {
    engine: Arc<Engine>,
    ends: mpsc::UnboundedReceiver<End>,
    ended: mpsc::UnboundedSender<End>,
    /// Claimed, not started.
    waiting: VecDeque<Waiting>,
    /// Near its crash limit: runs when nothing else does, so that it fails no neighbours.
    alone: Option<Waiting>,
    /// The job that runs alone, and until when nothing is started beside it.
    runs_alone: Option<(Attempt, Instant)>,
    running: usize,
    /// Handlers whose workers were replaced; they are among the running.
    stuck: usize,
    /// Outcomes that the storage has not answered yet.
    outcomes: Outcomes,
    next_claim: u64,
    pending: Option<Pending>,
    hint: Option<ClaimHint>,
    hint_since: Instant,
    /// Work may be there: the last claim got all it asked for or did not see everything, or a push came.
    may_be_work: bool,
    /// What was claimed ahead was not started in time: nothing more ahead until a job ends.
    claimed_too_far: bool,
    poll_at: Instant,
    poll_pause: Duration,
    backoff: Backoff,
    blocked_until: Option<Instant>,
    /// The mean duration of a job in seconds, newer ones weighing more.
    mean: Option<f64>,
    pushes: Option<Box<dyn WakeUps>>,
}

impl Dispatcher {
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        let (ended, ends) = mpsc::unbounded_channel();
        let now = Instant::now();
        Self {
            poll_pause: engine.options.poll_interval,
            engine,
            ends,
            ended,
            waiting: VecDeque::new(),
            alone: None,
            runs_alone: None,
            running: 0,
            stuck: 0,
            outcomes: Outcomes::default(),
            next_claim: 1,
            pending: None,
            hint: None,
            hint_since: now,
            may_be_work: true,
            claimed_too_far: false,
            poll_at: now,
            backoff: Backoff::new(),
            blocked_until: None,
            mean: None,
            pushes: None,
        }
    }

    /// Works until a stop was asked for and everything held has ended and is settled, or the server
    /// ends.
    pub(super) async fn run(mut self) {
        let engine = Arc::clone(&self.engine);
        self.subscribe().await;
        let mut flight: Option<Flight> = None;
        let mut answered = None;
        let mut stuck_check = tokio::time::interval(STUCK_CHECK);
        stuck_check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let stopping = engine.stopping.is_cancelled();
            if stopping {
                engine.quiet.cancel();
                self.give_back_waiting();
            } else {
                self.start_waiting();
            }
            if flight.is_none() {
                flight = self.next_flight();
            }
            // The next flight leaves before it is noted what the last one answered, so that the storage
            // does not wait meanwhile.
            if let Some((outcomes, answers)) = answered.take() {
                self.settled(outcomes, answers);
                if self.alone.is_some() && !stopping {
                    self.start_waiting();
                }
                if flight.is_none() {
                    flight = self.next_flight();
                }
            }
            let settled = self.outcomes.is_empty() && self.pending.is_none();
            if stopping && self.running == 0 && settled && flight.is_none() {
                return;
            }
            let wait_until = self.wait_until(flight.is_some());
            tokio::select! {
                biased;
                () = engine.ended.cancelled() => return,
                end = self.ends.recv() => {
                    if let Some(end) = end {
                        self.ended(end);
                    }
                    while let Ok(end) = self.ends.try_recv() {
                        self.ended(end);
                    }
                }
                landed = landed(&mut flight) => {
                    flight = None;
                    answered = self.landed(landed);
                }
                push = next_push(&mut self.pushes) => self.pushed(push),
                () = engine.signals.dispatcher.notified() => self.look_again(),
                () = engine.stopping.cancelled(), if !stopping => {}
                _ = stuck_check.tick() => self.replace_stuck(),
                () = tokio::time::sleep_until(wait_until) => {}
            }
        }
    }

    async fn subscribe(&mut self) {
        let filter = WakeUpFilter {
            queues: self.engine.queues.names().to_vec(),
            others: OtherPushes::default(),
        };
        match self.engine.storage.wake_ups(filter).await {
            Ok(pushes) => self.pushes = pushes,
            Err(error) => tracing::debug!(error = %error, "no pushes, polling"),
        }
    }

    fn pushed(&mut self, push: Option<WakeUp>) {
        match push {
            Some(_) => self.look_again(),
            None => self.pushes = None,
        }
    }

    fn look_again(&mut self) {
        self.may_be_work = true;
        self.hint = None;
        self.poll_pause = self.engine.options.poll_interval;
    }

    /// When something is to be done even if nothing happens.
    fn wait_until(&self, in_flight: bool) -> Instant {
        let mut until = Instant::now() + Duration::from_secs(3600);
        if let Some(first) = self.waiting.front() {
            until = until.min(first.since + PREFETCH_KEPT);
        }
        if let Some(alone) = &self.alone {
            until = until.min(alone.since + ALONE_WAIT);
        }
        if in_flight {
            return until;
        }
        if let Some(blocked_until) = self.blocked_until {
            return until.min(blocked_until);
        }
        if self.wants() > 0 {
            until = until.min(self.poll_at);
        }
        self.outcomes.next_due().map_or(until, |due| until.min(due))
    }

    /// Workers that could start a job now.
    fn free_workers(&self) -> usize {
        let replaced = self.stuck.min(self.engine.options.workers);
        (self.engine.options.workers + replaced).saturating_sub(self.running)
    }

    /// Whether nothing may be started beside the job that runs, or is to run, alone.
    fn is_reserved(&self) -> bool {
        let runs = self.runs_alone.is_some_and(|(_, until)| until > Instant::now());
        runs || self.alone.is_some()
    }

    /// How many jobs a claim should ask for.
    fn wants(&self) -> usize {
        let full = self.outcomes.len() >= STEP_ITEMS * 2;
        if self.is_reserved() || self.engine.is_quiet() || full {
            // With so many outcomes waiting the storage is slow or away: nothing new is started.
            return 0;
        }
        (self.free_workers() + self.prefetch()).saturating_sub(self.waiting.len()).min(STEP_ITEMS)
    }

    /// About 50 ms of work.
    fn prefetch(&self) -> usize {
        if self.claimed_too_far {
            return 0;
        }
        match (self.engine.options.prefetch, self.mean) {
            (Prefetch::Fixed(jobs), _) => jobs,
            (Prefetch::Adaptive, None) => 0,
            (Prefetch::Adaptive, Some(mean)) if mean > 1.0 => 0,
            (Prefetch::Adaptive, Some(mean)) => {
                let workers = u32::try_from(self.engine.options.workers).unwrap_or(u32::MAX);
                let jobs = 0.05 / mean.max(1e-6) * f64::from(workers);
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "bounded by the clamp"
                )]
                let jobs = jobs.clamp(0.0, 300.0) as usize;
                jobs
            }
        }
    }

    fn start_waiting(&mut self) {
        if let Some(alone) = &self.alone {
            if !self.holds_others() || alone.since.elapsed() >= ALONE_WAIT {
                self.start_alone();
            } else {
                self.give_back_ahead();
            }
            return;
        }
        while self.free_workers() > 0 && !self.is_reserved() {
            let Some(next) = self.waiting.pop_front() else { break };
            self.start_or_give_back(next);
        }
        let now = Instant::now();
        let is_old = |waiting: &Waiting| now.duration_since(waiting.since) >= PREFETCH_KEPT;
        while self.waiting.front().is_some_and(is_old) {
            if let Some(old) = self.waiting.pop_front() {
                self.claimed_too_far = true;
                self.give_back(old.job);
            }
        }
    }

    /// Whether this server holds anything beside the job that is to run alone. What it has ended or given
    /// back counts until the storage answered: a claim says of jobs that they are started, and with this
    /// server they would crash, too.
    fn holds_others(&self) -> bool {
        self.engine.held.lock().jobs.len() > 1 + self.stuck
    }

    fn start_alone(&mut self) {
        let Some(alone) = self.alone.take() else { return };
        let this = attempt(&alone.job.lease);
        if self.start_or_give_back(alone) {
            self.runs_alone = Some((this, Instant::now() + ALONE_FOR));
        }
    }

    /// Starts a job, unless it was paused meanwhile or its lease may be gone.
    fn start_or_give_back(&mut self, waiting: Waiting) -> bool {
        let Waiting { job, claimed_at, .. } = waiting;
        let paused = self.engine.is_paused(&job.queue, &job.kind, claimed_at);
        if paused || !self.is_sure(&job) {
            self.give_back(job);
            return false;
        }
        match self.engine.kinds.get(job.kind.as_str()) {
            Some(kind) => {
                self.running += 1;
                executor::start(&self.engine, kind, job, self.ended.clone());
                true
            }
            None => {
                tracing::error!(kind = %job.kind, "the storage handed out a kind that was not asked for");
                self.give_back(job);
                false
            }
        }
    }

    /// Whether the lease surely holds, so that the job may be started.
    fn is_sure(&self, job: &ClaimedJob) -> bool {
        let held = self.engine.held.lock();
        let held = held.jobs.get(&attempt(&job.lease));
        held.is_some_and(|held| held.sure_until > Instant::now())
    }

    /// What was claimed ahead.
    fn give_back_ahead(&mut self) {
        while let Some(waiting) = self.waiting.pop_front() {
            self.give_back(waiting.job);
        }
    }

    /// Everything that has not started.
    fn give_back_waiting(&mut self) {
        self.give_back_ahead();
        if let Some(alone) = self.alone.take() {
            self.give_back(alone.job);
        }
    }

    fn give_back(&mut self, job: ClaimedJob) {
        if let Some(held) = self.engine.held.lock().jobs.get_mut(&attempt(&job.lease)) {
            held.phase = Phase::Settling;
        }
        let end = End {
            job,
            how: How::NotStarted,
            cause: None,
            duration: Duration::ZERO,
            context: None,
            was_stuck: false,
        };
        self.settle(end);
    }

    fn settle(&mut self, end: End) {
        let name = end.job.kind.clone();
        let this = attempt(&end.job.lease);
        let kind = self.engine.kinds.get(name.as_str()).cloned();
        match settler::settle_of(end, kind.as_deref(), &self.engine) {
            Some(settle) => self.outcomes.push(settle, name),
            None => {
                self.engine.held.lock().jobs.remove(&this);
            }
        }
    }

    fn ended(&mut self, end: End) {
        self.running = self.running.saturating_sub(1);
        self.stuck = self.stuck.saturating_sub(usize::from(end.was_stuck));
        self.claimed_too_far = false;
        if self.runs_alone.is_some_and(|(alone, _)| alone == attempt(&end.job.lease)) {
            self.runs_alone = None;
        }
        let seconds = end.duration.as_secs_f64();
        self.mean = Some(self.mean.map_or(seconds, |mean| mean + (seconds - mean) * 0.1));
        self.settle(end);
    }

    fn replace_stuck(&mut self) {
        let after = self.engine.options.cancel_grace + Duration::from_secs(1);
        let (newly, all) = self.engine.held.lock().find_stuck(after);
        self.stuck += newly;
        if all > 0 {
            let text = format!("{all} handlers ignore their cancellation and block their thread");
            self.engine.health.failed("handlers", &text);
        } else {
            self.engine.health.works("handlers");
        }
    }

    fn next_flight(&mut self) -> Option<Flight> {
        let now = Instant::now();
        if self.blocked_until.is_some_and(|until| until > now) {
            return None;
        }
        self.blocked_until = None;
        let outcomes = self.outcomes.next(now);
        let wanted = self.wants();
        let due = self.may_be_work || now >= self.poll_at;
        let fits = outcomes.first().is_none_or(|outcome| !outcome.goes_alone());
        if self.pending.is_none() && wanted > 0 && fits && (due || !outcomes.is_empty()) {
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
        ClaimRequest {
            server: self.engine.info.name.clone(),
            incarnation: self.engine.incarnation(),
            sequence: self.next_claim,
            queues: self.engine.queues.quotas(wanted),
            kinds: Arc::clone(&self.engine.kind_names),
            max: wanted,
            started: self.free_workers().saturating_sub(self.waiting.len()),
            lease: self.engine.options.lease,
            sleeps_if_empty: true,
            hint: self.hint.clone(),
            now: None,
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
            let request = SettleRequest { server, settles, now: None };
            let call = async {
                let storage = &engine.storage;
                match (&claim, request.settles.is_empty()) {
                    (None, _) => storage.settle(&request).await.map(|answers| (answers, None)),
                    (Some(claim), true) => {
                        storage.claim(claim).await.map(|claimed| (Vec::new(), Some(claimed)))
                    }
                    (Some(claim), false) => storage
                        .settle_and_claim(&request, claim)
                        .await
                        .map(|(answers, claimed)| (answers, Some(claimed))),
                }
            };
            let answers = engine.bounded(call).await;
            Landed { outcomes, answers, claimed: claim.is_some() }
        }
    }

    /// Takes in what was claimed; what is left are the outcomes that were answered.
    fn landed(&mut self, landed: Landed) -> Option<(Vec<Outcome>, Vec<SettleAnswer>)> {
        match landed.answers {
            Ok((answers, claimed)) if answers.len() == landed.outcomes.len() => {
                self.engine.health.works("dispatcher");
                self.backoff.reset();
                if !answers.is_empty() {
                    self.engine.signals.activity.notify_one();
                }
                if let Some(claimed) = claimed
                    && let Some(pending) = self.pending.take()
                {
                    self.claimed(claimed, &pending);
                }
                return Some((landed.outcomes, answers));
            }
            Ok(_) => {
                let text = "the storage answered another number of settles";
                let error = Error::new(ErrorKind::Internal, text);
                self.flight_failed(landed.outcomes, landed.claimed, &error);
            }
            Err(error) => self.flight_failed(landed.outcomes, landed.claimed, &error),
        }
        None
    }

    /// Outcomes are kept until the storage answers; claims are repeated as they were.
    fn flight_failed(&mut self, outcomes: Vec<Outcome>, claimed: bool, error: &Error) {
        let alone = outcomes.len() == 1 && !claimed;
        let poisoned = !error.is_retryable() && error.kind() != ErrorKind::NotAnnounced;
        if error.kind() == ErrorKind::NotAnnounced {
            // Forgotten as dead, or not known yet: the heartbeat announces again.
            self.engine.signals.heartbeat.notify_one();
        } else {
            self.engine.health.failed("dispatcher", error);
        }
        if poisoned && alone {
            outcomes.into_iter().for_each(|outcome| self.replace_by_bare(outcome, error));
        } else {
            // One of them may be what the storage chokes on.
            self.outcomes.put_back(outcomes, poisoned);
        }
        // What a lost answer said of more is not said again.
        self.may_be_work |= claimed;
        self.blocked_until = Some(Instant::now() + self.backoff.next());
    }

    /// What the storage cannot keep is settled as a bare failure that says so; if it cannot keep that
    /// either, the job is left to its lease.
    fn replace_by_bare(&mut self, outcome: Outcome, reason: &dyn std::fmt::Display) {
        let lease = outcome.settle.lease;
        tracing::warn!(job = %lease.job, reason = %reason, "the storage cannot keep an outcome");
        if !self.outcomes.replace_by_bare(outcome, reason) {
            self.engine.held.lock().jobs.remove(&attempt(&lease));
        }
    }

    fn settled(&mut self, outcomes: Vec<Outcome>, answers: Vec<SettleAnswer>) {
        let mut over = Vec::with_capacity(outcomes.len());
        for (outcome, answer) in outcomes.into_iter().zip(answers) {
            let lease = outcome.settle.lease;
            match answer {
                SettleAnswer::Settled(state) => {
                    if state == StateName::Enqueued {
                        self.may_be_work = true;
                    }
                    let ending = outcome.settle.ending;
                    let later = matches!(ending, Ending::Retry { .. } | Ending::Snoozed { .. });
                    if later && self.pushes.is_none() {
                        self.engine.signals.scheduler.notify_one();
                    }
                }
                SettleAnswer::AlreadyApplied => {}
                SettleAnswer::LeaseLost => {
                    tracing::warn!(job = %lease.job, fence = lease.fence, "the lease was lost, the outcome does not count");
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
            for job in &claimed.jobs {
                let job = HeldJob {
                    lease: job.lease,
                    claim: request.sequence,
                    phase: Phase::Prefetched,
                    started: false,
                    limited: job.limited,
                    sure_until,
                };
                held.jobs.insert(attempt(&job.lease), job);
            }
        }
        let now = Instant::now();
        let options = &self.engine.options;
        if got >= request.max || claimed.more {
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
        let pause = if self.pushes.is_some() { options.max_poll_interval } else { self.poll_pause };
        self.poll_at = now + crate::ids::jittered(pause);
        let crash_limit = options.crash_limit;
        let mut free = self.free_workers().saturating_sub(self.waiting.len());
        for job in claimed.jobs {
            let near_limit = job.crashes > 0 && job.crashes + 1 >= crash_limit;
            if near_limit && self.alone.is_none() && self.runs_alone.is_none() {
                self.alone = Some(Waiting { job, claimed_at: pending.sent_at, since: now });
            } else if job.crashes > 0 && (free == 0 || near_limit) {
                // Rescued before: it never waits beside others for a worker.
                self.claimed_too_far = true;
                self.give_back(job);
            } else {
                free = free.saturating_sub(1);
                self.waiting.push_back(Waiting { job, claimed_at: pending.sent_at, since: now });
            }
        }
    }
}

async fn landed(flight: &mut Option<Flight>) -> Landed {
    let Some(flight) = flight else { return std::future::pending().await };
    match flight.await.map_err(JoinError::try_into_panic) {
        Ok(landed) => landed,
        // A storage that panics ends the dispatcher, which says so.
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // The runtime is being shut down.
        Err(Err(_)) => std::future::pending().await,
    }
}

async fn next_push(pushes: &mut Option<Box<dyn WakeUps>>) -> Option<WakeUp> {
    match pushes {
        Some(pushes) => pushes.next().await,
        None => std::future::pending().await,
    }
}
