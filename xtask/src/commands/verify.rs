//! `cargo xtask verify`: everything that can be said without running a test. It changes nothing.

use crate::process::{cargo, run as run_program};
use crate::{Failure, Outcome};

pub(crate) fn run(_arguments: &[String]) -> Outcome {
    let mut documentation = cargo(&["doc", "--workspace", "--no-deps", "--all-features"]);
    documentation.env("RUSTDOCFLAGS", "-D warnings");
    let steps = [
        ("format", cargo(&["fmt", "--all", "--check"])),
        (
            "lints",
            cargo(&[
                "clippy",
                "--workspace",
                "--all-targets",
                "--all-features",
                "--",
                "-D",
                "warnings",
            ]),
        ),
        ("documentation", documentation),
    ];
    // All of them, so that one run shows everything there is to mend.
    let mut failed = Vec::new();
    for (name, step) in steps {
        if run_program(step).is_err() {
            failed.push(name);
        }
    }
    if failed.is_empty() {
        println!("verified: format, lints, documentation");
        return Ok(());
    }
    Err(Failure::Because(format!("not in order: {}", failed.join(", "))))
}
