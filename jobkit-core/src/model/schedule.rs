//! When something recurs: crontab expressions and fixed intervals, in a time zone.
//!
//! A [`Schedule`] is a value without a clock: it answers which instant comes after another one.

mod crontab;
mod quartz;
#[cfg(test)]
mod tests;
mod time_zone;
mod wall_clock;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::crontab::Crontab;
use self::quartz::Quartz;
pub use self::time_zone::TimeZone;
use crate::model::clock::Timestamp;
use crate::model::error::{Error, Result};

/// The longest cron expression that is accepted, in bytes.
pub const MAX_CRON_BYTES: usize = 200;
/// The shortest interval of [`Schedule::every`].
pub const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// The longest interval of [`Schedule::every`]: 366 days.
pub const MAX_INTERVAL: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// The most occurrences that [`Schedule::upcoming`] computes.
pub const MAX_UPCOMING: usize = 20;

/// A rule that says when something recurs.
///
/// Two schedules are equal when they were written alike; `@daily` and `0 0 * * *` fire together but
/// are not equal. White space at the ends and between fields does not count.
///
/// Serialized, a schedule is an object whose `type` is `cron` or `quartz` (with `expression`) or `every` (with
/// `interval_micros` and `anchor_at`). Reading one checks it as the constructors do.
///
/// # Example: the next three nights in Berlin
///
/// ```
/// use jobkit::Timestamp;
/// use jobkit::{Schedule, TimeZone};
///
/// # fn main() -> jobkit::Result<()> {
/// let nightly = Schedule::cron("0 2 * * *")?;
/// let berlin = TimeZone::parse("Europe/Berlin")?;
/// let new_year = Timestamp::from_micros(1_767_225_600_000_000);
/// let nights: Vec<String> =
///     nightly.upcoming(new_year, berlin, 3).iter().map(Timestamp::to_string).collect();
/// assert_eq!(nights[0], "2026-01-01T01:00:00.000000Z");
/// assert_eq!(nights.len(), 3);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct Schedule(Rule);

#[derive(Clone, PartialEq)]
enum Rule {
    Cron(Arc<Crontab>),
    Quartz(Arc<Quartz>),
    /// Both in microseconds; the interval is positive.
    Every {
        interval: i64,
        anchor: i64,
    },
}

/// What is stored.
#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Stored {
    Cron {
        expression: String,
    },
    Quartz {
        expression: String,
    },
    Every {
        interval_micros: u64,
        #[serde(default = "epoch")]
        anchor_at: Timestamp,
    },
}

fn epoch() -> Timestamp {
    Timestamp::MIN
}

impl Schedule {
    /// A schedule from a crontab expression, at most [`MAX_CRON_BYTES`] long.
    ///
    /// Five fields separated by white space, or six with the seconds first:
    ///
    /// | field | values | also |
    /// |---|---|---|
    /// | second (may be left out: 0) | 0–59 | |
    /// | minute | 0–59 | |
    /// | hour | 0–23 | |
    /// | day of month | 1–31 | `L` last day, `15W` weekday nearest to the 15th, `LW` last weekday, `?` |
    /// | month | 1–12, `JAN`–`DEC` | |
    /// | day of week | 0–7 (0 and 7 are Sunday), `SUN`–`SAT` | `5L` last Friday, `5#2` second Friday, `?` |
    ///
    /// Each field takes `*`, values, ranges `1-5`, steps `*/15` and `10-50/20`, and lists of them.
    /// When both day fields are restricted, a day matches that satisfies either; a field is
    /// unrestricted when it is `*`, `*/1` or `?`.
    /// Nicknames are `@yearly`, `@annually`, `@monthly`, `@weekly`, `@daily`, `@midnight` and
    /// `@hourly`. Names are read in upper and lower case.
    ///
    /// Where a clock is changed, as [cron(8)](https://manpages.debian.org/stable/cron/cron.8.en.html)
    /// does it:
    /// - A time that the clock skips in spring runs once, at the first instant after the gap. Several
    ///   skipped times run once together. A schedule for every hour of the day loses the hour that
    ///   does not exist and keeps its pace.
    /// - An hour that the clock repeats in autumn is passed once by fixed times, in its first pass.
    ///   An interval (every hour, or a second, minute or hour written with `*` or a step) goes on in
    ///   the second pass.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) that names the field and what is wrong with
    /// it; also when the expression can never fire, as on 30 February.
    ///
    /// # Example: a mistake is named
    ///
    /// ```
    /// use jobkit::Schedule;
    ///
    /// let error = Schedule::cron("0 1-100000000 * * *").map(drop);
    /// assert_eq!(
    ///     error.map_err(|e| e.to_string()),
    ///     Err("cron: hour: 100000000 is outside 0-23".to_owned())
    /// );
    /// ```
    pub fn cron(expression: &str) -> Result<Self> {
        Crontab::parse(expression).map(|crontab| Self(Rule::Cron(Arc::new(crontab))))
    }

