//! Statistics: what every writing call tells of its transitions, and how it is added up (G18).
//!
//! A writing call appends one [`Delta`]; a fold adds its [`cells`](Delta::cells) to what is kept, at
//! most once a second; readers sum what is folded and the deltas that are not. So no two calls ever
//! wait for the same counter.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::clock::Timestamp;
use crate::model::name::Name;
use crate::model::state::{Reason, StateName};

/// Upper bounds of the histogram's buckets in milliseconds; the last one has none.
///
/// From 20 ms to 335 s, each 1.5 times the one before.
pub const BUCKET_MS: [u64; 25] = [
    20, 30, 45, 65, 100, 150, 225, 335, 500, 750, 1_100, 1_700, 2_500, 3_800, 5_750, 8_500, 13_000,
    20_000, 30_000, 45_000, 65_000, 100_000, 150_000, 225_000, 335_000,
];

/// How many durations fell into each of 26 logarithmic buckets, and their sum.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// The buckets, up to the last one that is not empty.
    #[serde(default, rename = "b", skip_serializing_if = "Vec::is_empty")]
    pub buckets: Vec<u64>,
    /// The sum of all durations in microseconds.
    #[serde(default, rename = "s", skip_serializing_if = "is_zero")]
    pub sum_micros: u64,
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&mut self, length: Duration) {
        let millis = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
        let bucket = BUCKET_MS.partition_point(|bound| *bound < millis);
        if self.buckets.len() <= bucket {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] += 1;
        let micros = u64::try_from(length.as_micros()).unwrap_or(u64::MAX);
        self.sum_micros = self.sum_micros.saturating_add(micros);
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, count| u64::saturating_add(sum, *count))
    }

    /// Adds another histogram.
    pub fn add(&mut self, other: &Self) {
        if self.buckets.len() < other.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine = mine.saturating_add(*theirs);
        }
        self.sum_micros = self.sum_micros.saturating_add(other.sum_micros);
    }

    /// The upper bound of the bucket that holds the given fraction of the durations; `None` when
    /// nothing was counted. Beyond the last bound it answers that bound.
    pub fn quantile(&self, fraction: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank within the count; quantiles are approximate anyway"
        )]
        let rank = ((count as f64) * fraction.clamp(0.0, 1.0)).ceil().max(1.0) as u64;
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|n| {
            seen = n.saturating_add(seen);
            seen >= rank
        })?;
        let bound = BUCKET_MS.get(bucket).or(BUCKET_MS.last())?;
        Some(Duration::from_millis(*bound))
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this signature")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// What was counted for one scope in one span of time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// How many jobs more, or fewer, are in each state of [`StateName::ALL`]. Only all-time cells
    /// carry it: the sum is the number of jobs there are now.
    #[serde(default, rename = "g", skip_serializing_if = "gauge_is_empty")]
    pub gauge: [i64; 7],
    /// Transitions to each state of [`StateName::ALL`].
    #[serde(default, rename = "t", skip_serializing_if = "counts_are_empty")]
    pub to: [u64; 7],
    /// Transitions by reason.
    #[serde(default, rename = "r", skip_serializing_if = "BTreeMap::is_empty")]
    pub reasons: BTreeMap<Reason, u64>,
    /// How long claimed jobs had waited since they became claimable.
    #[serde(default, rename = "w", skip_serializing_if = "histogram_is_empty")]
    pub wait: Histogram,
    /// How long handlers ran.
    #[serde(default, rename = "x", skip_serializing_if = "histogram_is_empty")]
    pub run: Histogram,
}

fn gauge_is_empty(gauge: &[i64; 7]) -> bool {
    *gauge == [0; 7]
}

fn counts_are_empty(counts: &[u64; 7]) -> bool {
    *counts == [0; 7]
}

fn histogram_is_empty(histogram: &Histogram) -> bool {
    histogram.buckets.is_empty()
}

