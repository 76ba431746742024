//! What recurs when the clock of its zone leaps.

use std::time::Duration;

use super::*;

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
