//! Limits: how many jobs may run at the same time under a name, or start in a window (G13).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::bounds::{LIMIT_HOLDERS, RATE_WINDOW};
use crate::model::clock::Timestamp;
use crate::model::error::{Error, Result};
use crate::model::name::check_label;

/// A limit that a job runs under, with its default.
///
/// The first submit that names the limit defines it; an operator's value wins from then on.
/// A mutex is a limit of one. With a window it is a rate limit.
///
/// # Example: five at once, and no more than a hundred a minute
/// ```
/// use std::time::Duration;
/// use jobkit::limit::{Limit, Window};
///
/// let at_once = Limit::new("smtp", 5);
/// let a_minute = Limit::rate("smtp:minute", 100, Window::Sliding(Duration::from_secs(60)));
/// assert_eq!(at_once.window, None);
/// # a_minute.check()?;
/// # Ok::<(), jobkit::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Limit {
    /// The name, such as `smtp` or `acme:17`: 1 to 200 bytes of any text.
    pub name: String,
    /// How many may run at once, or start in a window, unless an operator set another number.
    pub max: u32,
    /// Counts starts in a window instead of running jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
}

/// The window of a rate limit: 1 s to 31 days, counted in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Window {
    /// Windows follow each other from 1970-01-01T00:00:00Z on, each of this length: a day's begins at
    /// midnight UTC. Around the end of one, twice the number may start within one length.
    Fixed(Duration),
    /// The window of this length ends now, always: no span of that length sees more starts.
    Sliding(Duration),
}

impl Window {
    /// Its length.
    pub fn length(self) -> Duration {
        match self {
            Self::Fixed(length) | Self::Sliding(length) => length,
        }
    }

    /// The instant for which a start is noted: it counts until this instant and the length together,
    /// and no longer. For a sliding window the instant of the start, for a fixed one the beginning of
    /// the window that it falls into.
    pub fn counts_from(self, start: Timestamp) -> Timestamp {
        match self {
            Self::Sliding(_) => start,
            Self::Fixed(length) => {
                let length = i64::try_from(length.as_micros()).unwrap_or(i64::MAX).max(1);
                Timestamp::from_micros(start.as_micros().div_euclid(length).saturating_mul(length))
            }
        }
    }
}

impl Limit {
    /// At most `max` jobs of this name at once.
    pub fn new(name: impl Into<String>, max: u32) -> Self {
        Self { name: name.into(), max, window: None }
    }

    /// At most `max` starts of jobs of this name in a window. Every attempt is a start, and none is
    /// given back.
    pub fn rate(name: impl Into<String>, max: u32, window: Window) -> Self {
        Self { name: name.into(), max, window: Some(window) }
    }

    /// Checks name, number and window (G20).
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput).
    pub fn check(&self) -> Result<()> {
        check_label("limit", &self.name)?;
        if let Some(window) = self.window.filter(|it| !RATE_WINDOW.contains(&it.length())) {
            return Err(Error::invalid(
                "limit",
                format_args!(
                    "has a window of {:?}, where 1 s to 31 days are allowed",
                    window.length()
                ),
            ));
        }
        check_holders(self.max)
    }
}

/// Whether a limit may have this many holders.
pub(crate) fn check_holders(max: u32) -> Result<()> {
    if max == 0 || max > LIMIT_HOLDERS {
        return Err(Error::invalid(
            "limit",
            format_args!("has the number {max}, where 1 to {LIMIT_HOLDERS} are allowed"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_windows_follow_each_other_from_the_epoch() {
        let fixed = Window::Fixed(Duration::from_secs(10));
        for (at, from) in [(0, 0), (9_999_999, 0), (10_000_000, 10_000_000), (-1, -10_000_000)] {
            assert_eq!(fixed.counts_from(Timestamp::from_micros(at)).as_micros(), from, "{at}");
        }
        let sliding = Window::Sliding(Duration::from_secs(10));
        assert_eq!(sliding.counts_from(Timestamp::from_micros(17)).as_micros(), 17);
    }

    #[test]
    fn windows_out_of_range_are_refused() {
        for (seconds, fits) in
            [(0, false), (1, true), (31 * 86_400, true), (31 * 86_400 + 1, false)]
        {
            for window in [Window::Fixed, Window::Sliding] {
                let limit = Limit::rate("l", 1, window(Duration::from_secs(seconds)));
                assert_eq!(limit.check().is_ok(), fits, "{limit:?}");
            }
        }
    }
}