impl Tally {
    /// Adds another tally.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.gauge.iter_mut().zip(other.gauge) {
            *mine = mine.saturating_add(theirs);
        }
        for (mine, theirs) in self.to.iter_mut().zip(other.to) {
            *mine = mine.saturating_add(theirs);
        }
        for (reason, n) in &other.reasons {
            let mine = self.reasons.entry(*reason).or_default();
            *mine = mine.saturating_add(*n);
        }
        self.wait.add(&other.wait);
        self.run.add(&other.run);
    }

    /// Transitions to one state.
    pub fn transitions_to(&self, state: StateName) -> u64 {
        self.to[state.index()]
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What one writing call did, by queue and kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// The storage's clock at the call; its buckets follow from it.
    pub at: i64,
    /// One tally for each (queue, kind) that was touched.
    pub lanes: Vec<(Name, Name, Tally)>,
}

impl Delta {
    /// Nothing yet, at `at`.
    pub fn at(at: Timestamp) -> Self {
        Self { at: at.as_micros(), lanes: Vec::new() }
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// The tally of a lane. A call touches few lanes, so they are searched in turn.
    pub fn lane(&mut self, queue: &Name, kind: &Name) -> &mut Tally {
        let found = self.lanes.iter().position(|(q, k, _)| q == queue && k == kind);
        let index = found.unwrap_or_else(|| {
            self.lanes.push((queue.clone(), kind.clone(), Tally::default()));
            self.lanes.len() - 1
        });
        &mut self.lanes[index].2
    }

    /// Counts a transition. `from` is `None` for a new job.
    ///
    /// Claims are not counted when they happen but when they end: see
    /// [`count_end_of_claim`](Self::count_end_of_claim).
    pub fn count(
        &mut self,
        queue: &Name,
        kind: &Name,
        from: Option<StateName>,
        to: StateName,
        reason: Reason,
    ) {
        let tally = self.lane(queue, kind);
        if let Some(from) = from {
            tally.gauge[from.index()] -= 1;
        }
        tally.gauge[to.index()] += 1;
        tally.to[to.index()] += 1;
        *tally.reasons.entry(reason).or_default() += 1;
    }

    /// Counts a claim and its end by settle or rescue, in one: the gauge goes from Enqueued to
    /// where the job is now, since the claim itself wrote no statistics; `wait` and `run` go into
    /// the histograms.
    pub fn count_end_of_claim(
        &mut self,
        queue: &Name,
        kind: &Name,
        to: StateName,
        reason: Reason,
        wait: Option<Duration>,
        run: Option<Duration>,
    ) {
        self.count(queue, kind, Some(StateName::Enqueued), to, reason);
        let tally = self.lane(queue, kind);
        tally.to[StateName::Processing.index()] += 1;
        *tally.reasons.entry(Reason::Claimed).or_default() += 1;
        if let Some(wait) = wait {
            tally.wait.record(wait);
        }
        if let Some(run) = run {
            tally.run.record(run);
        }
    }

    /// Counts the removal of a job.
    pub fn count_removed(&mut self, queue: &Name, kind: &Name, from: StateName) {
        self.lane(queue, kind).gauge[from.index()] -= 1;
    }

    /// Counts a job that came from another storage in its state, without a transition.
    pub fn count_imported(&mut self, queue: &Name, kind: &Name, state: StateName) {
        self.lane(queue, kind).gauge[state.index()] += 1;
    }

    /// Counts a job that went to another queue in its state.
    pub fn count_moved(&mut self, from: &Name, to: &Name, kind: &Name, state: StateName) {
        self.lane(from, kind).gauge[state.index()] -= 1;
        self.lane(to, kind).gauge[state.index()] += 1;
    }

    /// What a fold adds, and where: each cell once.
    pub fn cells(&self) -> Vec<(Cell, Tally)> {
        let mut cells: BTreeMap<Cell, Tally> = BTreeMap::new();
        let at = Timestamp::from_micros(self.at);
        for (queue, kind, tally) in &self.lanes {
            for scope in [Scope::Total, Scope::Queue(queue.clone()), Scope::Kind(kind.clone())] {
                for step in Step::ALL {
                    // By the minute only the total and the queues, without histograms.
                    if step == Step::Minute && matches!(scope, Scope::Kind(_)) {
                        continue;
                    }
                    let mut tally = tally.clone();
                    if step != Step::AllTime {
                        tally.gauge = [0; 7];
                    }
                    if step != Step::Hour {
                        tally.wait = Histogram::default();
                        tally.run = Histogram::default();
                    }
                    if tally.is_empty() {
                        continue;
                    }
                    let cell = Cell { scope: scope.clone(), step, bucket: step.bucket(at) };
                    cells.entry(cell).or_default().add(&tally);
                }
            }
        }
        cells.into_iter().collect()
    }
}

/// What statistics are kept for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// All jobs.
    Total,
    /// The jobs of a queue.
    Queue(Name),
    /// The jobs of a kind.
    Kind(Name),
}

