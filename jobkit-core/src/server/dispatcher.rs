//! One claimer per server: claims for free workers and a little ahead, starts, and settles.
//!
//! At most one flight to the storage is under way; what ends meanwhile leaves with the next one,
//! together with a claim for the workers that became free. So a busy server needs one round trip for
//! hundreds of jobs, and an idle one none.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::bounds::STEP_ITEMS;
use crate::error::{Error, ErrorKind, Result};
use crate::name::Name;
use crate::server::engine::Engine;
use crate::server::executor::{self, End, How};
use crate::server::held::{HeldJob, Phase};
use crate::server::options::Prefetch;
use crate::server::settler;
use crate::server::supervisor::Backoff;
use crate::state::StateName;
use crate::state_machine::Ending;
use crate::storage::{
    ClaimHint, ClaimRequest, Claimed, ClaimedJob, OtherPushes, Settle, SettleAnswer, SettleRequest,
    WakeUp, WakeUpFilter, WakeUps,
};

/// After how long a job that was claimed ahead and not started is given back.
const PREFETCH_KEPT: Duration = Duration::from_millis(200);
/// Handlers that ignore their cancellation get their worker replaced, up to as many as there are
/// workers.
const STUCK_CHECK: Duration = Duration::from_secs(1);

type FlightFuture = Pin<Box<dyn Future<Output = Landed> + Send>>;

/// A flight that is back.
struct Landed {
    settles: Vec<Settle>,
    outcome: Result<(Vec<SettleAnswer>, Option<Claimed>)>,
    claim: Option<Claiming>,
}

/// The claim of a flight.
#[derive(Clone, Copy)]
struct Claiming {
    sequence: u64,
    wanted: usize,
    sent_at: Instant,
}

/// A job that waits for a worker.
struct Waiting {
    job: ClaimedJob,
    since: Instant,
}

