//! The dialect of crontab: which days and times an expression means, and what is refused.

use std::time::{Duration, Instant};

use super::*;

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
