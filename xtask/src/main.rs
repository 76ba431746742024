//! Development commands: `cargo xtask <command>`.
//!
//! Each command is a file of its own under `commands/` and a line in [`COMMANDS`].
//! The standard library alone is used, so that a command starts in a moment on a fresh clone.

mod commands;
mod process;
mod requirements;

use std::process::ExitCode;

use commands::{chaos, fix, package, simulate, soak, test, verify};

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// To be printed.
    Because(String),
    /// What there is to say has been said.
    Told,
}

type Outcome = Result<(), Failure>;

/// A command, as `cargo xtask help` lists it.
struct Command {
    name: &'static str,
    arguments: &'static str,
    summary: &'static str,
    run: fn(&[String]) -> Outcome,
}

const COMMANDS: [Command; 7] = [
    Command {
        name: "test",
        arguments: "[nextest arguments]",
        summary: "runs all tests; first looks for what they need",
        run: test::run,
    },
    Command {
        name: "verify",
        arguments: "",
        summary: "checks format, spelling, licences, lints, features and documentation, changes nothing",
        run: verify::run,
    },
    Command {
        name: "simulate",
        arguments: "[--seeds N | --seconds N] [--first-seed N]",
        summary: "lets an adversary try to break the engine, in virtual time",
        run: simulate::run,
    },
    Command {
        name: "fix",
        arguments: "",
        summary: "formats, and applies what clippy can fix",
        run: fix::run,
    },
    Command {
        name: "chaos",
        arguments: "[--minutes N]",
        summary: "kills, freezes and restarts real servers, and checks the books",
        run: chaos::run_chaos,
    },
    Command {
        name: "soak",
        arguments: "[--minutes N] [--seed N]",
        summary: "simulation, model, fuzz and chaos with other seeds, sharing the time",
        run: soak::run_soak,
    },
    Command {
        name: "package",
        arguments: "",
        summary: "packs every crate, and builds a program from the packed files",
        run: package::run_package,
    },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Failure::Because(reason) = failure {
                eprintln!("error: {reason}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Outcome {
    let Some((name, rest)) = arguments.split_first() else {
        print!("{}", help());
        return Err(Failure::Told);
    };
    if matches!(name.as_str(), "help" | "--help" | "-h") {
        print!("{}", help());
        return Ok(());
    }
    match COMMANDS.iter().find(|command| command.name == name) {
        Some(command) if command.arguments.is_empty() && !rest.is_empty() => {
            Err(Failure::Because(format!("`{name}` takes no arguments")))
        }
        Some(command) => (command.run)(rest),
        None => {
            print!("{}", help());
            Err(Failure::Because(format!("there is no command `{name}`")))
        }
    }
}

fn help() -> String {
    let mut text = "Usage: cargo xtask <command>\n\n".to_owned();
    let listed = COMMANDS.iter().map(|c| (c.name, c.arguments, c.summary));
    for (name, arguments, summary) in listed.chain([("help", "", "prints this")]) {
        text.push_str(&format!("  {:<28}{summary}\n", format!("{name} {arguments}")));
    }
    text.push_str(
        "\nEnvironment:
  CI=true                     tests run with nextest's profile `ci`
  JOBKIT_INSTALL=yes|no       whether to install what tests need; by default only as root on
                              Debian or Ubuntu
  JOBKIT_TEST_SKIP=a,b        backends whose tests may be left out, named at the end
",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_names_every_command() {
        for command in &COMMANDS {
            assert!(help().contains(&format!("\n  {}", command.name)), "{}", command.name);
        }
    }

    #[test]
    fn an_unknown_command_and_needless_arguments_are_refused() {
        for arguments in [&["tset"][..], &["verify", "now"], &["fix", "all"], &[]] {
            let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
            assert!(run(&arguments).is_err(), "{arguments:?}");
        }
    }
}
