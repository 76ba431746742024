//! When a failed job runs again, and when it is given up.
//!
//! A [`RetryPolicy`] is pure: how often the job failed and a random number go in, a decision comes
//! out.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::error::{Error, Result};

/// How many failures a policy allows unless told: the first run and ten retries, as Hangfire.
pub const DEFAULT_MAX_ATTEMPTS: u32 = 11;
/// The most failures a policy may allow.
pub const MAX_ATTEMPTS: u32 = 1000;
/// The cap on a delay unless told: 7 days.
pub const DEFAULT_MAX_DELAY: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// The longest delay a policy may name: 366 days.
pub const MAX_RETRY_DELAY: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// The most delays of [`RetryPolicy::list`].
pub const MAX_LISTED_DELAYS: usize = 100;

/// What happens to a job that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryDecision {
    /// It runs again after this delay; zero means at once.
    RetryAfter(Duration),
    /// It has failed as often as it may.
    GiveUp,
}

/// How long a job waits after each failure, and how many failures end it.
///
/// Constructors and setters take any value; what is out of range is reported by
/// [`validate`](Self::validate), which is called where a policy is handed over, so that all mistakes
/// are reported together. [`next`](Self::next) answers sensibly for any value.
///
/// The default is [`polynomial`](Self::polynomial).
///
/// Serialized, a policy is an object whose `type` names the rule: `polynomial`, `exponential`, `fixed`
/// or `list`; delays are in microseconds. Reading one checks it.
///
/// # Example: three quick tries, then one a minute later
///
/// ```
/// use std::time::Duration;
/// use jobkit::RetryPolicy;
/// use jobkit::retry::RetryDecision;
///
/// # fn main() -> jobkit::Result<()> {
/// let second = Duration::from_secs(1);
/// let policy = RetryPolicy::list([second, second, 60 * second]).max_attempts(4);
/// policy.validate()?;
/// assert_eq!(policy.next(1, 0.0), RetryDecision::RetryAfter(second));
/// assert_eq!(policy.next(3, 0.0), RetryDecision::RetryAfter(60 * second));
/// assert_eq!(policy.next(4, 0.0), RetryDecision::GiveUp);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct RetryPolicy {
    delays: Delays,
    max_attempts: u32,
    max_delay: Duration,
}

#[derive(Clone, Debug, PartialEq)]
enum Delays {
    Polynomial,
    Exponential { base: Duration, factor: f64 },
    Fixed(Duration),
    List(Vec<Duration>),
}

impl RetryPolicy {
    fn new(delays: Delays) -> Self {
        Self { delays, max_attempts: DEFAULT_MAX_ATTEMPTS, max_delay: DEFAULT_MAX_DELAY }
    }

    /// After the n-th failure (n − 1)⁴ + 15 + n × (0 to 30) seconds, the last part at random. The default.
    ///
    /// From a quarter of a minute to about two hours at the tenth failure. The formula is
    /// [Hangfire's](https://github.com/HangfireIO/Hangfire/blob/main/src/Hangfire.Core/AutomaticRetryAttribute.cs),
    /// which took it from delayed_job.
    ///
    /// # Example: the random part keeps jobs that failed together apart
    ///
    /// ```
    /// use std::time::Duration;
    /// use jobkit::RetryPolicy;
    /// use jobkit::retry::RetryDecision::RetryAfter;
    ///
    /// let policy = RetryPolicy::polynomial();
    /// assert_eq!(policy.next(3, 0.0), RetryAfter(Duration::from_secs(16 + 15)));
    /// assert_eq!(policy.next(3, 0.5), RetryAfter(Duration::from_secs(16 + 15 + 45)));
    /// ```
    pub fn polynomial() -> Self {
        Self::new(Delays::Polynomial)
    }

