//! `cargo xtask fix`: fixes what machines can fix.

use crate::Outcome;
use crate::process::{cargo, run as run_program};

pub(crate) fn run(_arguments: &[String]) -> Outcome {
    run_program(cargo(&[
        "clippy",
        "--fix",
        "--allow-dirty",
        "--allow-staged",
        "--workspace",
        "--all-targets",
        "--all-features",
    ]))?;
    // Last, because what clippy writes is not formatted.
    run_program(cargo(&["fmt", "--all"]))
}
