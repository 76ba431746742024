use std::time::{Duration, Instant};

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

/// As [`check`], in UTC from the beginning of 2026, with dates alone.
#[track_caller]
fn check_days(cron: &str, expected: &[&str]) {
    let schedule = Schedule::cron(cron).unwrap();
    let given: Vec<String> = schedule
        .upcoming(at("2025-12-31T23:59:59Z"), TimeZone::UTC, expected.len())
        .into_iter()
        .map(|next| next.to_chrono().format("%m-%d").to_string())
        .collect();
    assert_eq!(given, expected, "{cron}");
}

#[test]
fn a_time_in_the_spring_gap_runs_once_after_it() {
    // Each row: expression, zone, after, what follows.
    let rows: [(&str, &str, &str, &[&str]); 9] = [
        (
            "30 2 * * *",
            BERLIN,
            "2026-03-28T00:00:00Z",
            &[
                "2026-03-28 02:30:00 +01:00",
                "2026-03-29 03:00:00 +02:00",
                "2026-03-30 02:30:00 +02:00",
            ],
        ),
        (
            "30 2 * * *",
            BERLIN,
            "2027-03-27T12:00:00Z",
            &["2027-03-28 03:00:00 +02:00", "2027-03-29 02:30:00 +02:00"],
        ),
        (
            "30 2 * * *",
            NEW_YORK,
            "2026-03-07T12:00:00Z",
            &["2026-03-08 03:00:00 -04:00", "2026-03-09 02:30:00 -04:00"],
        ),
        (
            "30 2 * * *",
            NEW_YORK,
            "2027-03-13T12:00:00Z",
            &["2027-03-14 03:00:00 -04:00", "2027-03-15 02:30:00 -04:00"],
        ),
        // Several skipped times run together, and with one that is due there anyway.
        (
            "0,20,40 2,3 * * *",
            BERLIN,
            "2026-03-28T12:00:00Z",
            &["2026-03-29 03:00:00 +02:00", "2026-03-29 03:20:00 +02:00"],
        ),
        // A list of hours is fixed times too.
        (
            "15 2,14 * * *",
            BERLIN,
            "2026-03-28T14:00:00Z",
            &["2026-03-29 03:00:00 +02:00", "2026-03-29 14:15:00 +02:00"],
        ),
        // The whole night's work would be lost.
        (
            "*/15 2 * * *",
            BERLIN,
            "2026-03-28T12:00:00Z",
            &["2026-03-29 03:00:00 +02:00", "2026-03-30 02:00:00 +02:00"],
        ),
        // The hour before the gap is not in it.
        (
            "59 1 * * *",
            BERLIN,
            "2026-03-28T12:00:00Z",
            &["2026-03-29 01:59:00 +01:00", "2026-03-30 01:59:00 +02:00"],
        ),
        (
            "0 3 * * *",
            BERLIN,
            "2026-03-28T12:00:00Z",
            &["2026-03-29 03:00:00 +02:00", "2026-03-30 03:00:00 +02:00"],
        ),
    ];
    for (cron, zone, after, expected) in rows {
        check(cron, zone, after, expected);
    }
}

#[test]
fn a_gap_of_a_whole_day_runs_its_times_at_the_end() {
    check(
        "0 12 * * *",
        "Pacific/Apia",
        "2011-12-29T23:00:00Z",
        &["2011-12-31 00:00:00 +14:00", "2011-12-31 12:00:00 +14:00"],
    );
    check("0 0 30 12 *", "Pacific/Apia", "2011-06-01T00:00:00Z", &["2011-12-31 00:00:00 +14:00"]);
}

#[test]
fn midnight_in_the_gap_runs_at_one() {
    check(
        "0 0 * * *",
        "America/Santiago",
        "2026-09-05T12:00:00Z",
        &["2026-09-06 01:00:00 -03:00", "2026-09-07 00:00:00 -03:00"],
    );
}

