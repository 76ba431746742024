//! `cargo xtask chaos`: real server processes, killed, frozen and restarted for some minutes.

use std::process::Command;

use crate::process::{cargo, run};
use crate::{Failure, Outcome};

/// The storages that know how to start and disturb their servers.
const STORAGES: [&str; 1] = ["sqlite"];

/// The settings of nextest for what takes as long as was asked for.
pub(crate) const CONFIG: &str = ".config/nextest-chaos.toml";

pub(crate) fn run_chaos(arguments: &[String]) -> Outcome {
    let options = Options::parse(arguments).map_err(Failure::Because)?;
    run(command(options.storage, options.minutes * 60, options.seed))
}

/// The command that disturbs the servers of a storage for so long.
pub(crate) fn command(storage: &str, seconds: u64, seed: Option<u64>) -> Command {
    let mut command = cargo(&["nextest", "run", "--release", "-p", "jobkit", "--all-features"]);
    command.args([
        "--no-capture",
        "-E",
        "test(=chaos::chaos_loses_nothing_and_finishes_everything_once)",
    ]);
    // Nextest ends what takes five minutes; this takes what was asked for.
    command.args(["--config-file", CONFIG]);
    command.env("JOBKIT_CHAOS_STORAGE", storage);
    command.env("JOBKIT_CHAOS_SECONDS", seconds.to_string());
    if let Some(seed) = seed {
        command.env("JOBKIT_CHAOS_SEED", seed.to_string());
    }
    command
}

#[derive(Debug, PartialEq)]
struct Options {
    storage: &'static str,
    minutes: u64,
    seed: Option<u64>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self { storage: STORAGES[0], minutes: 1, seed: None };
        let mut arguments = arguments.iter();
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("`{name}` needs a value"))?;
            let number = || value.parse::<u64>().map_err(|_| format!("`{name}` needs a number"));
            match name.as_str() {
                "--minutes" => options.minutes = number()?.clamp(1, 24 * 60),
                "--seed" => options.seed = Some(number()?),
                "--storage" => {
                    let known = STORAGES.into_iter().find(|storage| storage == value);
                    options.storage = known.ok_or_else(|| {
                        format!("`--storage {value}` is unknown; there is: {}", STORAGES.join(", "))
                    })?;
                }
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
        let expected = Options { storage: "sqlite", minutes: 10, seed: Some(7) };
        assert_eq!(parse("--storage sqlite --minutes 10 --seed 7"), Ok(expected));
        for wrong in ["--storage oracle", "--minutes", "--minutes ten", "--hours 1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
