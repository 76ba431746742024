//! Schedules: both dialects, changes of the clock, intervals, and what is stored.

mod clock_changes;
mod crontab;
mod quartz;
mod scribble;

use std::time::Duration;

use chrono::DateTime;

use super::*;
use crate::ErrorKind;

const BERLIN: &str = "Europe/Berlin";
const NEW_YORK: &str = "America/New_York";

/// An instant from RFC 3339 text.
fn at(text: &str) -> Timestamp {
    DateTime::parse_from_rfc3339(text).unwrap_or_else(|e| panic!("{text}: {e}")).into()
}

/// The instant as its zone's wall clock shows it, with the offset from UTC.
fn shown(instant: Timestamp, zone: TimeZone) -> String {
    instant.to_chrono().with_timezone(&zone.tz()).format("%Y-%m-%d %H:%M:%S %:z").to_string()
}

/// Checks that `cron` in `zone` gives exactly `expected` one after another.
#[track_caller]
fn check(cron: &str, zone: &str, after: &str, expected: &[&str]) {
    check_schedule(&Schedule::cron(cron).unwrap(), zone, after, expected);
}

/// Checks that `schedule` in `zone` gives exactly `expected` one after another.
#[track_caller]
fn check_schedule(schedule: &Schedule, zone: &str, after: &str, expected: &[&str]) {
    let zone = TimeZone::parse(zone).unwrap();
    let given: Vec<String> = schedule
        .upcoming(at(after), zone, expected.len())
        .into_iter()
        .map(|next| shown(next, zone))
        .collect();
    assert_eq!(given, expected, "{schedule} in {zone} after {after}");
}

#[test]
fn the_edges_of_time_are_answered() {
    let minutely = Schedule::cron("* * * * *").unwrap();
    let hourly = Schedule::every(Duration::from_secs(3600)).unwrap();
    let first = Timestamp::from_micros(i64::MIN);
    for zone in [TimeZone::UTC, TimeZone::parse("Pacific/Kiritimati").unwrap()] {
        assert_eq!(minutely.next_after(first, zone), Some(Timestamp::MIN));
        assert_eq!(hourly.next_after(first, zone), Some(Timestamp::MIN));
        for end in [Timestamp::MAX, Timestamp::from_micros(i64::MAX)] {
            assert_eq!(minutely.next_after(end, zone), None);
            assert_eq!(hourly.next_after(end, zone), None);
        }
        assert_eq!(minutely.next_after(at("6000-01-01T00:00:00Z"), zone), None);
    }
    let before_end = Timestamp::from_micros(Timestamp::MAX.as_micros() - 1);
    assert_eq!(hourly.next_after(before_end, TimeZone::UTC), Some(Timestamp::MAX));
}

#[test]
fn an_interval_is_aligned_to_its_anchor() {
    let minute = Duration::from_secs(60);
    let anchor = at("2026-01-01T00:00:20Z");
    let schedule = Schedule::every_from(minute, anchor).unwrap();
    let rows = [
        ("2026-01-01T00:00:20Z", "2026-01-01T00:01:20Z"),
        ("2026-01-01T00:00:19.999999Z", "2026-01-01T00:00:20Z"),
        ("2025-06-01T00:00:00Z", "2025-06-01T00:00:20Z"),
        ("2030-06-01T00:00:20.000001Z", "2030-06-01T00:01:20Z"),
    ];
    for (after, next) in rows {
        assert_eq!(schedule.next_after(at(after), TimeZone::UTC), Some(at(next)), "{after}");
    }
    assert_eq!(schedule.interval(), Some(minute));
    assert_eq!(schedule.to_string(), "every 60s");
    assert_eq!(schedule.expression(), None);
}

#[test]
fn bad_intervals_are_refused() {
    let second = Duration::from_secs(1);
    let rows = [
        (Duration::ZERO, Timestamp::MIN, "interval: 0ns is outside 1s to 366 days"),
        (Duration::from_millis(999), Timestamp::MIN, "interval: 999ms is outside 1s to 366 days"),
        (
            Duration::from_secs(40_000_000),
            Timestamp::MIN,
            "interval: 40000000s is outside 1s to 366 days",
        ),
        (
            second + Duration::from_nanos(5),
            Timestamp::MIN,
            "interval: 1.000000005s is not a whole number of microseconds",
        ),
        (
            second,
            Timestamp::from_micros(-1),
            "anchor: 1969-12-31T23:59:59.999999Z is outside 1970-01-01T00:00:00.000000Z to \
             9999-12-31T00:00:00.000000Z",
        ),
    ];
    for (interval, anchor, message) in rows {
        let error = Schedule::every_from(interval, anchor).unwrap_err();
        assert_eq!(error.message(), message);
    }
    assert!(Schedule::every(Duration::MAX).is_err());
}

#[test]
fn the_stored_form_is_stable_and_checked() {
    let cron = Schedule::cron(" 0  2 * * MON").unwrap();
    let every = Schedule::every_from(Duration::from_secs(90), Timestamp::from_micros(5)).unwrap();
    let rows = [
        (cron, r#"{"type":"cron","expression":"0 2 * * MON"}"#),
        (every, r#"{"type":"every","interval_micros":90000000,"anchor_at":5}"#),
    ];
    for (schedule, json) in rows {
        assert_eq!(serde_json::to_string(&schedule).unwrap(), json);
        assert_eq!(serde_json::from_str::<Schedule>(json).unwrap(), schedule);
    }
    let unanchored: Schedule =
        serde_json::from_str(r#"{"type":"every","interval_micros":1000000}"#).unwrap();
    assert_eq!(unanchored, Schedule::every(Duration::from_secs(1)).unwrap());
    for bad in [
        r#"{"type":"cron","expression":"0 0 30 2 *"}"#,
        r#"{"type":"every","interval_micros":0}"#,
        r#"{"type":"solar","expression":"0 0 2 * * ? *"}"#,
        r#"{"expression":"* * * * *"}"#,
    ] {
        assert!(serde_json::from_str::<Schedule>(bad).is_err(), "{bad}");
    }
}

#[test]
fn zones_are_found_by_their_names() {
    for name in ["UTC", BERLIN, NEW_YORK, "US/Eastern", "Etc/GMT+5"] {
        let zone: TimeZone = name.parse().unwrap();
        assert_eq!(zone.to_string(), name);
        let json = serde_json::to_string(&zone).unwrap();
        assert_eq!(json, format!("\"{name}\""));
        assert_eq!(serde_json::from_str::<TimeZone>(&json).unwrap(), zone);
    }
    let rows = [
        ("europe/berlin", "time_zone: `europe/berlin` is unknown, did you mean `Europe/Berlin`?"),
        ("Mars", "time_zone: `Mars` is unknown, use an IANA name such as `Europe/Berlin`"),
        ("", "time_zone: `` is unknown, use an IANA name such as `Europe/Berlin`"),
        ("A\0", "time_zone: is not the name of a time zone"),
    ];
    for (name, message) in rows {
        assert_eq!(TimeZone::parse(name).unwrap_err().message(), message);
    }
    assert!(serde_json::from_str::<TimeZone>("\"Mars\"").is_err());
}

#[test]
fn upcoming_is_bounded() {
    let minutely = Schedule::cron("* * * * *").unwrap();
    assert_eq!(minutely.upcoming(Timestamp::MIN, TimeZone::UTC, usize::MAX).len(), MAX_UPCOMING);
    assert_eq!(minutely.upcoming(Timestamp::MIN, TimeZone::UTC, 0), []);
}
