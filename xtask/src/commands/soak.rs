//! `cargo xtask soak`: everything that looks for faults with other seeds each time, for a given time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::process::{cargo, run_and_collect};
use crate::{Failure, Outcome, requirements};

use super::chaos;

/// With which a line begins that names the command to repeat a failure.
const AGAIN: &str = "again: ";

/// Each part gets its share of the time, of eight; builds come on top.
const SHARES: [(&str, u64); 4] = [("simulation", 2), ("model", 2), ("fuzz", 1), ("chaos", 3)];

/// The tests that compare storages with the model: as many at a time as there are, so that each has the
/// whole share.
const MODEL_TESTS: &str = "8";

pub(crate) fn run_soak(arguments: &[String]) -> Outcome {
    let options = Options::parse(arguments).map_err(Failure::Because)?;
    requirements::ensure(&requirements::OF_TESTS)?;
    let seed = options.seed.unwrap_or_else(seed_of_now);
    println!("cargo xtask soak --minutes {} --seed {seed}", options.minutes);
    let mut failed = Vec::new();
    let mut lines = Vec::new();
    for (part, share) in SHARES {
        let seconds = options.minutes * 60 * share / 8;
        let started = Instant::now();
        let (outcome, again) = run_part(part, seed, seconds);
        lines.push(format!(
            "{part}: {} ({} s, with its build)",
            if outcome.is_ok() { "passed" } else { "FAILED" },
            Duration::as_secs(&started.elapsed()),
        ));
        if outcome.is_err() {
            let fallback =
                || vec![format!("cargo xtask soak --minutes {} --seed {seed}", options.minutes)];
            failed.extend(if again.is_empty() { fallback() } else { again });
        }
    }
    println!();
    lines.iter().for_each(|line| println!("{line}"));
    failed.iter().for_each(|command| println!("{AGAIN}{command}"));
    if failed.is_empty() { Ok(()) } else { Err(Failure::Told) }
}

/// Runs one part; what repeats its failures.
fn run_part(part: &str, seed: u64, seconds: u64) -> (Outcome, Vec<String>) {
    let (text, number) = (seconds.to_string(), seed.to_string());
    let command = match part {
        "simulation" => {
            let mut simulate =
                cargo(&["run", "--release", "-p", "conformance-tests", "--example", "simulate"]);
            simulate.args(["--", "--seconds", &text, "--first-seed", &number]);
            simulate
        }
        "model" => {
            let mut model = cargo(&["nextest", "run", "--release", "-p", "jobkit-sqlite"]);
            model.args([
                "-p",
                "toy-backend",
                "-E",
                "test(/answer_as_the_model|is_what_the_model/)",
            ]);
            // Nextest ends what takes five minutes; this takes what was asked for.
            model.args(["--config-file", chaos::CONFIG, "--test-threads", MODEL_TESTS]);
            model.env("JOBKIT_MODEL_SEED", &number).env("JOBKIT_MODEL_SECONDS", &text);
            model
        }
        "fuzz" => {
            let mut fuzz = cargo(&["nextest", "run", "--release", "-p", "jobkit-sqlite"]);
            fuzz.args(["-E", "test(whatever_is_written)", "--config-file", chaos::CONFIG]);
            fuzz.env("JOBKIT_FUZZ_SEED", &number).env("JOBKIT_FUZZ_SECONDS", &text);
            fuzz
        }
        _ => {
            let minutes = seconds.div_ceil(60);
            let again =
                format!("cargo xtask chaos --storage sqlite --minutes {minutes} --seed {seed}");
            let command = chaos::command("sqlite", seconds.max(20), Some(seed));
            return (run_and_collect(command, AGAIN).0, vec![again]);
        }
    };
    run_and_collect(command, AGAIN)
}

/// Another one each minute; it is printed, so that it can be repeated.
#[allow(clippy::disallowed_methods, reason = "only chooses where to begin")]
fn seed_of_now() -> u64 {
    // Seeds that follow each other are played one after the other: begin far from those of before.
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() / 60 * 10_000)
}

#[derive(Debug, PartialEq)]
struct Options {
    minutes: u64,
    seed: Option<u64>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self { minutes: 10, seed: None };
        let mut arguments = arguments.iter();
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("`{name}` needs a value"))?;
            let number = value.parse::<u64>().map_err(|_| format!("`{name}` needs a number"))?;
            match name.as_str() {
                "--minutes" => options.minutes = number.clamp(1, 24 * 60),
                "--seed" => options.seed = Some(number),
                _ => return Err(format!("`{name}` is not an option")),
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_mistakes_told() {
        let parse = |text: &str| {
            let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
            Options::parse(&words)
        };
        assert_eq!(parse(""), Ok(Options { minutes: 10, seed: None }));
        assert_eq!(parse("--minutes 30 --seed 7"), Ok(Options { minutes: 30, seed: Some(7) }));
        for wrong in ["--minutes", "--minutes ten", "--hours 1", "--seed x"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_parts_share_the_time() {
        assert_eq!(SHARES.iter().map(|(_, share)| share).sum::<u64>(), 8);
    }
}
