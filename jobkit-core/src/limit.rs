//! Limits: how many jobs may run at the same time under a name (G13).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bounds::LIMIT_HOLDERS;
use crate::error::{Error, Result};
use crate::name::check_label;

/// A limit that a job runs under, with its default.
///
/// The first submit that names the limit defines it; an operator's value wins from then on.
/// A mutex is a limit of one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Limit {
    /// The name, such as `smtp` or `acme:17`: 1 to 200 bytes of any text.
    pub name: String,
    /// How many may run at once, unless an operator set another number.
    pub max: u32,
    /// Counts starts in a window instead of running jobs. Reserved: refused for now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
}

/// The window of a rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Window {
    /// Windows follow each other, each of this length.
    Fixed(Duration),
    /// The window of this length ends now, always.
    Sliding(Duration),
}

impl Limit {
    /// At most `max` jobs of this name at once.
    pub fn new(name: impl Into<String>, max: u32) -> Self {
        Self { name: name.into(), max, window: None }
    }

    /// Checks name and number (G20).
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput).
    pub fn check(&self) -> Result<()> {
        if self.window.is_some() {
            return Err(Error::invalid("limit", "names a window, which is not supported yet"));
        }
        check_label("limit", &self.name)?;
        check_holders(self.max)
    }
}

/// Whether a limit may have so many holders.
pub(crate) fn check_holders(max: u32) -> Result<()> {
    if max == 0 || max > LIMIT_HOLDERS {
        return Err(Error::invalid(
            "limit",
            format_args!("allows {max} holders, where 1 to {LIMIT_HOLDERS} are allowed"),
        ));
    }
    Ok(())
}
