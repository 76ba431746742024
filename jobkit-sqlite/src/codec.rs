//! Numbers, JSON and bytes of columns ↔ core types.

pub(crate) mod job_row;
pub(crate) mod sql_text;

use std::time::Duration;

use jobkit_core::edge::{On, Parent};
use jobkit_core::record::Payload;
use jobkit_core::state::{Reason, Start, StateName};
use jobkit_core::{Error, JobId, Timestamp, bounds};
use rusqlite::Row;
use serde::de::DeserializeOwned;

use crate::error::SqlResult;

/// As SQLite stores it. What exceeds `i64` becomes the largest `i64`.
pub(crate) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) fn size(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) fn uint(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

pub(crate) fn small(number: i64) -> u32 {
    u32::try_from(number.max(0)).unwrap_or(u32::MAX)
}

pub(crate) fn index(number: i64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

pub(crate) fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

pub(crate) fn micros(length: Duration) -> i64 {
    i64::try_from(length.as_micros()).unwrap_or(i64::MAX)
}

pub(crate) fn length(micros: i64) -> Duration {
    Duration::from_micros(uint(micros))
}

pub(crate) fn state_at(number: i64) -> SqlResult<StateName> {
    Ok(StateName::from_index(index(number))
        .ok_or_else(|| Error::corrupt(format!("there is no state number {number}")))?)
}

pub(crate) fn reason_at(number: i64) -> Reason {
    Reason::from_index(index(number))
}

/// The rank of a priority: the lower, the sooner.
pub(crate) fn rank_of(priority: u8) -> i64 {
    LAST_RANK - i64::from(priority)
}

/// The priority of a rank. A corrupt one is as good as the last or the first.
pub(crate) fn priority_at(rank: i64) -> u8 {
    u8::try_from(LAST_RANK - rank.clamp(0, LAST_RANK)).unwrap_or(0)
}

const LAST_RANK: i64 = bounds::MAX_PRIORITY as i64;

pub(crate) fn on_at(number: i64) -> On {
    match number {
        1 => On::Failed,
        2 => On::Any,
        _ => On::Success,
    }
}

pub(crate) const fn on_number(on: On) -> i64 {
    match on {
        On::Success => 0,
        On::Failed => 1,
        On::Any => 2,
    }
}

/// The columns of an edge's parent: its id, and whether it is a batch.
pub(crate) const fn parent_columns(parent: &Parent) -> (&[u8; 16], i64) {
    match parent {
        Parent::Job(id) => (id.as_bytes(), 0),
        Parent::Batch(id) => (id.as_bytes(), 1),
    }
}

/// How an edge is stored: open, decided, or given up with its child, whatever becomes of the parent.
pub(crate) const fn decided_number(decided: bool, given_up: bool) -> i64 {
    match (decided, given_up) {
        (true, _) => 1,
        (false, false) => 0,
        (false, true) => 2,
    }
}

/// The lowest bit tells instants (0) from delays (1); `None` is at once.
pub(crate) fn start_number(start: Start) -> Option<i64> {
    match start {
        Start::Now => None,
        Start::At(at) => Some(at.as_micros() << 1),
        Start::After(delay) => Some(micros(delay).min(i64::MAX >> 2) << 1 | 1),
    }
}

pub(crate) fn start_at(number: Option<i64>) -> Start {
    match number {
        None => Start::Now,
        Some(number) if number & 1 == 0 => Start::At(at(number >> 1)),
        Some(number) => Start::After(length(number >> 1)),
    }
}

pub(crate) fn bytes16(bytes: &[u8]) -> [u8; 16] {
    bytes.try_into().unwrap_or_default()
}

pub(crate) fn job_id(row: &Row<'_>, column: usize) -> rusqlite::Result<JobId> {
    Ok(JobId::from_bytes(bytes16(row.get_ref(column)?.as_blob()?)))
}

pub(crate) fn payload(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Payload>> {
    Ok(row.get_ref(column)?.as_blob_or_null()?.map(|bytes| Payload::from(bytes.to_vec())))
}

pub(crate) fn json<T: DeserializeOwned>(text: &str) -> SqlResult<T> {
    Ok(serde_json::from_str(text)?)
}

/// JSON of a value.
pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> Option<String> {
    serde_json::to_string(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_survive_their_number() {
        for start in [
            Start::Now,
            Start::At(Timestamp::MAX),
            Start::At(Timestamp::MIN),
            Start::After(Duration::from_secs(7)),
        ] {
            assert_eq!(start_at(start_number(start)), start);
        }
    }
}
