//! Statistics: what is counted, and the cells it is folded into.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::bounds;
use crate::model::clock::Timestamp;
use crate::model::name::Name;
use crate::model::stats::{Cell, Delta, Histogram, Scope, Step, Tally};

/// How long histograms are kept.
const HISTOGRAMS_KEPT: Duration = Duration::from_secs(72 * 3600);
/// A tail of this many lanes is folded, since they are searched in turn.
const TAIL_LANES: usize = 64;

/// What was counted: cells, and a tail of the present minute.
///
/// Other storages append one delta per call; under a mutex all calls of a minute share one.
#[derive(Debug, Default)]
pub(super) struct Statistics {
    tail: Delta,
    cells: BTreeMap<Cell, Tally>,
    queues: BTreeSet<Name>,
    kinds: BTreeSet<Name>,
    pruned_at: Timestamp,
}

impl Statistics {
    /// The tail to count into at `now`.
    pub(super) fn tail(&mut self, now: Timestamp) -> &mut Delta {
        self.advance(now);
        &mut self.tail
    }

    /// Folds the tail when its minute is over, or when it has grown long.
    pub(super) fn advance(&mut self, now: Timestamp) {
        let minute = |at| Step::Minute.bucket(at);
        let tail_at = Timestamp::from_micros(self.tail.at);
        if minute(tail_at) != minute(now) || self.tail.lanes.len() > TAIL_LANES {
            self.fold();
            self.tail.at = now.as_micros();
        }
        if Step::Hour.bucket(self.pruned_at) != Step::Hour.bucket(now) {
            self.prune(now);
        }
    }

    fn fold(&mut self) {
        let tail = std::mem::take(&mut self.tail);
        self.tail.at = tail.at;
        for (cell, tally) in tail.cells() {
            let scope = self.scope(cell.scope);
            self.cells.entry(Cell { scope, ..cell }).or_default().add(&tally);
        }
    }

    /// The scope itself, or that of the rest when there are too many.
    fn scope(&mut self, scope: Scope) -> Scope {
        let admit = |names: &mut BTreeSet<Name>, name: Name| {
            if names.contains(&name) {
                return name;
            }
            if names.len() >= bounds::STATISTICS_SCOPES {
                return Name::from_stored(bounds::OTHER);
            }
            names.insert(name.clone());
            name
        };
        match scope {
            Scope::Total => Scope::Total,
            Scope::Queue(name) => Scope::Queue(admit(&mut self.queues, name)),
            Scope::Kind(name) => Scope::Kind(admit(&mut self.kinds, name)),
        }
    }

    fn prune(&mut self, now: Timestamp) {
        self.pruned_at = now;
        self.cells.retain(|cell, tally| {
            if cell.step == Step::Hour && cell.bucket < now.minus(HISTOGRAMS_KEPT) {
                tally.wait = Histogram::default();
                tally.run = Histogram::default();
            }
            cell.step.kept().is_none_or(|kept| cell.bucket >= Step::Hour.bucket(now.minus(kept)))
        });
    }

    /// The transitions of a scope since the beginning.
    pub(super) fn total(&mut self, scope: &Scope) -> Tally {
        self.fold();
        let cell = Cell { scope: scope.clone(), step: Step::AllTime, bucket: Timestamp::MIN };
        self.cells.get(&cell).cloned().unwrap_or_default()
    }

    /// The cells of a scope whose buckets begin in a range.
    pub(super) fn range(
        &mut self,
        scope: &Scope,
        step: Step,
        from: Timestamp,
        to: Timestamp,
    ) -> Vec<(Timestamp, Tally)> {
        self.fold();
        if from >= to {
            return Vec::new();
        }
        let cell = |bucket| Cell { scope: scope.clone(), step, bucket };
        let range = self.cells.range(cell(from)..cell(to));
        range.map(|(cell, tally)| (cell.bucket, tally.clone())).collect()
    }
}
