//! Time zones by their IANA names.

use std::fmt;
use std::str::FromStr;

use chrono::{Offset, TimeZone as _};
use chrono_tz::{TZ_VARIANTS, Tz};
use serde::{Deserialize, Serialize};

use crate::model::clock::Timestamp;
use crate::model::error::{Error, Result};

/// The longest name that is looked up, in bytes; no zone has a longer one.
const MAX_NAME_BYTES: usize = 64;

/// A time zone of the [IANA database](https://www.iana.org/time-zones), as compiled into JobKit.
///
/// Serialized, it is its name.
///
/// # Example: a name from a configuration file
///
/// ```
/// use jobkit::TimeZone;
///
/// # fn main() -> jobkit::Result<()> {
/// let zone = TimeZone::parse("America/New_York")?;
/// assert_eq!(zone.to_string(), "America/New_York");
/// assert_eq!(TimeZone::default(), TimeZone::UTC);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeZone(Tz);

impl TimeZone {
    /// Coordinated Universal Time, the default.
    pub const UTC: Self = Self(Tz::UTC);

    /// The zone of this IANA name, such as `Europe/Berlin`; old names such as `US/Eastern` count.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for an unknown name; when only upper and
    /// lower case are wrong, the message says the right name.
    pub fn parse(name: &str) -> Result<Self> {
        if name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
            return Err(Error::invalid("time_zone", "is not the name of a time zone"));
        }
        Tz::from_str(name).map(Self).map_err(|_| {
            let known = TZ_VARIANTS.iter().find(|tz| tz.name().eq_ignore_ascii_case(name));
            match known {
                Some(tz) => Error::invalid(
                    "time_zone",
                    format_args!("`{name}` is unknown, did you mean `{}`?", tz.name()),
                ),
                None => Error::invalid(
                    "time_zone",
                    format_args!("`{name}` is unknown, use an IANA name such as `Europe/Berlin`"),
                ),
            }
        })
    }

    /// The IANA name.
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// By how many seconds its clocks are ahead of UTC at an instant.
    ///
    /// # Example: an hour more in summer
    /// ```
    /// use jobkit::{TimeZone, Timestamp};
    ///
    /// let berlin = TimeZone::parse("Europe/Berlin")?;
    /// let january = Timestamp::from_micros(1_767_225_600_000_000);
    /// let july = Timestamp::from_micros(1_782_864_000_000_000);
    /// assert_eq!((berlin.offset_seconds(january), berlin.offset_seconds(july)), (3_600, 7_200));
    /// # Ok::<(), jobkit::Error>(())
    /// ```
    pub fn offset_seconds(self, at: Timestamp) -> i32 {
        self.0.offset_from_utc_datetime(&at.to_chrono().naive_utc()).fix().local_minus_utc()
    }

    pub(super) fn tz(self) -> Tz {
        self.0
    }
}

impl Default for TimeZone {
    fn default() -> Self {
        Self::UTC
    }
}

impl FromStr for TimeZone {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::parse(name)
    }
}

impl TryFrom<String> for TimeZone {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        Self::parse(&name)
    }
}

impl From<TimeZone> for String {
    fn from(zone: TimeZone) -> Self {
        zone.name().to_owned()
    }
}

impl From<Tz> for TimeZone {
    fn from(tz: Tz) -> Self {
        Self(tz)
    }
}

impl fmt::Display for TimeZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for TimeZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TimeZone({})", self.name())
    }
}
