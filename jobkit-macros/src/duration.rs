//! Durations as people write them: one dialect for options, settings, filters and the command line.
// The macros cannot depend on jobkit-core: `jobkit-macros/src/duration.rs` is a copy of this file, and a
// test compares the two.

use std::time::Duration;

/// What is accepted, as every error says it.
pub const DURATIONS: &str = "write numbers with the units ms, s, m (or min), h and d, such as 250ms, 90s, \
                             1h30m or 2d, up to 36500d";

/// The longest duration that can be written: a hundred years, in milliseconds.
const LONGEST: u64 = 36_500 * 86_400_000;

/// Reads a duration: whole numbers, each with the unit `ms`, `s`, `m` or `min`, `h` or `d`, which are added
/// up. Spaces may stand around a number. Zero is a duration; whether it makes sense is for the caller.
///
/// # Errors
/// The text, and what is accepted.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    millis(text.trim())
        .filter(|millis| *millis <= LONGEST)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("`{text}` is not a duration; {DURATIONS}"))
}

fn millis(mut rest: &str) -> Option<u64> {
    let mut total: Option<u64> = None;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let after = after.trim_start();
        let end = after.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(after.len());
        let unit = match &after[..end] {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        let part = number.parse::<u64>().ok()?.checked_mul(unit)?;
        total = Some(total.unwrap_or(0).checked_add(part)?);
        rest = after[end..].trim_start();
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units_are_added_up() {
        for (text, millis) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("2m", 120_000),
            ("2min", 120_000),
            ("1h", 3_600_000),
            ("36500d", LONGEST),
            ("1h30m", 5_400_000),
            ("1d 12 h", 129_600_000),
            (" 1 h\t", 3_600_000),
            ("007d", 604_800_000),
            ("30m1h", 5_400_000),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text:?}");
        }
    }

    #[test]
    fn everything_else_is_refused_with_what_is_accepted() {
        for text in [
            "",
            " ",
            "s",
            "1",
            "1h30",
            "-1s",
            "+1s",
            "1.5h",
            "1H",
            "1w",
            "1y",
            "1ss",
            "1m5",
            "5mm",
            "1,5s",
            "2 minutes",
            "1h and 5m",
            "\u{661}s",
            "1s\0",
            "1µs",
            "36501d",
            "36500d1ms",
            "18446744073709551615d",
            "18446744073709551615ms1ms",
            "18446744073709551616s",
        ] {
            let expected = format!("`{text}` is not a duration; {DURATIONS}");
            assert_eq!(parse_duration(text), Err(expected));
        }
    }

    #[test]
    fn no_text_panics() {
        const PARTS: [&str; 14] = [
            "0",
            "1",
            "99",
            "18446744073709551615",
            "ms",
            "s",
            "m",
            "h",
            "d",
            " ",
            "-",
            ".",
            "\u{e4}",
            "\0",
        ];
        let mut random: u64 = 20_261_123;
        let mut read = 0;
        for n in 0..20_000 {
            let mut text = String::new();
            for _ in 0..n % 5 {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                text += PARTS[usize::try_from(random >> 33).unwrap_or(0) % PARTS.len()];
            }
            read += u32::from(parse_duration(&text).is_ok());
        }
        assert!(read > 200, "some of it is read: {read}");
    }
}