#[test]
fn an_interval_keeps_its_pace_through_the_spring_gap() {
    check(
        "*/15 * * * *",
        BERLIN,
        "2026-03-29T00:30:00Z",
        &["2026-03-29 01:45:00 +01:00", "2026-03-29 03:00:00 +02:00", "2026-03-29 03:15:00 +02:00"],
    );
    check(
        "30 * * * *",
        NEW_YORK,
        "2026-03-08T06:00:00Z",
        &["2026-03-08 01:30:00 -05:00", "2026-03-08 03:30:00 -04:00"],
    );
    check(
        "*/20 * * * * *",
        BERLIN,
        "2027-03-28T00:59:30Z",
        &["2027-03-28 01:59:40 +01:00", "2027-03-28 03:00:00 +02:00"],
    );
}

#[test]
fn a_fixed_time_runs_once_in_the_autumn_overlap() {
    let rows: [(&str, &str, &str, &[&str]); 7] = [
        (
            "30 2 * * *",
            BERLIN,
            "2026-10-24T12:00:00Z",
            &["2026-10-25 02:30:00 +02:00", "2026-10-26 02:30:00 +01:00"],
        ),
        (
            "30 2 * * *",
            BERLIN,
            "2027-10-30T12:00:00Z",
            &["2027-10-31 02:30:00 +02:00", "2027-11-01 02:30:00 +01:00"],
        ),
        (
            "30 1 * * *",
            NEW_YORK,
            "2026-10-31T12:00:00Z",
            &["2026-11-01 01:30:00 -04:00", "2026-11-02 01:30:00 -05:00"],
        ),
        (
            "30 1 * * *",
            NEW_YORK,
            "2027-11-06T12:00:00Z",
            &["2027-11-07 01:30:00 -04:00", "2027-11-08 01:30:00 -05:00"],
        ),
        // Lists and ranges are fixed times; the second pass yields nothing.
        (
            "0,30 2,14 * * *",
            BERLIN,
            "2026-10-24T13:00:00Z",
            &[
                "2026-10-25 02:00:00 +02:00",
                "2026-10-25 02:30:00 +02:00",
                "2026-10-25 14:00:00 +01:00",
            ],
        ),
        (
            "0 1-4 * * *",
            BERLIN,
            "2026-10-24T13:00:00Z",
            &[
                "2026-10-25 01:00:00 +02:00",
                "2026-10-25 02:00:00 +02:00",
                "2026-10-25 03:00:00 +01:00",
            ],
        ),
        // Asked in the middle of the second pass.
        ("30,40 2 * * *", BERLIN, "2026-10-25T01:35:00Z", &["2026-10-26 02:30:00 +01:00"]),
    ];
    for (cron, zone, after, expected) in rows {
        check(cron, zone, after, expected);
    }
}

#[test]
fn an_interval_keeps_its_pace_through_the_autumn_overlap() {
    check(
        "*/30 * * * *",
        BERLIN,
        "2026-10-24T23:45:00Z",
        &[
            "2026-10-25 02:00:00 +02:00",
            "2026-10-25 02:30:00 +02:00",
            "2026-10-25 02:00:00 +01:00",
            "2026-10-25 02:30:00 +01:00",
            "2026-10-25 03:00:00 +01:00",
        ],
    );
    check(
        "20 * * * *",
        NEW_YORK,
        "2026-11-01T05:00:00Z",
        &["2026-11-01 01:20:00 -04:00", "2026-11-01 01:20:00 -05:00", "2026-11-01 02:20:00 -05:00"],
    );
    check("0 0-23 * * *", NEW_YORK, "2026-11-01T05:00:00Z", &["2026-11-01 01:00:00 -05:00"]);
    check(
        "*/30 2 * * *",
        BERLIN,
        "2027-10-30T12:00:00Z",
        &[
            "2027-10-31 02:00:00 +02:00",
            "2027-10-31 02:30:00 +02:00",
            "2027-10-31 02:00:00 +01:00",
            "2027-10-31 02:30:00 +01:00",
            "2027-11-01 02:00:00 +01:00",
        ],
    );
    // An overlap of half an hour, asked between its seconds.
    check(
        "*/10 * * * *",
        "Australia/Lord_Howe",
        "2026-04-04T14:45:00.5Z",
        &["2026-04-05 01:50:00 +11:00", "2026-04-05 01:30:00 +10:30", "2026-04-05 01:40:00 +10:30"],
    );
}