    /// A schedule from an expression in the dialect of
    /// [Quartz](https://www.quartz-scheduler.org/documentation/quartz-2.3.0/tutorials/crontrigger.html),
    /// at most [`MAX_CRON_BYTES`] long: a subset, for schedules that are brought along. New ones are
    /// better written as [`cron`](Self::cron).
    ///
    /// Six fields, or seven with the year:
    ///
    /// | field | values |
    /// |---|---|
    /// | second | 0–59 |
    /// | minute | 0–59 |
    /// | hour | 0–23 |
    /// | day of month | 1–31, `?` |
    /// | month | 1–12, `JAN`–`DEC` |
    /// | day of week | **1–7, where 1 is Sunday**, `SUN`–`SAT`, `?` |
    /// | year (may be left out) | 1970–2100 |
    ///
    /// Each field takes `*`, values, ranges, steps `*/15`, `10-50/20` and `5/15` (from 5 on), and lists of
    /// them. **A day matches that satisfies both day fields.** `L`, `W` and `#` are not part of the
    /// subset. Changes of the clock are passed as by [`cron`](Self::cron).
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) that names the field and what is wrong with it;
    /// also when the expression can never fire.
    ///
    /// # Example: weekdays at nine
    ///
    /// ```
    /// use jobkit::Schedule;
    ///
    /// # fn main() -> jobkit::Result<()> {
    /// let weekdays = Schedule::quartz("0 0 9 ? * MON-FRI")?;
    /// assert_eq!(weekdays, Schedule::quartz("0 0 9 ? * MON-FRI")?);
    /// let error = Schedule::quartz("0 0 9 L * ?").map(drop);
    /// assert!(error.is_err_and(|error| error.to_string().contains("Schedule::cron")));
    /// # Ok(())
    /// # }
    /// ```
    pub fn quartz(expression: &str) -> Result<Self> {
        Quartz::parse(expression).map(|quartz| Self(Rule::Quartz(Arc::new(quartz))))
    }

    /// Every `interval`, counted from the Unix epoch.
    ///
    /// So every server computes the same instants, and every hour is on the hour in UTC.
    /// The interval is real time: time zones and clock changes have no influence.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for an interval that is shorter than
    /// [`MIN_INTERVAL`], longer than [`MAX_INTERVAL`], or not of whole microseconds.
    ///
    /// # Example: every ninety seconds
    ///
    /// ```
    /// use std::time::Duration;
    /// use jobkit::Timestamp;
    /// use jobkit::{Schedule, TimeZone};
    ///
    /// # fn main() -> jobkit::Result<()> {
    /// let often = Schedule::every(Duration::from_secs(90))?;
    /// let next = often.next_after(Timestamp::from_micros(100_000_000), TimeZone::UTC);
    /// assert_eq!(next, Some(Timestamp::from_micros(180_000_000)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn every(interval: Duration) -> Result<Self> {
        Self::every_from(interval, Timestamp::MIN)
    }

    /// Every `interval`, so that `anchor` is one of the instants.
    ///
    /// The anchor is a phase, not a start: instants before it count too.
    ///
    /// # Errors
    ///
    /// As [`every`](Self::every), and for an anchor outside the range of instants.
    pub fn every_from(interval: Duration, anchor: Timestamp) -> Result<Self> {
        if interval < MIN_INTERVAL || interval > MAX_INTERVAL {
            return Err(Error::invalid(
                "interval",
                format_args!(
                    "{interval:?} is outside {MIN_INTERVAL:?} to {} days",
                    MAX_INTERVAL.as_secs() / 86_400
                ),
            ));
        }
        if !interval.subsec_nanos().is_multiple_of(1000) {
            return Err(Error::invalid(
                "interval",
                format_args!("{interval:?} is not a whole number of microseconds"),
            ));
        }
        if !anchor.is_in_range() {
            return Err(Error::invalid(
                "anchor",
                format_args!("{anchor} is outside {} to {}", Timestamp::MIN, Timestamp::MAX),
            ));
        }
        let interval = i64::try_from(interval.as_micros())
            .map_err(|_| Error::invalid("interval", "is too long"))?;
        Ok(Self(Rule::Every { interval, anchor: anchor.as_micros() }))
    }

    /// The first instant after `after`, itself excluded, that the schedule names.
    ///
    /// `zone` is where a cron expression is read; an interval ignores it.
    /// An instant before 1970 counts as the beginning of 1970. `None` when nothing comes before
    /// [`Timestamp::MAX`], or for a cron expression before the year 5000.
    pub fn next_after(&self, after: Timestamp, zone: TimeZone) -> Option<Timestamp> {
        // One step before the range, so that its first instant can still be an answer.
        let after = after.max(Timestamp::from_micros(Timestamp::MIN.as_micros() - 1));
        if after >= Timestamp::MAX {
            return None;
        }
        let next = match &self.0 {
            Rule::Cron(crontab) => {
                Timestamp::from(crontab.next_after(after.to_chrono(), zone.tz())?)
            }
            Rule::Quartz(quartz) => {
                Timestamp::from(quartz.next_after(after.to_chrono(), zone.tz())?)
            }
            Rule::Every { interval, anchor } => {
                let passed = (after.as_micros() - anchor).rem_euclid(*interval);
                Timestamp::from_micros(after.as_micros().checked_add(interval - passed)?)
            }
        };
        next.is_in_range().then_some(next)
    }

    /// The last instant up to `until`, itself included; `from`, which is one, if none follows.
    pub(crate) fn last_until(
        &self,
        from: Timestamp,
        until: Timestamp,
        zone: TimeZone,
    ) -> Timestamp {
        // `low` is always an instant of the schedule, and none lies between `high` and `until`.
        let (mut low, mut high) = (from, until);
        let next = |after| self.next_after(after, zone).filter(|next| *next <= until);
        while let Some(following) = next(low) {
            let half = Timestamp::from_micros(
                low.as_micros() + (high.as_micros() - low.as_micros()).max(0) / 2,
            );
            match next(half) {
                Some(later) => low = later.max(following),
                None => {
                    low = following;
                    high = half;
                }
            }
        }
        low
    }

    /// All instants after `after`, in order.
    pub fn occurrences(
        &self,
        after: Timestamp,
        zone: TimeZone,
    ) -> impl Iterator<Item = Timestamp> + '_ {
        std::iter::successors(self.next_after(after, zone), move |last| {
            self.next_after(*last, zone)
        })
    }

    /// The next `n` instants after `after`, at most [`MAX_UPCOMING`].
    pub fn upcoming(&self, after: Timestamp, zone: TimeZone, n: usize) -> Vec<Timestamp> {
        self.occurrences(after, zone).take(n.min(MAX_UPCOMING)).collect()
    }

    /// The cron expression, with single spaces; `None` for an interval.
    pub fn expression(&self) -> Option<&str> {
        match &self.0 {
            Rule::Cron(crontab) => Some(crontab.text()),
            Rule::Quartz(quartz) => Some(quartz.text()),
            Rule::Every { .. } => None,
        }
    }

    /// The interval; `None` for a cron expression.
    pub fn interval(&self) -> Option<Duration> {
        match &self.0 {
            Rule::Cron(_) | Rule::Quartz(_) => None,
            Rule::Every { interval, .. } => Some(Duration::from_micros(interval.unsigned_abs())),
        }
    }
}

