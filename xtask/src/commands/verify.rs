//! `cargo xtask verify`: every check that runs no test. It changes no file of the repository; programs that
//! it needs are installed where that is allowed (`JOBKIT_INSTALL`).

use std::process::Command;

use crate::process::{cargo, root, run as run_program};
use crate::requirements::{self, Requirement};
use crate::{Failure, Outcome};

/// Features that a crate must compile with when each stands alone; the first set has none.
const ALONE: [(&str, &[&str]); 3] = [
    ("jobkit", &["", "macros", "anyhow", "metrics", "log-layer", "sqlite", "cli", "sqlite,cli"]),
    ("jobkit-core", &["", "anyhow", "metrics", "log-layer"]),
    ("jobkit-sqlite", &["bundled"]),
];

pub(crate) fn run(_arguments: &[String]) -> Outcome {
    let mut steps = vec![("format", cargo(&["fmt", "--all", "--check"]))];
    let mut left_out = Vec::new();
    match requirements::have(Requirement::Typos)? {
        true => {
            let mut typos = Command::new("typos");
            typos.args(["--format", "brief"]).current_dir(root());
            steps.push(("spelling", typos));
        }
        false => left_out.push("spelling"),
    }
    match requirements::have(Requirement::CargoDeny)? {
        // Advisories come from outside and change without us: the hosted workflow of the night asks for them.
        true => steps.push((
            "licences",
            cargo(&["deny", "--log-level", "error", "check", "bans", "licenses", "sources"]),
        )),
        false => left_out.push("licences"),
    }
    steps.push(("lints", lints(&["--workspace", "--all-targets", "--all-features"])));
    for (package, sets) in ALONE {
        for features in sets {
            let arguments = ["-p", package, "--no-default-features", "--features", features];
            steps.push(("each feature alone", lints(&arguments)));
        }
    }
    let mut documentation = cargo(&["doc", "--workspace", "--no-deps", "--all-features"]);
    documentation.env("RUSTDOCFLAGS", "-D warnings");
    steps.push(("documentation", documentation));
    // All of them, so that one run shows everything there is to fix.
    let (mut names, mut failed) = (Vec::new(), Vec::new());
    for (name, step) in steps {
        if !names.contains(&name) {
            names.push(name);
        }
        if run_program(step).is_err() && !failed.contains(&name) {
            failed.push(name);
        }
    }
    if failed.is_empty() {
        println!("verified: {}", names.join(", "));
        if !left_out.is_empty() {
            println!("not checked, since its program is missing: {}", left_out.join(", "));
        }
        return Ok(());
    }
    let left_out = match left_out.is_empty() {
        true => String::new(),
        false => format!("; not checked, since its program is missing: {}", left_out.join(", ")),
    };
    Err(Failure::Because(format!("not in order: {}{left_out}", failed.join(", "))))
}

fn lints(arguments: &[&str]) -> Command {
    cargo(&[&["clippy", "--quiet"], arguments, &["--", "-D", "warnings"]].concat())
}