/// The span of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Since the beginning; one bucket.
    AllTime,
    /// Minutes, kept 72 hours; total and queues.
    Minute,
    /// Hours, kept 90 days; with histograms, which are kept 72 hours.
    Hour,
    /// Days (UTC), kept 400 days.
    Day,
}

impl Step {
    /// All four.
    pub const ALL: [Self; 4] = [Self::AllTime, Self::Minute, Self::Hour, Self::Day];

    /// The length of a bucket in microseconds; zero for all time.
    const fn micros(self) -> i64 {
        match self {
            Self::AllTime => 0,
            Self::Minute => 60_000_000,
            Self::Hour => 3_600_000_000,
            Self::Day => 86_400_000_000,
        }
    }

    /// The start of the bucket that holds `at`.
    pub const fn bucket(self, at: Timestamp) -> Timestamp {
        match self.micros() {
            0 => Timestamp::MIN,
            length => {
                Timestamp::from_micros(at.as_micros().div_euclid(length).saturating_mul(length))
            }
        }
    }

    /// How long buckets are kept; `None` forever.
    pub const fn kept(self) -> Option<Duration> {
        const HOUR: u64 = 3600;
        match self {
            Self::AllTime => None,
            Self::Minute => Some(Duration::from_secs(72 * HOUR)),
            Self::Hour => Some(Duration::from_secs(90 * 24 * HOUR)),
            Self::Day => Some(Duration::from_secs(400 * 24 * HOUR)),
        }
    }
}

/// One place where tallies are added up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell {
    /// For what.
    pub scope: Scope,
    /// By which span.
    pub step: Step,
    /// The start of the span.
    pub bucket: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::from_stored(text)
    }

    #[test]
    fn buckets_grow_and_durations_fall_into_them() {
        assert!(BUCKET_MS.windows(2).all(|pair| pair[0] < pair[1]));
        let mut histogram = Histogram::default();
        for millis in [1, 20, 21, 400_000] {
            histogram.record(Duration::from_millis(millis));
        }
        assert_eq!((histogram.buckets[0], histogram.buckets[1], histogram.buckets[25]), (2, 1, 1));
        assert_eq!(histogram.quantile(0.5), Some(Duration::from_millis(20)));
        assert_eq!(histogram.quantile(1.0), Some(Duration::from_millis(335_000)));
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn a_claim_is_counted_with_its_end() {
        let at = Timestamp::from_micros(90_000_000);
        let mut delta = Delta::at(at);
        let (queue, kind) = (name("q"), name("k"));
        delta.count(&queue, &kind, None, StateName::Enqueued, Reason::Submitted);
        let wait = Some(Duration::from_secs(1));
        delta.count_end_of_claim(&queue, &kind, StateName::Succeeded, Reason::Done, wait, None);
        let cells: BTreeMap<_, _> = delta.cells().into_iter().collect();
        let all =
            &cells[&Cell { scope: Scope::Total, step: Step::AllTime, bucket: Timestamp::MIN }];
        assert_eq!(all.gauge, [0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(all.to, [0, 0, 1, 1, 1, 0, 0]);
        let minute = Cell {
            scope: Scope::Queue(queue),
            step: Step::Minute,
            bucket: Timestamp::from_micros(60_000_000),
        };
        assert_eq!(cells[&minute].to, all.to);
        assert!(
            !cells.keys().any(|c| c.step == Step::Minute && c.scope == Scope::Kind(kind.clone()))
        );
        let hour = Cell { scope: Scope::Kind(kind), step: Step::Hour, bucket: Timestamp::MIN };
        assert_eq!(cells[&hour].wait.count(), 1);
    }

    #[test]
    fn deltas_survive_json() {
        let mut delta = Delta::at(Timestamp::from_micros(7));
        delta.count(&name("q"), &name("k"), None, StateName::Scheduled, Reason::Delay);
        let text = serde_json::to_string(&delta).expect("serialises");
        assert_eq!(serde_json::from_str::<Delta>(&text).expect("parses"), delta);
    }
}