/// The expression itself, or `every` and the interval.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Rule::Cron(crontab) => f.write_str(crontab.text()),
            Rule::Quartz(quartz) => f.write_str(quartz.text()),
            Rule::Every { interval, .. } => {
                write!(f, "every {:?}", Duration::from_micros(interval.unsigned_abs()))
            }
        }
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Rule::Cron(crontab) => f.debug_tuple("Cron").field(&crontab.text()).finish(),
            Rule::Quartz(quartz) => f.debug_tuple("Quartz").field(&quartz.text()).finish(),
            Rule::Every { interval, anchor } => f
                .debug_struct("Every")
                .field("interval", &Duration::from_micros(interval.unsigned_abs()))
                .field("anchor", &Timestamp::from_micros(*anchor))
                .finish(),
        }
    }
}

impl From<Schedule> for Stored {
    fn from(schedule: Schedule) -> Self {
        match schedule.0 {
            Rule::Cron(crontab) => Self::Cron { expression: crontab.text().to_owned() },
            Rule::Quartz(quartz) => Self::Quartz { expression: quartz.text().to_owned() },
            Rule::Every { interval, anchor } => Self::Every {
                interval_micros: interval.unsigned_abs(),
                anchor_at: Timestamp::from_micros(anchor),
            },
        }
    }
}

impl TryFrom<Stored> for Schedule {
    type Error = Error;

    fn try_from(stored: Stored) -> Result<Self> {
        match stored {
            Stored::Cron { expression } => Self::cron(&expression),
            Stored::Quartz { expression } => Self::quartz(&expression),
            Stored::Every { interval_micros, anchor_at } => {
                Self::every_from(Duration::from_micros(interval_micros), anchor_at)
            }
        }
    }
}