#[test]
fn a_year_of_an_interval_has_no_hole_and_no_double_in_any_zone() {
    let quarter = Schedule::cron("*/15 * * * *").unwrap();
    for zone in [BERLIN, NEW_YORK, "Asia/Kathmandu", "Africa/Casablanca"] {
        let zone = TimeZone::parse(zone).unwrap();
        let start = at("2026-01-01T00:00:00Z");
        let year: Vec<_> = quarter
            .occurrences(start, zone)
            .take_while(|t| *t <= at("2027-01-01T00:00:00Z"))
            .collect();
        assert_eq!(year.len(), 365 * 24 * 4, "{zone}");
        assert!(year.windows(2).all(|w| w[1].since(w[0]) == Duration::from_secs(900)), "{zone}");
    }
}

#[test]
fn a_daily_time_runs_on_each_day_of_two_years_in_every_zone() {
    for tz in chrono_tz::TZ_VARIANTS.iter().step_by(7) {
        let zone = TimeZone::from(*tz);
        for cron in ["30 2 * * *", "0 0 * * *", "15 1 * * *"] {
            let mut last = at("2025-12-31T12:00:00Z");
            for next in Schedule::cron(cron).unwrap().occurrences(last, zone).take(730) {
                let minutes = next.since(last).as_secs() / 60;
                assert!((1..=37 * 60).contains(&minutes), "{cron} in {zone}: {last} then {next}");
                last = next;
            }
            let days = last.since(at("2025-12-31T12:00:00Z")).as_secs() / 86_400;
            assert!((728..=731).contains(&days), "{cron} in {zone}: {days} days");
        }
    }
}

#[test]
fn days_are_those_of_crontab() {
    let rows: [(&str, &[&str]); 27] = [
        // L, W, LW
        ("0 0 L * *", &["01-31", "02-28", "03-31", "04-30"]),
        ("0 0 LW * *", &["01-30", "02-27", "03-31", "04-30", "05-29"]),
        ("0 0 15W * *", &["01-15", "02-16", "03-16", "04-15", "05-15", "06-15", "07-15", "08-14"]),
        ("0 0 1W * *", &["01-01", "02-02", "03-02", "04-01", "05-01", "06-01", "07-01", "08-03"]),
        ("0 0 31W 5 *", &["05-29"]),
        ("0 0 L,15W 1-3 *", &["01-15", "01-31", "02-16", "02-28", "03-16", "03-31"]),
        ("0 0 1,L 2 *", &["02-01", "02-28"]),
        // nth and last weekdays
        ("0 0 * * 5#2", &["01-09", "02-13", "03-13"]),
        ("0 0 * * FRI#2", &["01-09", "02-13", "03-13"]),
        ("0 0 * * 5L", &["01-30", "02-27", "03-27"]),
        ("0 0 * * friL", &["01-30", "02-27", "03-27"]),
        ("0 0 * * 1#5", &["03-30", "06-29", "08-31"]),
        ("0 0 * * 7#1,0#3", &["01-04", "01-18", "02-01"]),
        // Sunday is 0 and 7
        ("0 0 * * 0", &["01-04", "01-11"]),
        ("0 0 * * 7", &["01-04", "01-11"]),
        ("0 0 * * sun", &["01-04", "01-11"]),
        ("0 0 * * 6-7", &["01-03", "01-04", "01-10"]),
        ("0 0 * * FRI-SUN", &["01-02", "01-03", "01-04", "01-09"]),
        ("0 0 * * SUN-MON", &["01-04", "01-05", "01-11"]),
        // names, ranges, steps, lists
        ("0 0 1 FEB,apr-Jun *", &["02-01", "04-01", "05-01", "06-01"]),
        ("0 0 1 */4 *", &["01-01", "05-01", "09-01"]),
        ("0 0 10-31/10 1 *", &["01-10", "01-20", "01-30"]),
        ("0 0 1 JAN-DEC/6 *", &["01-01", "07-01"]),
        // both day fields restricted: either
        ("0 0 13 * 5", &["01-02", "01-09", "01-13", "01-16"]),
        ("0 0 13 * *", &["01-13", "02-13"]),
        ("0 0 ? * 5", &["01-02", "01-09", "01-16"]),
        ("0 0 */1 * 5", &["01-02", "01-09", "01-16"]),
    ];
    for (cron, expected) in rows {
        check_days(cron, expected);
    }
}

