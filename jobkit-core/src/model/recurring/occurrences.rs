//! What a schedule has fired, what it fires next, and what is dropped when it changes. Pure: every
//! storage applies the same.

use serde::{Deserialize, Serialize};

use super::{NextRun, RecurringRecord, RecurringRun, RecurringSpec, RunOutcome};
use crate::model::clock::Timestamp;

/// The most occurrences that one recorded range counts.
pub(crate) const RANGE: u32 = 10_000;

/// Which occurrences were fired: spans of time in order, at most [`Fired::SPANS`].
///
/// The latest fired instant alone does not say it. A clock that was ahead leaves occurrences that were
/// fired beyond others that are still to come, and each is fired once (G10).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fired(Vec<(Timestamp, Timestamp)>);

impl Fired {
    /// The most spans that are kept. Beyond that the oldest two become one, so what lies between them is
    /// not fired any more.
    pub const SPANS: usize = 8;

    /// Whether nothing was fired, or nothing was recorded of it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The end of the span that holds an instant.
    fn through(&self, at: Timestamp) -> Option<Timestamp> {
        let span = self.0.iter().rev().find(|(from, _)| *from <= at);
        span.map(|(_, through)| *through).filter(|through| *through >= at)
    }

    /// Adds an occurrence: it joins a span when the schedule names nothing between them.
    fn add(&mut self, spec: &RecurringSpec, at: Timestamp) {
        if self.through(at).is_some() {
            return;
        }
        let touches = |earlier: Timestamp, later: Timestamp| {
            let between = spec.schedule.next_after(earlier, spec.time_zone);
            between.is_none_or(|between| between >= later)
        };
        let index = self.0.partition_point(|(_, through)| *through < at);
        let joins_next = self.0.get(index).is_some_and(|(from, _)| touches(at, *from));
        let joins_last = index > 0 && touches(self.0[index - 1].1, at);
        match (joins_last, joins_next) {
            (true, true) => {
                let (_, through) = self.0.remove(index);
                self.0[index - 1].1 = through;
            }
            (true, false) => self.0[index - 1].1 = at,
            (false, true) => self.0[index].0 = at,
            (false, false) => self.0.insert(index, (at, at)),
        }
        while self.0.len() > Self::SPANS {
            let (from, _) = self.0.remove(0);
            self.0[0].0 = from;
        }
    }
}

impl RecurringRecord {
    /// Whether the occurrence at `at` was fired before, as far as is known.
    pub fn has_fired(&self, at: Timestamp, now: Timestamp) -> bool {
        self.fired_through(at, now).is_some()
    }

    /// The end of the span of fired occurrences that holds an instant.
    pub(crate) fn fired_through(&self, at: Timestamp, now: Timestamp) -> Option<Timestamp> {
        self.fired_as_known(now).through(at)
    }

