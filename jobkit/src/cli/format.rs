//! Times, lengths and numbers as people read them.

use std::time::Duration;

use jobkit_core::Timestamp;
use jobkit_core::storage::Count;

/// An instant: relative within a day, then the date; the exact one with `utc`.
pub(super) fn time(at: Timestamp, now: Timestamp, utc: bool) -> String {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    if utc {
        return at.to_string();
    }
    let (length, ahead) = if at > now { (at.since(now), true) } else { (now.since(at), false) };
    if length >= DAY {
        return at.to_chrono().format("%Y-%m-%d %H:%M").to_string();
    }
    let text = duration(length);
    if ahead { format!("in {text}") } else { format!("{text} ago") }
}

/// A length with three significant digits.
pub(super) fn duration(length: Duration) -> String {
    let seconds = length.as_secs_f64();
    let (value, unit) = match length.as_secs() {
        0 if length.as_micros() < 1000 => (seconds * 1e6, "µs"),
        0 => (seconds * 1e3, "ms"),
        1..120 => (seconds, "s"),
        120..7_200 => (seconds / 60.0, "min"),
        7_200..172_800 => (seconds / 3600.0, "h"),
        _ => (seconds / 86_400.0, "d"),
    };
    let text = match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    };
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    };
    format!("{text} {unit}")
}

/// A number with separators between thousands.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number and how sure it is: `12`, `10,000+`, `≈ 5,000`.
pub(super) fn count(count: Count) -> String {
    match count {
        Count::Unknown => "?".to_owned(),
        Count::Exact(n) => number(n),
        Count::AtLeast(n) => format!("{}+", number(n)),
        Count::About(n) => format!("≈ {}", number(n)),
    }
}

/// A duration as people type it, longer than zero.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    match jobkit_core::duration::parse_duration(text)? {
        Duration::ZERO => Err(format!("`{text}` is not longer than zero")),
        duration => Ok(duration),
    }
}

/// An instant as people type it: RFC 3339, or a day, which begins at midnight UTC.
pub(super) fn parse_instant(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = chrono::DateTime::parse_from_rfc3339(text) {
        return Ok(at.into());
    }
    let day = chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").ok();
    let midnight = day.and_then(|day| day.and_hms_opt(0, 0, 0));
    midnight
        .map(|at| at.and_utc().into())
        .ok_or_else(|| format!("`{text}` is not an instant such as 2026-11-23T10:00:00Z or a day"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_three_digits() {
        for (micros, text) in [
            (0, "0 µs"),
            (950, "950 µs"),
            (1_234, "1.23 ms"),
            (12_345, "12.3 ms"),
            (999_000, "999 ms"),
            (61_000_000, "61 s"),
            (119_940_000, "120 s"),
            (600_000_000, "10 min"),
            (9_000_000_000, "2.5 h"),
            (864_000_000_000, "10 d"),
        ] {
            assert_eq!(duration(Duration::from_micros(micros)), text);
        }
    }

    #[test]
    fn numbers_and_instants_are_humane() {
        assert_eq!(
            (number(0), number(999), number(1_234_567)),
            ("0".into(), "999".into(), "1,234,567".into())
        );
        assert_eq!(count(Count::AtLeast(10_000)), "10,000+");
        let now = Timestamp::from_micros(1_767_225_600_000_000);
        assert_eq!(time(now.minus(Duration::from_secs(90)), now, false), "90 s ago");
        assert_eq!(time(now.plus(Duration::from_secs(7_200)), now, false), "in 2 h");
        assert_eq!(time(now.minus(Duration::from_secs(86_400)), now, false), "2025-12-31 00:00");
        assert_eq!(time(now, now, true), "2026-01-01T00:00:00.000000Z");
    }

    #[test]
    fn typed_lengths_and_instants_are_read() {
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("0s"), Err("`0s` is not longer than zero".to_owned()));
        assert!(parse_duration("5").is_err());
        let midnight = parse_instant("2026-01-01").expect("is a day");
        assert_eq!(parse_instant("2026-01-01T01:00:00+01:00"), Ok(midnight));
        assert!(parse_instant("tomorrow").is_err());
    }
}
