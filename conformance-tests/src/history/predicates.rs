//! One function for each guarantee that can be seen from outside.
//!
//! G7 is also what the others check within a commit: effects that come later are found there.

mod edges;
mod holders;
mod jobs;
mod leases;
mod line;

use std::collections::BTreeMap;

use jobkit_core::JobId;
use jobkit_core::state::StateName;

use super::{Event, Fact, History, Violation};

pub use edges::*;
pub use holders::*;
pub use jobs::*;
pub use leases::*;
pub use line::*;

/// What a predicate answers.
pub type Checked = Result<(), Violation>;

/// A guarantee, as a function of what happened.
pub type Predicate = fn(&History) -> Checked;

/// All of them, by name.
pub const PREDICATES: [(&str, Predicate); 19] = [
    ("g1_durable", g1_durable),
    ("g2_submitted_once", g2_submitted_once),
    ("g3_atomic_submit", g3_atomic_submit),
    ("g4_one_lease", g4_one_lease),
    ("g5_fenced", g5_fenced),
    ("g6_ends_once", g6_ends_once),
    ("g7_together", g7_together),
    ("g8_decided_once", g8_decided_once),
    ("g9_batch_counts", g9_batch_counts),
    ("g10_one_job_per_occurrence", g10_one_job_per_occurrence),
    ("g11_unique", g11_unique),
    ("g12_locks_exclude", g12_locks_exclude),
    ("g13_limits_hold", g13_limits_hold),
    ("g14_ordered", g14_ordered),
    ("g15_paused_yields_nothing", g15_paused_yields_nothing),
    ("g16_noticed", g16_noticed),
    ("g17_history_is_true", g17_history_is_true),
    ("g18_totals_add_up", g18_totals_add_up),
    ("g19_retention", g19_retention),
];

fn broken(
    guarantee: &'static str,
    event: &Event,
    job: impl Into<Option<JobId>>,
    what: impl Into<String>,
) -> Checked {
    Err(Violation { guarantee, job: job.into(), s: event.s, what: what.into() })
}

/// The state of every job that is there.
#[derive(Default)]
struct States(BTreeMap<JobId, StateName>);

impl States {
    fn take(&mut self, fact: &Fact) {
        match fact {
            Fact::Create { job, to, .. } | Fact::Step { job, to, .. } => {
                self.0.insert(*job, *to);
            }
            Fact::Gone { job, .. } => {
                self.0.remove(job);
            }
            _ => {}
        }
    }
}
