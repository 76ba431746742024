//! Any text: read or refused, never a panic.

use super::*;

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
