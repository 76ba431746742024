//! The outcomes that the storage has not answered yet: kept until it does.

use std::collections::VecDeque;
use std::fmt::Display;
use std::time::Duration;

use tokio::time::Instant;

use crate::server::failed::Subject;
use crate::server::settler;
use crate::storage::Settle;

/// How soon an outcome that is blocked by a stranger's lock goes again.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// How often an outcome is sent alone, and fails, before it is taken for what the storage chokes on. A bug
/// that strikes once must not turn a success into a failure.
const TRIES_ALONE: u32 = 3;
/// How soon a bare failure that the storage refused goes again: first, and at the longest.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
const REFUSED_PAUSE_LONGEST: Duration = Duration::from_secs(60);

/// An outcome on its way to the storage.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) settle: Settle,
    pub(super) subject: Subject,
    /// It goes in a flight of its own, since it was in one that was refused as a whole.
    alone: bool,
    /// How often it failed alone.
    failed_alone: u32,
    /// What came with it was refused once, so only the bare failure is left.
    bare: bool,
    /// How often the storage refused even that.
    refused: u32,
    not_before: Option<Instant>,
}

impl Outcome {
    pub(super) fn goes_alone(&self) -> bool {
        self.alone
    }

    fn may_go(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }
}

/// Outcomes in the order in which they came, as far as nothing is wrong with them.
#[derive(Debug, Default)]
pub(super) struct Outcomes(VecDeque<Outcome>);

impl Outcomes {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn push(&mut self, settle: Settle, subject: Subject) {
        self.0.push_back(Outcome {
            settle,
            subject,
            alone: false,
            failed_alone: 0,
            bare: false,
            refused: 0,
            not_before: None,
        });
    }

    /// When the first of those that wait for an instant may go.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.0.iter().filter_map(|outcome| outcome.not_before).min()
    }

    /// The outcomes of the next flight: all that may go together, `most` of them, or one that must go alone.
    pub(super) fn next(&mut self, now: Instant, most: usize) -> Vec<Outcome> {
        let Some(first) = self.0.iter().position(|outcome| outcome.may_go(now)) else {
            return Vec::new();
        };
        if self.0[first].alone {
            return self.0.remove(first).into_iter().collect();
        }
        let mut chosen = Vec::new();
        let mut left = VecDeque::new();
        for outcome in self.0.drain(..) {
            if chosen.len() < most && outcome.may_go(now) && !outcome.alone {
                chosen.push(outcome);
            } else {
                left.push_back(outcome);
            }
        }
        self.0 = left;
        chosen
    }

    /// Notes that an outcome failed alone; whether it is the outcome that the storage cannot keep.
    pub(super) fn is_at_fault(outcome: &mut Outcome) -> bool {
        outcome.failed_alone += 1;
        outcome.failed_alone >= TRIES_ALONE
    }

    /// Outcomes of a flight that failed; each goes alone where one of them may be the cause.
    pub(super) fn put_back(&mut self, outcomes: Vec<Outcome>, alone: bool) {
        for mut outcome in outcomes.into_iter().rev() {
            outcome.alone |= alone;
            self.0.push_front(outcome);
        }
    }

    /// An outcome that is blocked for now.
    pub(super) fn try_later(&mut self, outcome: Outcome) {
        let not_before = Some(Instant::now() + BUSY_PAUSE);
        self.0.push_back(Outcome { alone: true, not_before, ..outcome });
    }

    /// Whether any was refused again and again.
    pub(super) fn has_refused(&self) -> bool {
        self.0.iter().any(|outcome| outcome.refused > 0)
    }

    /// Whether all that is left was refused again and again, so that nobody can wait for it.
    pub(super) fn are_hopeless(&self) -> bool {
        self.0.iter().all(|outcome| outcome.refused > 0)
    }

    /// Puts the bare failure that says so in the place of what the storage cannot keep. Where it cannot
    /// keep that either, it is sent again later: the job has run, and with its lease let go it would run
    /// again at once. `false` then.
    pub(super) fn replace_by_bare(&mut self, outcome: Outcome, reason: &dyn Display) -> bool {
        if outcome.bare {
            let pause = REFUSED_PAUSE * 2u32.saturating_pow(outcome.refused.min(16));
            let not_before = Some(Instant::now() + pause.min(REFUSED_PAUSE_LONGEST));
            let refused = outcome.refused.saturating_add(1);
            self.0.push_back(Outcome { refused, not_before, ..outcome });
            return false;
        }
        let settle = settler::refused(&outcome.settle, &outcome.subject.kind, reason);
        self.0.push_back(Outcome { settle, bare: true, alone: true, failed_alone: 0, ..outcome });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{Incarnation, JobId};
    use crate::model::record::{Lease, Locator};
    use crate::model::state_machine::Ending;

    fn outcomes(count: u64) -> Outcomes {
        let mut outcomes = Outcomes::default();
        for fence in 0..count {
            let lease = Lease {
                job: JobId::new(),
                locator: Locator(0),
                fence,
                incarnation: Incarnation::from_i64(1),
            };
            outcomes.push(Settle::new(lease, Ending::Succeeded), Subject::for_tests());
        }
        outcomes
    }

    fn fences(chosen: &[Outcome]) -> Vec<u64> {
        chosen.iter().map(|outcome| outcome.settle.lease.fence).collect()
    }

    #[test]
    fn a_flight_takes_all_that_may_go_together() {
        let mut outcomes = outcomes(4);
        let chosen = outcomes.next(Instant::now(), 300);
        assert_eq!(fences(&chosen), [0, 1, 2, 3]);
        outcomes.put_back(chosen, true);
        let now = Instant::now();
        assert_eq!(fences(&outcomes.next(now, 300)), [0]);
        assert_eq!(fences(&outcomes.next(now, 300)), [1]);
        assert_eq!(outcomes.len(), 2);
    }

    #[test]
    fn what_is_blocked_holds_up_nobody() {
        let mut outcomes = outcomes(3);
        let now = Instant::now();
        let mut chosen = outcomes.next(now, 300);
        outcomes.try_later(chosen.remove(0));
        outcomes.put_back(chosen, false);
        assert_eq!(fences(&outcomes.next(now, 300)), [1, 2]);
        assert!(outcomes.next(now, 300).is_empty() && outcomes.len() == 1);
        let due = outcomes.next_due().expect("one waits");
        assert_eq!(fences(&outcomes.next(due, 300)), [0]);
    }

    #[test]
    fn what_cannot_be_kept_is_replaced_once_and_then_sent_again_later() {
        let mut outcomes = outcomes(1);
        let now = Instant::now();
        let outcome = outcomes.next(now, 300).remove(0);
        assert!(outcomes.replace_by_bare(outcome, &"no room"));
        let bare = outcomes.next(now, 300).remove(0);
        assert!(bare.settle.error.as_ref().is_some_and(|error| error.message.contains("no room")));
        let mut bare = bare;
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            let now = Instant::now();
            assert!(!outcomes.replace_by_bare(bare, &"no room"));
            assert!(outcomes.are_hopeless() && outcomes.next(now, 300).is_empty());
            let due = outcomes.next_due().expect("it goes again");
            assert_eq!(due.duration_since(now).as_secs_f64().round(), f64::from(pause));
            bare = outcomes.next(due, 300).remove(0);
        }
    }
}