#[test]
fn times_are_those_of_crontab() {
    let from = "2026-01-01T00:00:00Z";
    let rows: [(&str, &str); 14] = [
        ("* * * * *", "2026-01-01 00:01:00 +00:00"),
        ("* * * * * *", "2026-01-01 00:00:01 +00:00"),
        ("*/7 * * * * *", "2026-01-01 00:00:07 +00:00"),
        ("30 5 9 * * *", "2026-01-01 09:05:30 +00:00"),
        ("5-10/5 9 * * *", "2026-01-01 09:05:00 +00:00"),
        ("  0\t12  * * MON  ", "2026-01-05 12:00:00 +00:00"),
        ("@hourly", "2026-01-01 01:00:00 +00:00"),
        ("@daily", "2026-01-02 00:00:00 +00:00"),
        ("@Midnight", "2026-01-02 00:00:00 +00:00"),
        ("@weekly", "2026-01-04 00:00:00 +00:00"),
        ("@monthly", "2026-02-01 00:00:00 +00:00"),
        ("@yearly", "2027-01-01 00:00:00 +00:00"),
        ("@annually", "2027-01-01 00:00:00 +00:00"),
        ("0 0 29 2 *", "2028-02-29 00:00:00 +00:00"),
    ];
    for (cron, expected) in rows {
        check(cron, "UTC", from, &[expected]);
    }
}