    /// An older release recorded the latest instant alone. Unless that lies ahead of the clock, everything
    /// before it is taken as fired.
    fn fired_as_known(&self, now: Timestamp) -> std::borrow::Cow<'_, Fired> {
        match self.last_nominal_at.filter(|_| self.fired.is_empty()) {
            Some(last) => {
                let from = if last <= now { Timestamp::MIN } else { last };
                std::borrow::Cow::Owned(Fired(vec![(from, last)]))
            }
            None => std::borrow::Cow::Borrowed(&self.fired),
        }
    }

    /// The first occurrence after `after` that was not fired.
    pub fn next_after(&self, after: Timestamp, now: Timestamp) -> Option<NextRun> {
        let mut next = self.spec.next_after(after)?;
        // As often as there are spans, at most.
        while let Some(through) = self.fired_through(next.nominal_at, now) {
            next = self.spec.next_after(through)?;
        }
        Some(next)
    }

    /// The next occurrence as it should be, where the stored one lies beyond it: it was computed while the
    /// clock was ahead, and the clock has gone back.
    pub fn recomputed_next(&self, now: Timestamp) -> Option<NextRun> {
        let first = self.next_after(now, now)?;
        is_earlier(Some(first), self.next).then_some(first)
    }

    /// Notes that what was due up to `through` is skipped, if anything, and that `next` comes next.
    pub(crate) fn skip_through(
        &mut self,
        through: Option<Timestamp>,
        next: Option<NextRun>,
        now: Timestamp,
    ) {
        // As it was known, before the latest instant changes.
        if self.fired.is_empty() {
            self.fired = self.fired_as_known(now).into_owned();
        }
        self.next = next;
        if through.is_some() {
            self.last_nominal_at = through;
        }
    }

    /// Notes an occurrence that was fired, or met by what stood in its way.
    pub fn note_fired(&mut self, at: Timestamp) {
        self.fired.add(&self.spec, at);
        self.last_nominal_at = Some(at);
    }

    /// The next occurrence after the same definition was saved again with `given`: the earlier one, so that
    /// saving revives a schedule whose next occurrence was computed while the clock was ahead.
    pub fn next_if_unchanged(&self, given: Option<NextRun>) -> Option<NextRun> {
        if is_earlier(given, self.next) { given } else { self.next }
    }

    /// The next occurrence after another definition took this one's place, and what is recorded of those
    /// that were due: with the same instants they stay due, otherwise they are recorded as replaced.
    pub fn next_if_replaced(
        &self,
        by: &RecurringSpec,
        given: Option<NextRun>,
        now: Timestamp,
    ) -> (Option<NextRun>, Vec<RecurringRun>) {
        // What waits for its jitter is not in what is given any more.
        if self.next.is_none_or(|next| next.nominal_at > now) {
            return (given, Vec::new());
        }
        if self.spec.names_the_same_instants(by) {
            return (self.next, Vec::new());
        }
        (given, self.dropped(&RunOutcome::Replaced, now))
    }

    /// The occurrences that are due and will not be fired any more, with their reason: those in a pause as
    /// paused. Of a very long range the first 10,000 are counted.
    pub fn dropped(&self, reason: &RunOutcome, now: Timestamp) -> Vec<RecurringRun> {
        let mut ranges = Ranges::default();
        let mut at = self.next;
        let mut seen = 0;
        while let Some(next) = at.filter(|next| next.nominal_at <= now) {
            if let Some(through) = self.fired_through(next.nominal_at, now) {
                ranges.split();
                at = self.spec.next_after(through);
                continue;
            }
            let paused = self.fell_into_pause(&next);
            let outcome = if paused { RunOutcome::Paused } else { reason.clone() };
            ranges.add(next.nominal_at, outcome, now);
            at = self.spec.next_after(next.nominal_at);
            seen += 1;
            if seen >= RANGE {
                let (schedule, zone) = (&self.spec.schedule, self.spec.time_zone);
                ranges.end_at(schedule.last_until(next.nominal_at, now, zone));
                break;
            }
        }
        ranges.all
    }

    /// Whether an occurrence came due while the schedule was paused.
    pub(crate) fn fell_into_pause(&self, next: &NextRun) -> bool {
        self.pause.as_ref().is_some_and(|pause| {
            next.due_at >= pause.since && pause.until.is_none_or(|until| next.due_at < until)
        })
    }
}

impl RecurringSpec {
    /// Whether both definitions are due at the same instants, whatever they create then.
    fn names_the_same_instants(&self, other: &Self) -> bool {
        self.schedule == other.schedule
            && self.time_zone == other.time_zone
            && self.starts_at == other.starts_at
            && self.ends_at == other.ends_at
    }
}

/// Whether an occurrence comes before another one; none is later than any.
fn is_earlier(one: Option<NextRun>, other: Option<NextRun>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.nominal_at < other.nominal_at,
        (one, None) => one.is_some(),
        (None, Some(_)) => false,
    }
}

/// Skipped occurrences, neighbours with one reason as one range.
#[derive(Debug, Default)]
pub(crate) struct Ranges {
    pub(crate) all: Vec<RecurringRun>,
    split: bool,
}

impl Ranges {
    pub(crate) fn add(&mut self, nominal_at: Timestamp, outcome: RunOutcome, now: Timestamp) {
        let split = std::mem::take(&mut self.split);
        match self.all.last_mut() {
            Some(range) if range.outcome == outcome && range.count < RANGE && !split => {
                range.through = nominal_at;
                range.count += 1;
            }
            _ => {
                self.all.push(RecurringRun {
                    nominal_at,
                    through: nominal_at,
                    count: 1,
                    outcome,
                    at: now,
                });
            }
        }
    }

    /// What follows is no neighbour of what came before: something between them was fired.
    pub(crate) fn split(&mut self) {
        self.split = true;
    }

