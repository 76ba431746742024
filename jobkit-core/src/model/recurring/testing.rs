//! A schedule to try things on.

use std::time::Duration;

use super::{Fired, JobTemplate, Misfire, NextRun, Overlap, RecurringRecord, RecurringSpec};
use crate::model::clock::Timestamp;
use crate::model::ids::JobId;
use crate::model::record::NewRecord;
use crate::model::schedule::{Schedule, TimeZone};

/// This many seconds after the beginning of 2026.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(1_767_225_600_000_000 + seconds * 1_000_000)
}

/// A schedule for every minute, whose first one is the next.
pub(crate) fn every_minute(misfire: Misfire) -> RecurringRecord {
    let job = NewRecord::new(JobId::new(), crate::model::name::Name::from_stored("k"), *b"{}");
    let spec = RecurringSpec {
        id: "r".into(),
        schedule: Schedule::cron("* * * * *").expect("valid"),
        time_zone: TimeZone::UTC,
        misfire,
        overlap: Overlap::Allow,
        jitter: Duration::ZERO,
        starts_at: None,
        ends_at: None,
        job: JobTemplate::from_record(&job).expect("valid"),
    };
    RecurringRecord {
        next: Some(NextRun { nominal_at: at(60), due_at: at(60) }),
        spec,
        etag: 1,
        last_nominal_at: None,
        fired: Fired::default(),
        last_job: None,
        pause: None,
        created_at: at(0),
    }
}