#[test]
fn bad_expressions_are_refused_by_field_and_reason() {
    let rows = [
        ("", "is empty"),
        (" \t ", "is empty"),
        ("* * * *", "`* * * *` has 4 fields, there must be 5, or 6 with the seconds first"),
        (
            "0 0 0 1 1 * 2026",
            "`0 0 0 1 1 * 2026` has 7 fields, there must be 5, or 6 with the seconds first",
        ),
        ("60 * * * *", "minute: 60 is outside 0-59"),
        ("* 24 * * *", "hour: 24 is outside 0-23"),
        ("* * 0 * *", "day of month: 0 is outside 1-31"),
        ("* * * 13 *", "month: 13 is outside 1-12"),
        ("* * * * 8", "day of week: 8 is outside 0-7"),
        ("61 * * * * *", "second: 61 is outside 0-59"),
        ("1-100000000 * * * *", "minute: 100000000 is outside 0-59"),
        (
            "1-99999999999999999999999999 * * * *",
            "minute: 99999999999999999999999999 is outside 0-59",
        ),
        ("*/0 * * * *", "minute: `*/0`: the step is outside 1-59"),
        ("*/60 * * * *", "minute: `*/60`: the step is outside 1-59"),
        ("*/100000000 * * * *", "minute: `*/100000000`: the step is outside 1-59"),
        ("*/x * * * *", "minute: `*/X`: the step is not a number"),
        ("5/15 * * * *", "minute: `5/15`: a step needs a range, such as `*/15`"),
        ("30-10 * * * *", "minute: `30-10`: the range runs backwards"),
        ("* * * * FRI-MON", "day of week: `FRI-MON`: the range runs backwards"),
        ("1,,2 * * * *", "minute: a value is missing"),
        ("1, * * * *", "minute: a value is missing"),
        ("- * * * *", "minute: `` is not a number from 0 to 59"),
        ("-1 * * * *", "minute: `` is not a number from 0 to 59"),
        ("MON * * * *", "minute: `MON` is not a number from 0 to 59"),
        ("? * * * *", "minute: `?` is not a number from 0 to 59"),
        ("* L * * *", "hour: `L` is not a number from 0 to 23"),
        ("* * * FOO *", "month: `FOO` is not a number from 1 to 12 or a name from JAN to DEC"),
        ("* * * * JAN", "day of week: `JAN` is not a number from 0 to 7 or a name from SUN to SAT"),
        ("* * * * L", "day of week: `L` needs a day, such as `5L` for the last Friday"),
        ("* * * * 5#6", "day of week: `5#6`: the number after # is outside 1-5"),
        ("* * * * 5#", "day of week: `5#`: the number after # is outside 1-5"),
        ("* * * * +5", "day of week: `+5` is not a number from 0 to 7 or a name from SUN to SAT"),
        ("* * L-3 * *", "day of month: `L-3`: `L` takes no offset"),
        ("* * 32W * *", "day of month: 32 is outside 1-31"),
        ("* * W * *", "day of month: `` is not a number from 1 to 31"),
        ("* * L,LW * *", "day of month: `L` and `LW` cannot stand together"),
        ("0 0 30 2 *", "`0 0 30 2 *` never fires: no year has such a day"),
        ("0 0 31 4,6,9,11 *", "`0 0 31 4,6,9,11 *` never fires: no year has such a day"),
        ("0 0 30W FEB *", "`0 0 30W FEB *` never fires: no year has such a day"),
        ("@reboot", "`@reboot` names no instant; enqueue the job when the program starts"),
        (
            "@often",
            "`@often` is unknown; there are @yearly, @annually, @monthly, @weekly, @daily, \
             @midnight and @hourly",
        ),
        ("* * * * *\0", "contains the character '\\0'"),
        ("* * * *\n*", "contains the character '\\n'"),
        ("* * * * \u{661}", "contains the character '\u{661}'"),
    ];
    for (cron, reason) in rows {
        match Schedule::cron(cron) {
            Ok(schedule) => panic!("{cron:?} was accepted as {schedule:?}"),
            Err(error) => {
                assert_eq!(error.message(), format!("cron: {reason}"), "{cron:?}");
                assert_eq!(error.kind(), ErrorKind::InvalidInput);
            }
        }
    }
    let long = format!("{} * * * *", "1,".repeat(100));
    let error = Schedule::cron(&long).unwrap_err();
    assert_eq!(error.message(), "cron: is 208 bytes long, 200 are allowed");
}

#[test]
fn any_text_is_answered_without_a_panic_and_soon() {
    let parts =
        ["*", "0", "7", "59", "L", "W", "#", "-", "/", ",", "?", " ", "MON", "@", "feb", "LW"];
    let mut seed = 7_u64;
    let started = Instant::now();
    let zone = TimeZone::parse(BERLIN).unwrap();
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..14 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            text.push_str(parts[usize::try_from(seed >> 33).unwrap() % parts.len()]);
        }
        // The same pieces as a day field, where most of them mean something.
        for cron in [text.clone(), format!("0 2 {} * *", text.replace(' ', ""))] {
            if let Ok(schedule) = Schedule::cron(&cron) {
                let now = at("2026-10-25T00:30:00Z");
                let next = schedule.next_after(now, zone);
                assert!(next.is_some_and(|next| next > now), "{cron}");
            }
        }
    }
    assert!(started.elapsed() < Duration::from_secs(30));
}