    fn end_at(&mut self, through: Timestamp) {
        if let Some(range) = self.all.last_mut() {
            range.through = range.through.max(through);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::recurring::testing::{at, every_minute};
    use crate::model::recurring::{Misfire, Pause};
    use crate::model::schedule::Schedule;

    const DAYS: i64 = 86_400;

    fn run(at: Timestamp) -> NextRun {
        NextRun { nominal_at: at, due_at: at }
    }

    #[test]
    fn what_was_fired_ahead_of_the_clock_is_known_and_what_lies_before_it_is_not() {
        let mut record = every_minute(Misfire::RunOnce);
        for minute in [1, 2, 3] {
            record.note_fired(at(60 * minute));
        }
        for minute in [0, 1] {
            record.note_fired(at(30 * DAYS + 60 * minute));
        }
        record.next = Some(run(at(30 * DAYS + 120)));
        let now = at(200);
        let fired = |seconds| record.has_fired(at(seconds), now);
        assert!(fired(60) && fired(180) && fired(30 * DAYS) && fired(30 * DAYS + 60));
        assert!(!fired(0) && !fired(240) && !fired(30 * DAYS - 60) && !fired(30 * DAYS + 120));
        assert_eq!(record.recomputed_next(now), Some(run(at(240))));
        // Years later it steps over what it fired then.
        let next = record.next_after(at(30 * DAYS - 60), now).expect("goes on");
        assert_eq!(next.nominal_at, at(30 * DAYS + 120));
        // The gap closes as it is fired, and then it is one span.
        record.note_fired(at(240));
        assert_eq!(record.fired.0.len(), 2);
        assert_eq!(record.last_nominal_at, Some(at(240)));
    }

    #[test]
    fn a_schedule_that_is_where_it_should_be_is_not_recomputed() {
        let mut record = every_minute(Misfire::RunOnce);
        assert_eq!(record.recomputed_next(at(0)), None);
        // Due, and not fired yet.
        assert_eq!(record.recomputed_next(at(1_000)), None);
        record.note_fired(at(60));
        record.next = Some(run(at(120)));
        // Back by less than an occurrence.
        assert_eq!(record.recomputed_next(at(30)), None);
        record.next = None;
        assert_eq!(record.recomputed_next(at(30)), Some(run(at(120))));
    }

    #[test]
    fn spans_are_few_and_nothing_is_forgotten() {
        let mut record = every_minute(Misfire::RunOnce);
        for gap in 0..20 {
            record.note_fired(at(600 * gap));
        }
        assert_eq!(record.fired.0.len(), Fired::SPANS);
        assert!((0..20).all(|gap| record.has_fired(at(600 * gap), at(0))));
    }

    #[test]
    fn of_an_older_release_the_latest_instant_counts_with_what_came_before() {
        let mut record = every_minute(Misfire::RunOnce);
        record.last_nominal_at = Some(at(600));
        assert!(record.has_fired(at(60), at(700)) && record.has_fired(at(600), at(700)));
        assert!(!record.has_fired(at(660), at(700)));
        // Unless the clock has gone back since.
        assert!(record.has_fired(at(600), at(100)) && !record.has_fired(at(540), at(100)));
    }

    #[test]
    fn what_is_due_survives_another_job_and_is_recorded_with_another_schedule() {
        let record = every_minute(Misfire::RunOnce);
        let (now, given) = (at(605), Some(run(at(660))));
        let same = RecurringSpec { misfire: Misfire::Skip, ..record.spec.clone() };
        assert_eq!(record.next_if_replaced(&same, given, now), (record.next, Vec::new()));
        let hourly = Schedule::cron("0 * * * *").expect("valid");
        let other = RecurringSpec { schedule: hourly, ..record.spec.clone() };
        let (next, skipped) = record.next_if_replaced(&other, given, now);
        assert_eq!(next, given);
        let [range] = skipped.as_slice() else { panic!("{skipped:?}") };
        assert_eq!((range.nominal_at, range.through, range.count), (at(60), at(600), 10));
        assert_eq!(range.outcome, RunOutcome::Replaced);
        assert_eq!(record.next_if_replaced(&other, given, at(59)), (given, Vec::new()));
    }

    #[test]
    fn what_came_in_a_pause_is_dropped_as_paused() {
        let mut record = every_minute(Misfire::RunOnce);
        record.pause = Some(Pause { since: at(130), ..Pause::new("ann", "x") });
        let dropped = record.dropped(&RunOutcome::Misfired, at(305));
        let told: Vec<_> = dropped.iter().map(|range| (range.count, &range.outcome)).collect();
        assert_eq!(told, [(2, &RunOutcome::Misfired), (3, &RunOutcome::Paused)]);
    }

    #[test]
    fn a_range_of_years_ends_where_it_ends() {
        let mut record = every_minute(Misfire::RunOnce);
        record.spec.schedule = Schedule::every(Duration::from_secs(1)).expect("valid");
        let dropped = record.dropped(&RunOutcome::Replaced, at(400 * DAYS));
        let [range] = dropped.as_slice() else { panic!("{dropped:?}") };
        assert_eq!((range.count, range.through), (RANGE, at(400 * DAYS)));
    }
}
