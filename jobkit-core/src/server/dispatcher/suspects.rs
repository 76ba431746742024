//! Jobs near their crash limit: one of them kills the process, perhaps, and the others were its
//! neighbours.
//!
//! Each has its turn. Before it starts, the storage learns that a crash counts against it alone, so that
//! everything else on this server is safe, however the turn ends.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::{Dispatcher, Waiting};
use crate::server::held::{Attempt, attempt};
use crate::storage::ClaimedJob;

/// How long a turn is, unless the job ends before. A job that has survived it is unlikely to be the cause
/// of the crashes.
const TURN: Duration = Duration::from_secs(5);
/// How long nothing else is started beside it: what kills its process mostly does so at once, and is not
/// to be blamed on the job whose turn it is.
const ALONE: Duration = Duration::from_millis(500);
/// How long a job waits for its turn here, before another server may have it.
const KEPT: Duration = Duration::from_secs(15);
/// How soon the storage is asked again to note whose turn it is.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Whether the next crash of a job would be its last.
pub(super) fn is_suspect(job: &ClaimedJob, crash_limit: u32) -> bool {
    job.crashes > 0 && job.crashes + 1 >= crash_limit
}

/// Those who wait for their turn, and whose it is.
#[derive(Default)]
pub(super) struct Suspects {
    waiting: VecDeque<Waiting>,
    turn: Option<Turn>,
    /// When the storage was asked last to note whose turn it is.
    asked_at: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Turn {
    job: Attempt,
    began_at: Instant,
}

impl Suspects {
    pub(super) fn push(&mut self, suspect: Waiting) {
        self.waiting.push_back(suspect);
    }

    pub(super) fn pop(&mut self) -> Option<Waiting> {
        self.waiting.pop_front()
    }

    /// Whether any wait for their turn.
    pub(super) fn wait(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether no more of them should be claimed.
    pub(super) fn are_full(&self, most: usize) -> bool {
        self.waiting.len() >= most
    }

    /// Whether a crash counts against one job alone, or soon will.
    pub(super) fn are_there(&self) -> bool {
        self.wait() || self.turn.is_some()
    }

    /// Whether nothing else may be started now.
    pub(super) fn run_alone(&self) -> bool {
        self.turn.is_some_and(|turn| turn.began_at.elapsed() < ALONE)
    }

    pub(super) fn ended(&mut self, job: Attempt) {
        if self.turn.is_some_and(|turn| turn.job == job) {
            self.turn = None;
        }
    }

    /// When there is something to do.
    pub(super) fn next_at(&self) -> Option<Instant> {
        let now = Instant::now();
        let turn = self.turn.iter().flat_map(|turn| [turn.began_at + ALONE, turn.began_at + TURN]);
        let kept = self.waiting.front().map(|first| first.since + KEPT);
        let ask = self.asked_at.filter(|_| self.wait()).map(|at| at + ASK_AGAIN);
        turn.chain(kept).chain(ask).filter(|at| *at > now).min()
    }
}

impl Dispatcher {
    /// Lets the next one have its turn, if it is over for the last one.
    pub(super) fn start_suspects(&mut self) {
        if self.suspects.turn.is_some_and(|turn| turn.began_at.elapsed() >= TURN) {
            self.suspects.turn = None;
        }
        while self.suspects.waiting.front().is_some_and(|first| first.since.elapsed() >= KEPT) {
            if let Some(suspect) = self.suspects.pop() {
                self.give_back(suspect.job);
            }
        }
        if self.suspects.turn.is_some() {
            return;
        }
        while self.free_workers() > 0 {
            let Some(next) = self.suspects.waiting.front() else { break };
            let job = attempt(&next.job.lease);
            // One whose lease is unsure is given back below, without a turn.
            if self.is_sure(&next.job) && !self.engine.held.lock().set_turn(Some(job)) {
                return self.ask_for_turn();
            }
            let Some(next) = self.suspects.pop() else { break };
            if self.start_or_give_back(next) {
                self.suspects.turn = Some(Turn { job, began_at: Instant::now() });
                self.suspects.asked_at = None;
                return;
            }
        }
        if !self.suspects.wait() && self.engine.held.lock().turn.is_some() {
            // From now on a crash counts against all that run, and the storage is to know it soon.
            self.engine.held.lock().set_turn(None);
            self.engine.signals.renew.notify_one();
        }
    }

    /// Lets the storage note whose turn it is.
    fn ask_for_turn(&mut self) {
        if self.suspects.asked_at.is_none_or(|at| at.elapsed() >= ASK_AGAIN) {
            self.suspects.asked_at = Some(Instant::now());
            self.engine.signals.renew.notify_one();
        }
    }
}
