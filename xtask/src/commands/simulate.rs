//! `cargo xtask simulate`: runs seeds of the simulation, which is an example of `conformance-tests`.

use crate::Outcome;
use crate::process::{cargo, run as run_program};

/// Arguments go to the simulation: `--seeds`, `--first-seed`, and `--trace` for every fact.
pub(crate) fn run(arguments: &[String]) -> Outcome {
    let mut simulate =
        cargo(&["run", "--release", "-p", "conformance-tests", "--example", "simulate", "--"]);
    simulate.args(arguments);
    run_program(simulate)
}
