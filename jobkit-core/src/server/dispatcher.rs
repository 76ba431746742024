//! One claimer per server: claims for free workers and a little ahead, starts, and settles.
//!
//! At most one flight to the storage is under way; what ends meanwhile leaves with the next one,
//! together with a claim for the workers that became free. So a busy server needs one round trip for
//! hundreds of jobs, and an idle one none.

mod ahead;
mod flight;
mod rooms;
mod suspects;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use self::ahead::Ahead;
use self::flight::{Flight, Pending, landed};
use self::rooms::Rooms;
use self::suspects::Suspects;
use crate::model::backoff::Backoff;
use crate::server::engine::Engine;
use crate::server::executor::{self, End, How};
use crate::server::failed::Subject;
use crate::server::held::{Phase, attempt};
use crate::server::options::Prefetch;
use crate::server::outcomes::Outcomes;
use crate::server::settler;
use crate::server::supervisor;
use crate::storage::{ClaimHint, ClaimedJob, Pushes, WakeUpFilter};

/// After how long a job that was claimed ahead and not started is given back.
const PREFETCH_KEPT: Duration = Duration::from_millis(200);
/// Handlers that ignore their cancellation get their worker replaced, up to as many as there are
/// workers.
const STUCK_CHECK: Duration = Duration::from_secs(1);

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
    /// Near their crash limit: each has its turn.
    suspects: Suspects,
    running: usize,
    /// Handlers whose workers were replaced; they are among the running.
    stuck: usize,
    /// What each queue with a most of its own has room for.
    rooms: Rooms,
    /// Outcomes that the storage has not answered yet.
    outcomes: Outcomes,
    next_claim: u64,
    pending: Option<Pending>,
    hint: Option<ClaimHint>,
    hint_since: Instant,
    /// Work may be there: the last claim got all it asked for or did not see everything, what was settled made
    /// some claimable, or a push came.
    may_be_work: bool,
    /// What was claimed ahead was not started in time: nothing more ahead until a job ends.
    claimed_too_far: bool,
    ahead: Ahead,
    poll_at: Instant,
    poll_pause: Duration,
    /// Claims in vain, each of which named an instant close by.
    vain: u32,
    backoff: Backoff,
    blocked_until: Option<Instant>,
    /// What was claimed could not be started, and would be claimed again at once: nothing is claimed for
    /// a while.
    brake: Backoff,
    is_braked: bool,
    claims_from: Instant,
    /// The mean duration of a job in seconds, newer ones weighing more.
    mean: Option<f64>,
    pushes: Pushes,
}

