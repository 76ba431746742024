//! The dialect of Quartz.

use super::*;

/// As [`check`], in the dialect of Quartz.
#[track_caller]
fn check_quartz(expression: &str, zone: &str, after: &str, expected: &[&str]) {
    check_schedule(&Schedule::quartz(expression).unwrap(), zone, after, expected);
}

#[test]
fn quartz_counts_weekdays_from_sunday_and_joins_days_by_and() {
    let new_year = "2026-01-01T00:00:00Z";
    // 2026-01-04 is a Sunday.
    check_quartz("0 0 9 ? * 1", "UTC", new_year, &["2026-01-04 09:00:00 +00:00"]);
    check_quartz(
        "0 0 9 ? * MON-FRI",
        "UTC",
        "2026-01-02T09:00:00Z",
        &["2026-01-05 09:00:00 +00:00"],
    );
    // Friday the thirteenth.
    check_quartz(
        "0 0 0 13 * 6",
        "UTC",
        new_year,
        &["2026-02-13 00:00:00 +00:00", "2026-03-13 00:00:00 +00:00", "2026-11-13 00:00:00 +00:00"],
    );
    check_quartz("0 0 0 1 1 ? 2030", "UTC", new_year, &["2030-01-01 00:00:00 +00:00"]);
    check_quartz(
        "0 5/20 8 * * ?",
        "UTC",
        new_year,
        &["2026-01-01 08:05:00 +00:00", "2026-01-01 08:25:00 +00:00", "2026-01-01 08:45:00 +00:00"],
    );
    let over = Schedule::quartz("0 0 0 1 1 ? 2030").unwrap();
    assert_eq!(over.next_after(at("2030-06-01T00:00:00Z"), TimeZone::UTC), None);
}

#[test]
fn quartz_passes_changes_of_the_clock_as_crontab_does() {
    // Skipped in spring: once, at the first instant after the gap.
    check_quartz(
        "0 30 2 * * ?",
        BERLIN,
        "2026-03-28T00:00:00Z",
        &["2026-03-28 02:30:00 +01:00", "2026-03-29 03:00:00 +02:00", "2026-03-30 02:30:00 +02:00"],
    );
    // Repeated in autumn: a fixed time once, an interval in both passes.
    check_quartz(
        "0 30 2 * * ?",
        BERLIN,
        "2026-10-24T12:00:00Z",
        &["2026-10-25 02:30:00 +02:00", "2026-10-26 02:30:00 +01:00"],
    );
    check_quartz(
        "0 0/30 * * * ?",
        BERLIN,
        "2026-10-24T23:59:00Z",
        &[
            "2026-10-25 02:00:00 +02:00",
            "2026-10-25 02:30:00 +02:00",
            "2026-10-25 02:00:00 +01:00",
            "2026-10-25 02:30:00 +01:00",
            "2026-10-25 03:00:00 +01:00",
        ],
    );
}

#[test]
fn both_dialects_agree_where_they_mean_the_same() {
    let pairs = [
        ("*/15 * * * *", "0 */15 * * * ?"),
        ("30 2 * * *", "0 30 2 * * ?"),
        ("0 0 1 * *", "0 0 0 1 * ?"),
        ("0 9 * * 1-5", "0 0 9 ? * 2-6"),
        ("0 2,14 * * *", "0 0 2,14 * * ?"),
        ("5 * * * *", "0 5 * * * ?"),
    ];
    for zone in [BERLIN, NEW_YORK, "Australia/Lord_Howe", "UTC"] {
        let zone = TimeZone::parse(zone).unwrap();
        for (crontab, quartz) in pairs {
            let (crontab, quartz) =
                (Schedule::cron(crontab).unwrap(), Schedule::quartz(quartz).unwrap());
            for start in ["2026-03-28T00:00:00Z", "2026-10-24T00:00:00Z", "2026-04-04T00:00:00Z"] {
                let both =
                    (crontab.occurrences(at(start), zone), quartz.occurrences(at(start), zone));
                let same = both.0.zip(both.1).take(200).find(|(a, b)| a != b);
                assert_eq!(same, None, "{crontab} and {quartz} in {zone} after {start}");
            }
        }
    }
}

#[test]
fn quartz_names_what_is_wrong() {
    let rows = [
        ("0 9 * * *", "5 fields"),
        ("0 0 9 L * ?", "Schedule::cron"),
        ("0 0 9 15W * ?", "Schedule::cron"),
        ("0 0 9 ? * 6#3", "Schedule::cron"),
        ("0 0 9 ? * 6L", "Schedule::cron"),
        ("0 0 25 * * ?", "hour: 25 is outside 0-23"),
        ("0 0 1-100000000 * * ?", "hour: 100000000 is outside 0-23"),
        ("0 0 9 ? * 0", "day of week: 0 is outside 1-7"),
        ("0 0/0 9 * * ?", "minute: `0/0`: the step is outside 1-59"),
        ("? 0 9 * * ?", "second: `?` stands for days alone"),
        ("0 0 17-9 * * ?", "hour: `17-9`: the range runs backwards"),
        ("0 0 0 30 2 ?", "never fires"),
        ("0 0 0 1 FOO ?", "month: `FOO` is not a number from 1 to 12"),
        ("0 0 0 1 , ?", "month: a value is missing"),
        ("", "1 fields"),
        ("0 0 0 ä * ?", "day of month"),
    ];
    for (expression, expected) in rows {
        let error = Schedule::quartz(expression).map(|s| s.to_string()).expect_err(expression);
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(expected), "{expression}: {error}");
    }
}

#[test]
fn quartz_is_stored_and_read_back() {
    let schedule = Schedule::quartz("0  0 9 ? * MON-FRI").unwrap();
    let stored = serde_json::to_string(&schedule).unwrap();
    assert_eq!(stored, r#"{"type":"quartz","expression":"0 0 9 ? * MON-FRI"}"#);
    assert_eq!(serde_json::from_str::<Schedule>(&stored).unwrap(), schedule);
    assert!(serde_json::from_str::<Schedule>(r#"{"type":"quartz","expression":"x"}"#).is_err());
}