#[test]
fn every_occurrence_is_later_than_the_last_whatever_the_clock_does() {
    let crons = ["* * * * *", "*/17 * * * * *", "30 1,2,3 * * *", "0-59/7 2 * * *", "0 */2 * * *"];
    for zone in [BERLIN, NEW_YORK, "Australia/Lord_Howe", "America/St_Johns", "Africa/Casablanca"] {
        let zone = TimeZone::parse(zone).unwrap();
        for cron in crons {
            let schedule = Schedule::cron(cron).unwrap();
            for start in ["2026-03-07T22:00:00.25Z", "2026-03-28T22:00:00Z", "2026-10-24T22:00:00Z"]
            {
                let mut last = at(start);
                for next in schedule.occurrences(last, zone).take(400) {
                    assert!(next > last, "{cron} in {zone}: {last} then {next}");
                    // From anywhere in between, the answer is the same.
                    let middle = Timestamp::from_micros(
                        last.as_micros() + (next.as_micros() - last.as_micros()) / 2,
                    );
                    assert_eq!(schedule.next_after(middle, zone), Some(next), "{cron} in {zone}");
                    last = next;
                }
            }
        }
    }
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

/// Seeded numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % below as u64).unwrap()
    }
}

/// Text that looks like a schedule more often than chance would have it.
fn scribble(random: &mut Random) -> String {
    const WORDS: [&str; 24] = [
        "*",
        "*/5",
        "0",
        "1",
        "7",
        "12",
        "31",
        "59",
        "60",
        "1-5",
        "5-1",
        "0-100000000",
        "L",
        "LW",
        "15W",
        "5#2",
        "5L",
        "?",
        "MON",
        "JAN-MAR",
        "1,2,3",
        "@daily",
        "2030",
        "4294967296",
    ];
    const SIGNS: &[u8] = b"*/-,?LW#@ 0123456789abcMONJAN\t\n\0\xc3\xa4";
    match random.below(3) {
        0 => {
            let bytes: Vec<u8> =
                (0..random.below(24)).map(|_| SIGNS[random.below(SIGNS.len())]).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        }
        // Mostly of values that every field knows.
        1 => {
            let word = |random: &mut Random| match random.below(9) {
                0 => WORDS[random.below(WORDS.len())],
                1 => "?",
                n => WORDS[n % 5],
            };
            let words: Vec<_> = (0..5 + random.below(3)).map(|_| word(random)).collect();
            words.join(" ")
        }
        _ => {
            let words: Vec<_> =
                (0..4 + random.below(5)).map(|_| WORDS[random.below(WORDS.len())]).collect();
            words.join(" ")
        }
    }
}

#[test]
fn no_text_makes_a_parser_panic_and_what_is_read_goes_forward() {
    let mut random = Random(20_261_123);
    let zones =
        [TimeZone::UTC, TimeZone::parse(BERLIN).unwrap(), TimeZone::parse(NEW_YORK).unwrap()];
    let after = at("2026-03-28T23:59:59.5Z");
    let mut read = 0;
    for _ in 0..20_000 {
        let text = scribble(&mut random);
        let zone = zones[random.below(zones.len())];
        for schedule in [Schedule::cron(&text), Schedule::quartz(&text)].into_iter().flatten() {
            read += 1;
            let upcoming = schedule.upcoming(after, zone, 3);
            let mut last = after;
            for next in upcoming {
                assert!(next > last, "{schedule} in {zone}: {next} after {last}");
                last = next;
            }
            let stored = serde_json::to_string(&schedule).unwrap();
            assert_eq!(serde_json::from_str::<Schedule>(&stored).unwrap(), schedule, "{stored}");
        }
        assert!(TimeZone::parse(&text).is_err(), "{text:?}");
    }
    assert!(read > 200, "some of it is read: {read}");
}
