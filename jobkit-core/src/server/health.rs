//! What goes wrong with a server, told once per change.

use crate::model::sync::lock;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Mutex;

/// How a server is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// What does not work now; empty when all is well.
    pub problems: Vec<Problem>,
}

impl Health {
    /// Whether nothing is wrong.
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Something that does not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The part of the server: `dispatcher`, `leases`, `scheduler`, `recurring`, `janitor`,
    /// `reporter`, `handlers`, `clock`, `clock_skew`, `schedules`, `unserved`, `claims`, `outcomes`,
    /// `name`.
    pub part: &'static str,
    /// What is wrong, and why.
    pub message: String,
}

/// Where the parts of a server report.
#[derive(Debug, Default)]
pub(crate) struct HealthBoard(Mutex<BTreeMap<&'static str, String>>);

impl HealthBoard {
    /// Reports a problem; logged when the part was well before.
    pub(crate) fn failed(&self, part: &'static str, problem: &dyn Display) {
        let message = problem.to_string();
        if self.lock().insert(part, message.clone()).is_none() {
            tracing::warn!(part, problem = %message, "component failed, retrying");
        }
    }

    /// Reports that a part works; logged when it did not before.
    pub(crate) fn works(&self, part: &'static str) {
        if self.lock().remove(part).is_some() {
            tracing::info!(part, "component works again");
        }
    }

    /// Reports a problem that was logged elsewhere.
    pub(crate) fn stands(&self, part: &'static str, problem: String) {
        self.lock().insert(part, problem);
    }

    /// Reports its end, which was logged elsewhere.
    pub(crate) fn cleared(&self, part: &'static str) {
        self.lock().remove(part);
    }

    pub(crate) fn read(&self) -> Health {
        let board = self.lock();
        let problem =
            |(part, message): (&&'static str, &String)| Problem { part, message: message.clone() };
        Health { problems: board.iter().map(problem).collect() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, String>> {
        lock(&self.0)
    }
}
