//! One claimer per server: claims for free workers and a little ahead, starts, and settles.
//!
//! At most one flight to the storage is under way; what ends meanwhile leaves with the next one,
//! together with a claim for the workers that became free. So a busy server needs one round trip for
//! hundreds of jobs, and an idle one none.

mod flight;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use self::flight::{Flight, Pending, landed};
use crate::bounds::STEP_ITEMS;
use crate::server::engine::Engine;
use crate::server::executor::{self, End, How};
use crate::server::held::{Attempt, Phase, attempt};
use crate::server::options::Prefetch;
use crate::server::outcomes::Outcomes;
use crate::server::settler;
use crate::server::supervisor::Backoff;
use crate::storage::{ClaimHint, ClaimedJob, OtherPushes, WakeUp, WakeUpFilter, WakeUps};

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
}

async fn next_push(pushes: &mut Option<Box<dyn WakeUps>>) -> Option<WakeUp> {
    match pushes {
        Some(pushes) => pushes.next().await,
        None => std::future::pending().await,
    }
}