pub(super) struct Dispatcher {
    engine: Arc<Engine>,
    ends: mpsc::UnboundedReceiver<End>,
    ended: mpsc::UnboundedSender<End>,
    /// Claimed, not started.
    waiting: VecDeque<Waiting>,
    /// Near its crash limit: runs when nothing else does, so that it fails no neighbours.
    alone: Option<ClaimedJob>,
    runs_alone: bool,
    running: usize,
    /// Handlers whose workers were replaced.
    stuck: usize,
    /// Outcomes that the storage has not answered yet.
    outcomes: VecDeque<Settle>,
    next_claim: u64,
    hint: Option<ClaimHint>,
    hint_since: Instant,
    /// Work may be there: the last claim got all it asked for, or a push came.
    may_be_work: bool,
    poll_at: Instant,
    poll_pause: Duration,
    backoff: Backoff,
    blocked_until: Option<Instant>,
    /// Outcomes go one by one, after a flight was refused as a whole.
    isolate: bool,
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
            runs_alone: false,
            running: 0,
            stuck: 0,
            outcomes: VecDeque::new(),
            next_claim: 1,
            hint: None,
            hint_since: now,
            may_be_work: true,
            poll_at: now,
            backoff: Backoff::new(),
            blocked_until: None,
            isolate: false,
            mean: None,
            pushes: None,
        }
    }

    /// Works until a stop was asked for and everything held has ended and is settled, or the server
    /// ends.
    pub(super) async fn run(mut self) {
        let engine = Arc::clone(&self.engine);
        self.subscribe().await;
        let mut flight: Option<FlightFuture> = None;
        let mut stuck_check = tokio::time::interval(STUCK_CHECK);
        stuck_check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.start_waiting();
            if flight.is_none() {
                flight = self.next_flight();
            }
            if engine.stopping.is_cancelled() {
                self.give_back_waiting();
                let idle = self.running == 0 && self.outcomes.is_empty() && flight.is_none();
                if idle {
                    return;
                }
                flight = flight.or_else(|| self.next_flight());
            }
            let wait_until = self.wait_until(flight.is_some());
            tokio::select! {
                biased;
                () = engine.ended.cancelled() => return,
                landed = landed(&mut flight) => {
                    flight = None;
                    self.landed(landed);
                }
                end = self.ends.recv() => {
                    if let Some(end) = end {
                        self.ended(end);
                    }
                    while let Ok(end) = self.ends.try_recv() {
                        self.ended(end);
                    }
                }
                push = next_push(&mut self.pushes) => self.pushed(push),
                () = engine.signals.dispatcher.notified() => self.look_again(),
                () = engine.stopping.cancelled(), if !engine.quiet.is_cancelled() => engine.quiet.cancel(),
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
        let far = Instant::now() + Duration::from_secs(3600);
        if in_flight {
            return far;
        }
        let mut until = self.blocked_until.unwrap_or(far);
        if self.blocked_until.is_none() && self.wants() > 0 {
            until = until.min(self.poll_at);
        }
        if let Some(first) = self.waiting.front() {
            until = until.min(first.since + PREFETCH_KEPT);
        }
        until
    }

    /// Workers that could start a job now.
    fn free_workers(&self) -> usize {
        let replaced = self.stuck.min(self.engine.options.workers);
        (self.engine.options.workers + replaced).saturating_sub(self.running)
    }

    /// How many jobs a claim should ask for.
    fn wants(&self) -> usize {
        let alone = self.alone.is_some() || self.runs_alone;
        if alone || self.engine.quiet.is_cancelled() || self.outcomes.len() >= STEP_ITEMS * 2 {
            // With so many outcomes waiting the storage is slow or away: nothing new is started.
            return 0;
        }
        (self.free_workers() + self.prefetch()).saturating_sub(self.waiting.len()).min(STEP_ITEMS)
    }

    /// About 50 ms of work.
    fn prefetch(&self) -> usize {
        match (self.engine.options.prefetch, self.mean) {
            (Prefetch::Fixed(jobs), _) => jobs,
            (Prefetch::Adaptive, None) => 0,
            (Prefetch::Adaptive, Some(mean)) if mean > 1.0 => 0,
            (Prefetch::Adaptive, Some(mean)) => {
                let jobs = 0.05 / mean.max(1e-6)
                    * f64::from(u32::try_from(self.engine.options.workers).unwrap_or(u32::MAX));
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "bounded by the line before"
                )]
                let jobs = jobs.clamp(0.0, 300.0) as usize;
                jobs
            }
        }
    }

    fn start_waiting(&mut self) {
        if self.runs_alone {
            return;
        }
        if self.alone.is_some() {
            self.give_back_waiting();
            if self.running == 0
                && let Some(job) = self.alone.take()
            {
                self.runs_alone = true;
                self.start(job);
            }
            return;
        }
        while self.free_workers() > 0 && !self.engine.stopping.is_cancelled() {
            let Some(next) = self.waiting.pop_front() else { break };
            if self.engine.is_paused(&next.job.queue, &next.job.kind) || !self.is_sure(&next.job) {
                self.give_back(next.job);
            } else {
                self.start(next.job);
            }
        }
        let now = Instant::now();
        let is_old = |waiting: &Waiting| now.duration_since(waiting.since) >= PREFETCH_KEPT;
        while self.waiting.front().is_some_and(is_old) {
            if let Some(old) = self.waiting.pop_front() {
                self.give_back(old.job);
            }
        }
    }

    /// Whether the lease surely holds, so that the job may be started.
    fn is_sure(&self, job: &ClaimedJob) -> bool {
        let held = self.engine.held.lock();
        held.jobs.get(&job.lease.job).is_some_and(|held| held.sure_until > Instant::now())
    }

    fn start(&mut self, job: ClaimedJob) {
        match self.engine.kinds.get(job.kind.as_str()) {
            Some(kind) => {
                self.running += 1;
                executor::start(&self.engine, kind, job, self.ended.clone());
            }
            None => {
                tracing::error!(kind = %job.kind, "the storage handed out a kind that was not asked for");
                self.give_back(job);
            }
        }
    }

    fn give_back_waiting(&mut self) {
        while let Some(waiting) = self.waiting.pop_front() {
            self.give_back(waiting.job);
        }
        if self.engine.stopping.is_cancelled()
            && let Some(job) = self.alone.take()
        {
            self.give_back(job);
        }
    }

    fn give_back(&mut self, job: ClaimedJob) {
        if let Some(held) = self.engine.held.lock().jobs.get_mut(&job.lease.job) {
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
        self.outcomes.extend(settler::settle_of(end, None, &self.engine.options));
    }

    fn ended(&mut self, end: End) {
        self.running -= 1;
        self.stuck -= usize::from(end.was_stuck);
        self.runs_alone = false;
        let seconds = end.duration.as_secs_f64();
        self.mean = Some(self.mean.map_or(seconds, |mean| mean + (seconds - mean) * 0.1));
        let kind = self.engine.kinds.get(end.job.kind.as_str()).cloned();
        let job = end.job.lease.job;
        match settler::settle_of(end, kind.as_deref(), &self.engine.options) {
            Some(settle) => self.outcomes.push_back(settle),
            None => {
                self.engine.held.lock().jobs.remove(&job);
            }
        }
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

    fn next_flight(&mut self) -> Option<FlightFuture> {
        let now = Instant::now();
        if self.blocked_until.is_some_and(|until| until > now) {
            return None;
        }
        let mut wanted = self.wants();
        let due = self.may_be_work || now >= self.poll_at;
        if self.outcomes.is_empty() && !due || self.isolate && !self.outcomes.is_empty() {
            wanted = 0;
        }
        if self.outcomes.is_empty() && wanted == 0 {
            return None;
        }
        let most = if self.isolate { 1 } else { STEP_ITEMS };
        let settles: Vec<_> = self.outcomes.drain(..self.outcomes.len().min(most)).collect();
        let claim = (wanted > 0).then(|| self.claim_request(wanted, settles.is_empty()));
        Some(self.fly(settles, claim))
    }

    fn claim_request(&mut self, wanted: usize, sleeps_if_empty: bool) -> ClaimRequest {
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
            sleeps_if_empty,
            hint: self.hint.clone(),
            now: None,
        }
    }

    fn fly(&self, settles: Vec<Settle>, claim: Option<ClaimRequest>) -> FlightFuture {
        let engine = Arc::clone(&self.engine);
        let server: Name = self.engine.info.name.clone();
        let claiming = claim.as_ref().map(|claim| Claiming {
            sequence: claim.sequence,
            wanted: claim.max,
            sent_at: Instant::now(),
        });
        Box::pin(async move {
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
            let outcome = engine.bounded(call).await;
            Landed { settles: request.settles, outcome, claim: claiming }
        })
    }

    fn landed(&mut self, landed: Landed) {
        match landed.outcome {
            Ok((answers, claimed)) if answers.len() == landed.settles.len() => {
                self.engine.health.works("dispatcher");
                self.backoff.reset();
                self.blocked_until = None;
                self.isolate = self.isolate && !self.outcomes.is_empty();
                if !answers.is_empty() {
                    self.engine.signals.activity.notify_one();
                }
                self.settled(landed.settles, answers);
                if let (Some(claimed), Some(claim)) = (claimed, landed.claim) {
                    self.claimed(claimed, claim);
                }
            }
            Ok(_) => {
                let error = Error::new(
                    ErrorKind::Internal,
                    "the storage answered another number of settles",
                );
                self.flight_failed(landed.settles, &error);
            }
            Err(error) => self.flight_failed(landed.settles, &error),
        }
    }

    /// Outcomes are kept until the storage answers; claims are repeated with the same sequence.
    fn flight_failed(&mut self, settles: Vec<Settle>, error: &Error) {
        let alone = settles.len() <= 1;
        for settle in settles.into_iter().rev() {
            self.outcomes.push_front(settle);
        }
        self.may_be_work = true;
        if error.kind() == ErrorKind::NotAnnounced {
            // Forgotten as dead, or not known yet: the lease task announces again.
            self.engine.signals.leases.notify_one();
        } else {
            self.engine.health.failed("dispatcher", error);
            if !error.is_retryable() {
                self.isolate = true;
                if alone && let Some(poisoned) = self.outcomes.pop_front() {
                    // It fails alone too: let others go first.
                    self.outcomes.push_back(poisoned);
                }
            }
        }
        self.blocked_until = Some(Instant::now() + self.backoff.next());
    }

    fn settled(&mut self, settles: Vec<Settle>, answers: Vec<SettleAnswer>) {
        let mut held = self.engine.held.lock();
        let mut again = Vec::new();
        for (settle, answer) in settles.into_iter().zip(answers) {
            match answer {
                SettleAnswer::Settled(state) => {
                    held.jobs.remove(&settle.lease.job);
                    if state == StateName::Enqueued {
                        self.may_be_work = true;
                    }
                    let later =
                        matches!(settle.ending, Ending::Retry { .. } | Ending::Snoozed { .. });
                    if later && self.pushes.is_none() {
                        self.engine.signals.scheduler.notify_one();
                    }
                }
                SettleAnswer::AlreadyApplied => {
                    held.jobs.remove(&settle.lease.job);
                }
                SettleAnswer::LeaseLost => {
                    tracing::warn!(job = %settle.lease.job, fence = settle.lease.fence, "the lease was lost, the outcome does not count");
                    held.jobs.remove(&settle.lease.job);
                }
                SettleAnswer::Refused(refusal) => {
                    tracing::warn!(job = %settle.lease.job, reason = %refusal, "the storage refuses the outcome");
                    again.push(settler::refused(&settle, "", &refusal));
                }
                SettleAnswer::Busy => again.push(settle),
            }
        }
        drop(held);
        self.outcomes.extend(again);
    }

    fn claimed(&mut self, claimed: Claimed, claim: Claiming) {
        let got = claimed.jobs.len();
        self.next_claim = claim.sequence + 1;
        {
            let mut held = self.engine.held.lock();
            held.seen_claim = claim.sequence;
            let sure_until = claim.sent_at + self.engine.options.lease;
            for job in &claimed.jobs {
                let job = HeldJob {
                    lease: job.lease,
                    claim: claim.sequence,
                    phase: Phase::Prefetched,
                    started: false,
                    limited: job.limited,
                    sure_until,
                };
                held.jobs.insert(job.lease.job, job);
            }
        }
        let now = Instant::now();
        let options = &self.engine.options;
        if got >= claim.wanted {
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
            let near_limit = job.crashes + 1 >= crash_limit && job.crashes > 0;
            if near_limit && self.alone.is_none() && !self.runs_alone {
                self.alone = Some(job);
            } else if job.crashes > 0 && (free == 0 || near_limit) {
                // Rescued before: it never waits beside others for a worker.
                self.give_back(job);
            } else {
                free = free.saturating_sub(1);
                self.waiting.push_back(Waiting { job, since: now });
            }
        }
    }
}

async fn landed(flight: &mut Option<FlightFuture>) -> Landed {
    match flight {
        Some(flight) => flight.await,
        None => std::future::pending().await,
    }
}

async fn next_push(pushes: &mut Option<Box<dyn WakeUps>>) -> Option<WakeUp> {
    match pushes {
        Some(pushes) => pushes.next().await,
        None => std::future::pending().await,
    }
}