    /// `base` after the first failure, then `factor` times as long after each, up to `max`.
    ///
    /// `base` from 0 to [`MAX_RETRY_DELAY`], `factor` from 1 to 1000, `max` as
    /// [`max_delay`](Self::max_delay), and at least `base`. With a factor of 1 the delay stays the
    /// same.
    ///
    /// # Example: one second doubled up to a minute
    ///
    /// ```
    /// use std::time::Duration;
    /// use jobkit::RetryPolicy;
    /// use jobkit::retry::RetryDecision::RetryAfter;
    ///
    /// let policy =
    ///     RetryPolicy::exponential(Duration::from_secs(1), 2.0, Duration::from_secs(60));
    /// assert_eq!(policy.next(4, 0.0), RetryAfter(Duration::from_secs(8)));
    /// assert_eq!(policy.next(10, 0.0), RetryAfter(Duration::from_secs(60)));
    /// ```
    pub fn exponential(base: Duration, factor: f64, max: Duration) -> Self {
        Self::new(Delays::Exponential { base, factor }).max_delay(max)
    }

    /// The same `delay` after each failure, from 0 to [`MAX_RETRY_DELAY`].
    ///
    /// A delay longer than the default cap raises the cap.
    ///
    /// # Example: every ten seconds, five times
    ///
    /// ```
    /// use std::time::Duration;
    /// use jobkit::RetryPolicy;
    /// use jobkit::retry::RetryDecision;
    ///
    /// let policy = RetryPolicy::fixed(Duration::from_secs(10)).max_attempts(5);
    /// assert_eq!(policy.next(4, 0.9), RetryDecision::RetryAfter(Duration::from_secs(10)));
    /// assert_eq!(policy.next(5, 0.9), RetryDecision::GiveUp);
    /// ```
    pub fn fixed(delay: Duration) -> Self {
        Self::new(Delays::Fixed(delay)).max_delay(delay.max(DEFAULT_MAX_DELAY))
    }

    /// These delays one after another; the last is repeated.
    ///
    /// 1 to [`MAX_LISTED_DELAYS`] delays, each from 0 to [`MAX_RETRY_DELAY`]. The list does not bound
    /// the attempts: [`max_attempts`](Self::max_attempts) does. A delay longer than the default cap
    /// raises the cap.
    pub fn list(delays: impl IntoIterator<Item = Duration>) -> Self {
        // One more than allowed is enough to be refused; an endless iterator must end.
        let delays: Vec<_> = delays.into_iter().take(MAX_LISTED_DELAYS + 1).collect();
        let longest = delays.iter().max().copied().unwrap_or_default();
        Self::new(Delays::List(delays)).max_delay(longest.max(DEFAULT_MAX_DELAY))
    }

    /// Again at once after each failure.
    ///
    /// For failures that pass by themselves; a failure that stays uses up its attempts in a moment.
    pub fn immediate() -> Self {
        Self::fixed(Duration::ZERO)
    }

    /// Never again: the first failure is the last.
    pub fn none() -> Self {
        Self::immediate().max_attempts(1)
    }

    /// How many failures end the job, the first run included: 1 to [`MAX_ATTEMPTS`], 11 by default.
    ///
    /// 1 means no retry.
    #[must_use]
    pub fn max_attempts(mut self, max_attempts: u32) -> Self {
        self.max_attempts = max_attempts;
        self
    }

    /// The longest delay, random part included: 0 to [`MAX_RETRY_DELAY`], 7 days by default.
    ///
    /// Zero means that each retry is immediate.
    #[must_use]
    pub fn max_delay(mut self, max_delay: Duration) -> Self {
        self.max_delay = max_delay;
        self
    }

    /// How many failures end the job.
    pub fn attempts(&self) -> u32 {
        self.max_attempts
    }

    /// What happens after `failures` failures, the latest included.
    ///
    /// `random` is from 0 up to 1, drawn anew for each decision; the same number gives the same
    /// answer. A number outside is brought to the nearest bound, and not-a-number to 0.
    pub fn next(&self, failures: u32, random: f64) -> RetryDecision {
        if failures >= self.max_attempts {
            return RetryDecision::GiveUp;
        }
        let failures = failures.max(1);
        let delay = match &self.delays {
            Delays::Polynomial => polynomial_delay(failures, random),
            Delays::Exponential { base, factor } => {
                // Finite, so that a base of zero stays zero.
                let growth = factor.powf(f64::from(failures - 1)).min(f64::MAX);
                let seconds = base.as_secs_f64() * growth;
                // What is too long for a duration is cut to the cap.
                Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
            }
            Delays::Fixed(delay) => *delay,
            Delays::List(delays) => {
                let position = usize::try_from(failures - 1).unwrap_or(usize::MAX);
                delays.get(position).or(delays.last()).copied().unwrap_or_default()
            }
        };
        RetryDecision::RetryAfter(delay.min(self.max_delay))
    }

