//! Unique jobs: at most one job holds a key (G11).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::model::bounds::{UNIQUE_KEY_BYTES, UNIQUE_PERIOD};
use crate::model::clock::Timestamp;
use crate::model::error::{Error, Result};
use crate::model::name::check_text;

/// How long a job holds its unique key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Until {
    /// Until it is claimed for the first time.
    Started,
    /// Until it has finished, retries included.
    #[default]
    Finished,
    /// For so long after it was taken, whatever becomes of the job: 1 s to 366 days. The key is held
    /// also when the job has finished, was deleted, or is not kept any more, and it is free at the
    /// instant at which the period ends, also when the job still runs.
    Period(Duration),
}

/// What happens to a new job whose key is held.
///
/// A key that is held [for a period](Until::Period) may be held by a job that has finished, or even by
/// one whose record is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnConflict {
    /// The existing job stands in its place, edges included: children of one that is gone are refused,
    /// as [`ParentGone`](crate::model::refusal::Refusal::ParentGone). For a member of a batch that would not wait
    /// for the existing job, the submission is refused, as
    /// [`KeyHeldOutside`](crate::model::refusal::Refusal::KeyHeldOutside).
    #[default]
    ReturnExisting,
    /// The submission is refused as a whole.
    Reject,
    /// The existing job is deleted and the new one takes its place, unless the existing one runs:
    /// then the submission is refused. One that has finished stays as it is and loses the key.
    Replace,
}

/// A unique key as storages keep it: 16 bytes of SHA-256 of its text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyHash(pub [u8; 16]);

impl KeyHash {
    /// The hash of a key's text.
    pub fn of(text: &str) -> Self {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&Sha256::digest(text.as_bytes())[..16]);
        Self(bytes)
    }
}

impl std::fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// A job's claim to a unique key. Keys are shared by all kinds of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unique {
    /// The text, for people.
    pub key: String,
    /// How long it is held.
    pub until: Until,
    /// What happens when it is held already.
    pub on_conflict: OnConflict,
}

impl Unique {
    /// Until the job has finished, returning the existing job.
    pub fn new(key: impl Into<String>) -> Self {
        Self { key: key.into(), until: Until::default(), on_conflict: OnConflict::default() }
    }

    /// What storages keep.
    pub fn hash(&self) -> KeyHash {
        KeyHash::of(&self.key)
    }

    /// When a key that is taken at this instant is free again, if a period says so.
    pub fn held_until(&self, taken_at: Timestamp) -> Option<Timestamp> {
        match self.until {
            Until::Period(period) => Some(taken_at.plus(period)),
            Until::Started | Until::Finished => None,
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        if let Until::Period(period) = self.until
            && !UNIQUE_PERIOD.contains(&period)
        {
            return Err(Error::invalid(
                "unique_until",
                format_args!("is a period of {period:?}, where 1 s to 366 days are allowed"),
            ));
        }
        check_text("unique", &self.key, UNIQUE_KEY_BYTES)
    }
}

/// How far ahead of the clock a key may have been taken; further ahead it was while the clock was wrong.
const TAKEN_AHEAD: Duration = Duration::from_secs(60);

/// Whether a key is held at an instant: until when it was taken, and when, where that is known. One that
/// was taken more than a minute ahead of the clock was so while the clock was wrong, and is free: its
/// period would last longer by as much (SUB-15).
pub fn is_held(until: Option<Timestamp>, taken_at: Option<Timestamp>, now: Timestamp) -> bool {
    let Some(until) = until else { return true };
    until > now && taken_at.is_none_or(|taken_at| taken_at <= now.plus(TAKEN_AHEAD))
}
