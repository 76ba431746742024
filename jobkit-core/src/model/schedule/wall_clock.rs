//! From the wall clock to instants, for every dialect of cron.
//!
//! Ours because the crates differ and neither is right: `croner` takes every list of times for an
//! interval, so that `0 2,14 * * *` would run twice in autumn and be lost in spring; `cron` loses what
//! is skipped in spring, and fires twice in autumn.

use chrono::{DateTime, LocalResult, NaiveDateTime, TimeZone as _, Timelike, Utc};
use chrono_tz::Tz;

/// How often a search may jump over a clock change before it gives up; each jump passes one, and
/// none hides more than a day.
const MAX_JUMPS: usize = 64;

/// How a schedule goes through changes of the clock.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    /// Whether it runs every hour, or has a second, minute or hour written with `*` or a step: it
    /// goes on through both passes of a repeated hour.
    pub(super) is_interval: bool,
    /// Whether it runs in every hour of the day: an hour that does not exist is no loss.
    pub(super) is_hourly: bool,
}

/// A schedule on a wall clock that is never changed.
pub(super) struct WallClock<F> {
    pub(super) pace: Pace,
    /// The first matching time after one, or from it on if inclusive.
    pub(super) next: F,
}

impl<F: Fn(NaiveDateTime, bool) -> Option<NaiveDateTime>> WallClock<F> {
    /// The first instant after `after` in `tz`.
    ///
    /// The wall clock passes a repeated hour once, so the second pass of an interval is searched
    /// apart, and the nearer answer taken.
    pub(super) fn next_after(&self, after: DateTime<Utc>, tz: Tz) -> Option<DateTime<Utc>> {
        let ahead = self.next_ahead(after, tz);
        let repeated = self.next_repeated(after, tz);
        [ahead, repeated].into_iter().flatten().min()
    }

    /// The first instant whose wall-clock time is later than the one of `after`.
    fn next_ahead(&self, after: DateTime<Utc>, tz: Tz) -> Option<DateTime<Utc>> {
        let mut from = wall_clock(after, tz);
        let mut inclusive = false;
        for _ in 0..MAX_JUMPS {
            let at = (self.next)(from, inclusive)?;
            from = match tz.from_local_datetime(&at) {
                LocalResult::Single(instant) => return Some(instant.to_utc()),
                LocalResult::Ambiguous(first, second) => {
                    let (first, second) = (first.to_utc(), second.to_utc());
                    if first > after {
                        return Some(first);
                    }
                    if self.pace.is_interval {
                        return Some(second);
                    }
                    // Fixed times ran in the first pass: go on where the second one ends.
                    let offset = wall_clock(first, tz) - first.naive_utc();
                    clock_change(first, second, tz)?.naive_utc() + offset
                }
                LocalResult::None => {
                    let end = gap_end(at, tz)?;
                    if !self.pace.is_hourly {
                        return Some(end);
                    }
                    wall_clock(end, tz)
                }
            };
            inclusive = true;
        }
        None
    }

    /// If `after` is in the first pass of a repeated hour: the first instant in the second pass.
    fn next_repeated(&self, after: DateTime<Utc>, tz: Tz) -> Option<DateTime<Utc>> {
        if !self.pace.is_interval {
            return None;
        }
        let wall = wall_clock(after, tz);
        let LocalResult::Ambiguous(first, second) = tz.from_local_datetime(&wall) else {
            return None;
        };
        if after >= second.to_utc() {
            return None;
        }
        let start = clock_change(first.to_utc(), second.to_utc(), tz)?;
        let at = (self.next)(wall_clock(start, tz), true)?;
        match tz.from_local_datetime(&at) {
            LocalResult::Ambiguous(_, again) => Some(again.to_utc()),
            _ => None,
        }
    }
}

/// What the wall clock shows, in whole seconds.
fn wall_clock(at: DateTime<Utc>, tz: Tz) -> NaiveDateTime {
    let wall = at.with_timezone(&tz).naive_local();
    wall.with_nanosecond(0).unwrap_or(wall)
}

/// The instant between `first` and `second`, the two that one wall-clock time names, at which the
/// clock is put back.
fn clock_change(first: DateTime<Utc>, second: DateTime<Utc>, tz: Tz) -> Option<DateTime<Utc>> {
    let before = wall_clock(first, tz) - first.naive_utc();
    first_second(first.timestamp(), second.timestamp(), |t| {
        wall_clock(t, tz) - t.naive_utc() != before
    })
}

/// The first instant after the gap in which the wall-clock time `skipped` lies.
fn gap_end(skipped: NaiveDateTime, tz: Tz) -> Option<DateTime<Utc>> {
    // No zone is a day away from UTC, and no gap is longer than one: Samoa, 30 December 2011.
    const TWO_DAYS: i64 = 2 * 24 * 60 * 60;
    let near = skipped.and_utc().timestamp();
    first_second(near - TWO_DAYS, near + TWO_DAYS, |t| wall_clock(t, tz) >= skipped)
}

/// The first second after `low`, at most `high`, for which `is_past` holds, given that it holds from
/// there on.
fn first_second(
    mut low: i64,
    mut high: i64,
    is_past: impl Fn(DateTime<Utc>) -> bool,
) -> Option<DateTime<Utc>> {
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if is_past(DateTime::from_timestamp(middle, 0)?) {
            high = middle;
        } else {
            low = middle;
        }
    }
    DateTime::from_timestamp(high, 0)
}