    /// Checks what the constructors and setters were given.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) that names the first value out of range.
    pub fn validate(&self) -> Result<()> {
        if !(1..=MAX_ATTEMPTS).contains(&self.max_attempts) {
            return Err(Error::invalid(
                "max_attempts",
                format_args!("{} is outside 1 to {MAX_ATTEMPTS}", self.max_attempts),
            ));
        }
        check_delay("max_delay", self.max_delay)?;
        match &self.delays {
            Delays::Polynomial => {}
            Delays::Exponential { base, factor } => {
                check_delay("base", *base)?;
                if !(1.0..=1000.0).contains(factor) {
                    return Err(Error::invalid(
                        "factor",
                        format_args!("{factor} is outside 1 to 1000"),
                    ));
                }
                if *base > self.max_delay {
                    return Err(Error::invalid(
                        "base",
                        format_args!("{base:?} is longer than max_delay, {:?}", self.max_delay),
                    ));
                }
            }
            Delays::Fixed(delay) => check_delay("delay", *delay)?,
            Delays::List(delays) => {
                if delays.is_empty() || delays.len() > MAX_LISTED_DELAYS {
                    return Err(Error::invalid(
                        "delays",
                        format_args!("there must be 1 to {MAX_LISTED_DELAYS} of them"),
                    ));
                }
                delays.iter().try_for_each(|delay| check_delay("delays", *delay))?;
            }
        }
        Ok(())
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::polynomial()
    }
}

fn polynomial_delay(failures: u32, random: f64) -> Duration {
    let random = if random.is_nan() { 0.0 } else { random.clamp(0.0, 1.0) };
    let certain = u64::from(failures - 1).saturating_pow(4).saturating_add(15);
    // At most 30 × 2³² seconds: within what a duration holds.
    let spread = Duration::from_secs_f64(30.0 * random * f64::from(failures));
    Duration::from_secs(certain).saturating_add(spread)
}

fn check_delay(field: &'static str, delay: Duration) -> Result<()> {
    if delay > MAX_RETRY_DELAY {
        return Err(Error::invalid(
            field,
            format_args!("{delay:?} is longer than {} days", MAX_RETRY_DELAY.as_secs() / 86_400),
        ));
    }
    Ok(())
}

/// What is stored. Delays are rounded down to microseconds.
#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(flatten)]
    delays: StoredDelays,
    #[serde(default = "default_max_attempts")]
    max_attempts: u32,
    #[serde(default = "default_max_delay_micros")]
    max_delay_micros: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum StoredDelays {
    // As it was called before.
    #[serde(alias = "hangfire")]
    Polynomial,
    Exponential {
        base_micros: u64,
        factor: f64,
    },
    Fixed {
        delay_micros: u64,
    },
    List {
        delays_micros: Vec<u64>,
    },
}

fn default_max_attempts() -> u32 {
    DEFAULT_MAX_ATTEMPTS
}

fn default_max_delay_micros() -> u64 {
    micros(DEFAULT_MAX_DELAY)
}

fn micros(length: Duration) -> u64 {
    u64::try_from(length.as_micros()).unwrap_or(u64::MAX)
}

impl From<RetryPolicy> for Stored {
    fn from(policy: RetryPolicy) -> Self {
        Self {
            delays: match policy.delays {
                Delays::Polynomial => StoredDelays::Polynomial,
                Delays::Exponential { base, factor } => {
                    StoredDelays::Exponential { base_micros: micros(base), factor }
                }
                Delays::Fixed(delay) => StoredDelays::Fixed { delay_micros: micros(delay) },
                Delays::List(delays) => {
                    StoredDelays::List { delays_micros: delays.into_iter().map(micros).collect() }
                }
            },
            max_attempts: policy.max_attempts,
            max_delay_micros: micros(policy.max_delay),
        }
    }
}