impl Dispatcher {
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        let (ended, ends) = mpsc::unbounded_channel();
        let now = Instant::now();
        Self {
            poll_pause: engine.options.poll_interval,
            rooms: Rooms::new(&engine.queues),
            engine,
            ends,
            ended,
            waiting: VecDeque::new(),
            suspects: Suspects::default(),
            running: 0,
            stuck: 0,
            outcomes: Outcomes::default(),
            next_claim: 1,
            pending: None,
            hint: None,
            hint_since: now,
            may_be_work: true,
            claimed_too_far: false,
            ahead: Ahead::default(),
            poll_at: now,
            vain: 0,
            backoff: supervisor::retries(),
            blocked_until: None,
            brake: supervisor::retries(),
            is_braked: false,
            claims_from: now,
            mean: None,
            pushes: Pushes::new(None),
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
                if flight.is_none() {
                    flight = self.next_flight();
                }
            }
            let settled = self.outcomes.are_hopeless() && self.pending.is_none();
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
                _ = self.pushes.next() => self.look_again(),
                () = engine.signals.dispatcher.notified() => self.look_again(),
                () = engine.signals.renewed.notified(), if self.suspects.wait() => {}
                () = engine.stopping.cancelled(), if !stopping => {}
                _ = stuck_check.tick() => self.replace_stuck(),
                () = tokio::time::sleep_until(wait_until) => {}
            }
        }
    }

    async fn subscribe(&mut self) {
        let filter = WakeUpFilter {
            queues: self.engine.queues.names().to_vec(),
            claimer: Some(self.engine.incarnation()),
            ..WakeUpFilter::default()
        };
        self.pushes = Pushes::subscribe(&*self.engine.storage, filter).await;
    }

    fn look_again(&mut self) {
        self.may_be_work = true;
        self.hint = None;
        self.vain = 0;
        self.poll_pause = self.engine.options.poll_interval;
    }

    /// When something is to be done even if nothing happens.
    fn wait_until(&self, in_flight: bool) -> Instant {
        let mut until = Instant::now() + Duration::from_secs(3600);
        if let Some(first) = self.waiting.front().filter(|_| !self.suspects.run_alone()) {
            until = until.min(first.since + PREFETCH_KEPT);
        }
        if let Some(at) = self.suspects.next_at() {
            until = until.min(at);
        }
        if in_flight {
            return until;
        }
        if let Some(blocked_until) = self.blocked_until {
            return until.min(blocked_until);
        }
        if self.wants() > 0 {
            until = until.min(self.next_claim_at());
        }
        self.outcomes.next_due().map_or(until, |due| until.min(due))
    }

    /// When the next claim is due, as far as nothing happens before.
    fn next_claim_at(&self) -> Instant {
        let due_at = if self.may_be_work { Instant::now() } else { self.poll_at };
        due_at.max(self.claims_from)
    }

    /// Workers that could start a job now.
    fn free_workers(&self) -> usize {
        let replaced = self.stuck.min(self.engine.options.workers);
        (self.engine.options.workers + replaced).saturating_sub(self.running)
    }

    /// How many jobs a claim should ask for.
    fn wants(&self) -> usize {
        let step = self.engine.step_items();
        let full = self.outcomes.len() >= step * 2;
        let waits = self.suspects.run_alone() || self.suspects.are_full(step);
        if waits || self.engine.is_quiet() || full {
            // With this many outcomes waiting the storage is slow or away: nothing new is started.
            return 0;
        }
        let wanted = (self.free_workers() + self.prefetch()).saturating_sub(self.waiting.len());
        // Where every queue is full, there is nothing to ask for.
        wanted.min(self.rooms.of_all(self.engine.queues.names())).min(step)
    }

    /// The most that is claimed ahead: so much that the next flight can be full while what the last one brought
    /// is still waiting. With less, full flights and nearly empty ones would take turns.
    fn farthest(&self) -> usize {
        let step = self.engine.step_items();
        2 * step - self.engine.options.workers.min(step)
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
                let workers = self.engine.options.workers;
                let workers = u32::try_from(workers).unwrap_or(u32::MAX);
                let jobs = 0.05 / mean.max(1e-6) * f64::from(workers);
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a cast saturates, and the rest is bounded"
                )]
                let jobs = jobs as usize;
                self.ahead.bounded(jobs.min(self.farthest()))
            }
        }
    }

    fn start_waiting(&mut self) {
        self.start_suspects();
        while self.free_workers() > 0 && !self.suspects.run_alone() {
            let Some(next) = self.waiting.pop_front() else { break };
            self.start_or_give_back(next);
        }
        let now = Instant::now();
        let is_old = |waiting: &Waiting| now.duration_since(waiting.since) >= PREFETCH_KEPT;
        while !self.suspects.run_alone() && self.waiting.front().is_some_and(is_old) {
            if let Some(old) = self.waiting.pop_front() {
                if !self.claimed_too_far {
                    self.ahead.too_far(self.prefetch());
                }
                self.claimed_too_far = true;
                self.give_back(old.job);
            }
        }
    }

    /// Starts a job, unless it was paused meanwhile or its lease may be gone.
    fn start_or_give_back(&mut self, waiting: Waiting) -> bool {
        let Waiting { job, claimed_at, .. } = waiting;
        if self.engine.is_paused(&job.queue, &job.kind, claimed_at) {
            self.give_back(job);
            return false;
        }
        if !self.is_sure(&job) {
            let lease = self.engine.options.lease;
            let text = format!("a lease of {lease:?} ended before its job could be started");
            self.give_back_with_brake(job, &text);
            return false;
        }
        let Some(kind) = self.engine.kinds.get(job.kind.as_str()) else {
            let text = format!("the storage handed out kind {}, which was not asked for", job.kind);
            self.give_back_with_brake(job, &text);
            return false;
        };
        self.running += 1;
        executor::start(&self.engine, kind, job, self.ended.clone());
        if std::mem::take(&mut self.is_braked) {
            self.engine.health.works("claims");
            self.brake.reset();
        }
        true
    }

    /// Gives back what this server would claim again at once, and waits before it does.
    fn give_back_with_brake(&mut self, job: ClaimedJob, problem: &str) {
        self.engine.health.failed("claims", &problem);
        self.is_braked = true;
        let now = Instant::now();
        if self.claims_from <= now {
            self.claims_from = now + self.brake.next();
        }
        self.give_back(job);
    }

    /// Whether the lease surely holds, so that the job may be started.
    fn is_sure(&self, job: &ClaimedJob) -> bool {
        let held = self.engine.held.lock();
        let held = held.jobs.get(&attempt(&job.lease));
        held.is_some_and(|held| held.sure_until > Instant::now())
    }

    /// Everything that has not started.
    fn give_back_waiting(&mut self) {
        while let Some(waiting) = self.waiting.pop_front() {
            self.give_back(waiting.job);
        }
        while let Some(suspect) = self.suspects.pop() {
            self.give_back(suspect.job);
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
        // With the next flight, which tells the end too, and also where this one goes without a claim.
        self.may_be_work |= self.rooms.freed(&end.job.queue);
        let subject = Subject::of(&end.job);
        let this = attempt(&end.job.lease);
        let kind = self.engine.kinds.get(subject.kind.as_str()).cloned();
        match settler::settle_of(end, kind.as_deref(), &self.engine) {
            Some(settle) => self.outcomes.push(settle, subject),
            None => {
                self.engine.held.lock().jobs.remove(&this);
            }
        }
    }

    fn ended(&mut self, end: End) {
        self.running = self.running.saturating_sub(1);
        self.stuck = self.stuck.saturating_sub(usize::from(end.was_stuck));
        self.claimed_too_far = false;
        self.suspects.ended(attempt(&end.job.lease));
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
}
