//! Error groups: failures counted by their fingerprint.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::bounds;
use crate::model::clock::Timestamp;
use crate::model::failure::{ErrorDetail, Fingerprint, normalised, with_type};
use crate::model::ids::JobId;
use crate::model::name::Name;
use crate::model::recurring::Pause;
use crate::model::stats::Step;

/// Bytes kept of the latest message of a group.
const MESSAGE_BYTES: usize = 1 << 10;

/// Failures with one fingerprint: kind, error type, normalised message and root cause, and top frame of the
/// application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorGroup {
    /// Its identity.
    pub fingerprint: Fingerprint,
    /// The kind of its jobs.
    pub kind: Name,
    /// The error's type.
    pub error_type: String,
    /// Message and root cause in one line, with what differs from job to job taken out.
    pub title: String,
    /// Message and root cause of the latest one, in one line; at most 1 KiB.
    pub message: String,
    /// How many attempts failed so.
    pub count: u64,
    /// The first.
    pub first_seen_at: Timestamp,
    /// The latest.
    pub last_seen_at: Timestamp,
    /// The job of the latest.
    pub last_job: JobId,
    /// How many failed in each hour of the last seven days, by the hour's beginning; hours without any are
    /// left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hours: BTreeMap<Timestamp, u64>,
    /// By whom, why and until when it is muted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mute: Option<Pause>,
}

impl ErrorGroup {
    /// A group with its first failure.
    pub fn first(kind: &Name, job: JobId, error: &ErrorDetail, at: Timestamp) -> Self {
        Self {
            fingerprint: error.fingerprint,
            kind: kind.clone(),
            error_type: error.error_type.clone(),
            title: bounded(&normalised(&error.summary())),
            message: bounded(&error.summary()),
            count: 1,
            first_seen_at: at,
            last_seen_at: at,
            last_job: job,
            hours: BTreeMap::from([(Step::Hour.bucket(at), 1)]),
            mute: None,
        }
    }

    /// What went wrong in one line: `SmtpError: sending the mail: connection refused`. The type is left out where
    /// it is that of a box.
    pub fn headline(&self) -> String {
        with_type(&self.error_type, self.message.lines().next().unwrap_or_default())
    }

    /// Adds what was counted elsewhere, or later. The mute stays that of `self`.
    pub fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.first_seen_at = self.first_seen_at.min(other.first_seen_at);
        if other.last_seen_at >= self.last_seen_at {
            self.last_seen_at = other.last_seen_at;
            self.last_job = other.last_job;
            self.message.clone_from(&other.message);
        }
        for (hour, count) in &other.hours {
            *self.hours.entry(*hour).or_default() += count;
        }
        let oldest = Step::Hour.bucket(self.last_seen_at.minus(bounds::ERROR_HOURS_KEPT));
        self.hours = self.hours.split_off(&oldest);
    }

    /// How many failed since an instant, by whole hours.
    pub fn count_since(&self, since: Timestamp) -> u64 {
        self.hours.range(Step::Hour.bucket(since)..).map(|(_, count)| count).sum()
    }

    /// How many failed in each of the last `hours` hours, the present one last.
    pub fn trend(&self, hours: u32, now: Timestamp) -> Vec<u64> {
        let ago =
            |hours| Step::Hour.bucket(now.minus(Duration::from_secs(3600 * u64::from(hours))));
        (0..hours).rev().map(|hour| self.hours.get(&ago(hour)).copied().unwrap_or(0)).collect()
    }

    /// Whether it is muted at an instant.
    pub fn is_muted(&self, now: Timestamp) -> bool {
        self.mute.as_ref().is_some_and(|mute| mute.holds(now))
    }
}

fn bounded(text: &str) -> String {
    let mut end = text.len().min(MESSAGE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: u64) -> Timestamp {
        Timestamp::from_micros(1_800_000_000_000_000).plus(Duration::from_secs(3600 * hours))
    }

    fn failed(message: &str, at: Timestamp) -> ErrorGroup {
        let kind = Name::from_stored("mail");
        let error = ErrorDetail::new(&kind, "SmtpError", message, [], None);
        ErrorGroup::first(&kind, JobId::new(), &error, at)
    }

    #[test]
    fn the_latest_message_is_kept_and_all_are_counted() {
        let mut group = failed("timed out after 3 s", at(10));
        group.add(&failed("timed out after 5 s", at(12)));
        group.add(&failed("timed out after 4 s", at(11)));
        assert_eq!(group.title, "timed out after ‹n› s");
        assert_eq!(group.message, "timed out after 5 s");
        assert_eq!((group.count, group.count_since(at(11)), group.count_since(at(13))), (3, 2, 0));
        assert_eq!(group.trend(4, at(12)), [0, 1, 1, 1]);
        assert_eq!((group.first_seen_at, group.last_seen_at), (at(10), at(12)));
    }

    #[test]
    fn hours_older_than_a_week_are_forgotten() {
        let mut group = failed("a", at(0));
        group.add(&failed("a", at(24 * 7)));
        assert_eq!(group.hours.len(), 2);
        group.add(&failed("a", at(24 * 7 + 1)));
        assert_eq!(group.hours.len(), 2);
        assert_eq!(group.count, 3);
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let group = failed(&"größe ".repeat(400), at(0));
        assert!(
            group.message.len() <= MESSAGE_BYTES && group.message.len() > MESSAGE_BYTES / 2 - 4
        );
    }
}