impl TryFrom<Stored> for RetryPolicy {
    type Error = Error;

    fn try_from(stored: Stored) -> Result<Self> {
        let delays = match stored.delays {
            StoredDelays::Polynomial => Delays::Polynomial,
            StoredDelays::Exponential { base_micros, factor } => {
                Delays::Exponential { base: Duration::from_micros(base_micros), factor }
            }
            StoredDelays::Fixed { delay_micros } => {
                Delays::Fixed(Duration::from_micros(delay_micros))
            }
            StoredDelays::List { delays_micros } => {
                Delays::List(delays_micros.into_iter().map(Duration::from_micros).collect())
            }
        };
        let policy = Self {
            delays,
            max_attempts: stored.max_attempts,
            max_delay: Duration::from_micros(stored.max_delay_micros),
        };
        policy.validate()?;
        Ok(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::RetryDecision::{GiveUp, RetryAfter};
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_default_follows_its_formula() {
        let policy = RetryPolicy::polynomial();
        // Failures, random, seconds.
        let rows = [
            (0, 0.0, 15),
            (1, 0.0, 15),
            (1, 0.5, 30),
            (2, 0.0, 16),
            (2, 0.5, 46),
            (3, 0.0, 31),
            (5, 0.0, 271),
            (10, 0.0, 6576),
            (10, 0.5, 6726),
            // Numbers that are not in the range.
            (10, -3.0, 6576),
            (10, f64::NAN, 6576),
            (10, f64::NEG_INFINITY, 6576),
            (10, f64::INFINITY, 6876),
            (10, 2.0, 6876),
        ];
        for (failures, random, seconds) in rows {
            assert_eq!(policy.next(failures, random), RetryAfter(secs(seconds)), "{failures}");
        }
        assert_eq!(policy.next(11, 0.0), GiveUp);
        let nothing = RetryPolicy::exponential(secs(0), 9.0, secs(1)).max_attempts(MAX_ATTEMPTS);
        assert_eq!(nothing.next(999, 0.0), RetryAfter(secs(0)));
    }

    #[test]
    fn each_rule_gives_its_delays() {
        let rows: [(RetryPolicy, [u64; 5]); 7] = [
            (RetryPolicy::exponential(secs(1), 2.0, secs(10)), [1, 2, 4, 8, 10]),
            (RetryPolicy::exponential(secs(3), 1.0, secs(10)), [3; 5]),
            (RetryPolicy::exponential(secs(0), 1000.0, secs(10)), [0; 5]),
            (RetryPolicy::fixed(secs(7)), [7; 5]),
            (RetryPolicy::list([secs(1), secs(5), secs(2)]), [1, 5, 2, 2, 2]),
            (RetryPolicy::immediate(), [0; 5]),
            (RetryPolicy::polynomial().max_delay(secs(20)), [15, 16, 20, 20, 20]),
        ];
        for (policy, delays) in rows {
            policy.validate().unwrap();
            for (failures, seconds) in (1..).zip(delays) {
                assert_eq!(policy.next(failures, 0.0), RetryAfter(secs(seconds)), "{policy:?}");
            }
        }
    }

    #[test]
    fn a_policy_gives_up_at_its_last_attempt() {
        // Policy, the last failure that is retried.
        let rows = [
            (RetryPolicy::default(), 10),
            (RetryPolicy::fixed(secs(1)).max_attempts(1), 0),
            (RetryPolicy::none(), 0),
            (RetryPolicy::list([secs(1)]).max_attempts(3), 2),
            (RetryPolicy::immediate().max_attempts(MAX_ATTEMPTS), 999),
        ];
        for (policy, last) in rows {
            if last > 0 {
                assert!(matches!(policy.next(last, 0.5), RetryAfter(_)), "{policy:?}");
            }
            assert_eq!(policy.next(last + 1, 0.5), GiveUp, "{policy:?}");
            assert_eq!(policy.next(u32::MAX, 0.5), GiveUp, "{policy:?}");
        }
    }

    #[test]
    fn no_number_of_failures_and_no_value_overflows() {
        let policies = [
            RetryPolicy::polynomial(),
            RetryPolicy::polynomial().max_delay(Duration::MAX),
            RetryPolicy::exponential(Duration::MAX, f64::MAX, Duration::MAX),
            RetryPolicy::exponential(secs(1), f64::NAN, Duration::MAX),
            RetryPolicy::exponential(secs(1), -2.0, Duration::MAX),
            RetryPolicy::exponential(secs(1), 1.5, secs(60)),
            RetryPolicy::fixed(Duration::MAX),
            RetryPolicy::list([]),
            RetryPolicy::list(std::iter::repeat(Duration::MAX)),
        ];
        for policy in policies {
            let policy = policy.max_attempts(u32::MAX);
            for failures in [0, 1, 2, 1000, u32::MAX - 1] {
                for random in [0.0, 0.999, f64::NAN, f64::INFINITY, -1.0] {
                    assert!(
                        matches!(policy.next(failures, random), RetryAfter(d) if d <= policy.max_delay)
                    );
                }
            }
            assert_eq!(policy.next(u32::MAX, 0.0), GiveUp);
        }
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        let year = secs(366 * 86_400);
        let rows = [
            (RetryPolicy::polynomial().max_attempts(0), "max_attempts: 0 is outside 1 to 1000"),
            (
                RetryPolicy::polynomial().max_attempts(1001),
                "max_attempts: 1001 is outside 1 to 1000",
            ),
            (
                RetryPolicy::polynomial().max_delay(year + secs(1)),
                "max_delay: 31622401s is longer than 366 days",
            ),
            (
                RetryPolicy::exponential(secs(9), 2.0, secs(8)),
                "base: 9s is longer than max_delay, 8s",
            ),
            (RetryPolicy::exponential(secs(1), 0.5, secs(8)), "factor: 0.5 is outside 1 to 1000"),
            (
                RetryPolicy::exponential(secs(1), f64::NAN, secs(8)),
                "factor: NaN is outside 1 to 1000",
            ),
            (
                RetryPolicy::fixed(year + secs(1)).max_delay(year),
                "delay: 31622401s is longer than 366 days",
            ),
            (RetryPolicy::list([]), "delays: there must be 1 to 100 of them"),
            (
                RetryPolicy::list(std::iter::repeat(secs(1))),
                "delays: there must be 1 to 100 of them",
            ),
        ];
        for (policy, message) in rows {
            assert_eq!(policy.validate().unwrap_err().message(), message);
        }
        RetryPolicy::fixed(year).validate().unwrap();
    }

    #[test]
    fn the_stored_form_is_stable_and_checked() {
        let rows = [
            (
                RetryPolicy::polynomial(),
                r#"{"type":"polynomial","max_attempts":11,"max_delay_micros":604800000000}"#,
            ),
            (
                RetryPolicy::exponential(secs(1), 1.5, secs(60)).max_attempts(3),
                r#"{"type":"exponential","base_micros":1000000,"factor":1.5,"max_attempts":3,"max_delay_micros":60000000}"#,
            ),
            (
                RetryPolicy::fixed(secs(2)),
                r#"{"type":"fixed","delay_micros":2000000,"max_attempts":11,"max_delay_micros":604800000000}"#,
            ),
            (
                RetryPolicy::list([secs(1), secs(2)]),
                r#"{"type":"list","delays_micros":[1000000,2000000],"max_attempts":11,"max_delay_micros":604800000000}"#,
            ),
        ];
        for (policy, json) in rows {
            assert_eq!(serde_json::to_string(&policy).unwrap(), json);
            assert_eq!(serde_json::from_str::<RetryPolicy>(json).unwrap(), policy);
        }
        for name in ["polynomial", "hangfire"] {
            let text = format!(r#"{{"type":"{name}"}}"#);
            let short: RetryPolicy = serde_json::from_str(&text).unwrap();
            assert_eq!(short, RetryPolicy::polynomial(), "{name}");
        }
        for bad in [
            r#"{"type":"polynomial","max_attempts":0}"#,
            r#"{"type":"list","delays_micros":[]}"#,
            r#"{"type":"weekly"}"#,
        ] {
            assert!(serde_json::from_str::<RetryPolicy>(bad).is_err(), "{bad}");
        }
    }
}
