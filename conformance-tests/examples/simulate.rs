//! Runs seeds of the simulation: `simulate --seeds 100 --first-seed 7`, or as many as there is time for:
//! `simulate --seconds 60`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use conformance_tests::simulation::{Options, run};

#[allow(clippy::print_stdout, reason = "that is what it is for")]
fn main() -> ExitCode {
    let (mut seeds, mut first, mut trace) = (1000_u64, 0_u64, false);
    let mut at_most = Duration::MAX;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|number| number.parse().ok());
        let known = match argument.as_str() {
            "--seeds" => number().map(|number| seeds = number),
            "--first-seed" => number().map(|number| first = number),
            "--seconds" => number().map(|number| {
                (at_most, seeds) = (Duration::from_secs(number), u64::MAX);
            }),
            "--trace" => {
                trace = true;
                Some(())
            }
            _ => None,
        };
        if known.is_none() {
            println!("usage: simulate [--seeds N | --seconds N] [--first-seed N] [--trace]");
            return ExitCode::FAILURE;
        }
    }
    let began = Instant::now();
    let mut failed = 0;
    let mut told = began;
    let mut done = 0;
    for seed in first..first.saturating_add(seeds) {
        if began.elapsed() >= at_most {
            break;
        }
        done += 1;
        let outcome = run(seed, &Options::default());
        if trace {
            print!("{}", outcome.trace());
        }
        if seeds == 1 {
            println!(
                "seed {seed}: {} facts, trace {}",
                outcome.history.events.len(),
                outcome.digest()
            );
        }
        if !outcome.violations.is_empty() {
            failed += 1;
            print!("{}", outcome.complaint(seed));
            if failed == 10 {
                break;
            }
        }
        if told.elapsed().as_secs() >= 10 {
            told = Instant::now();
            println!("{done} seeds, {failed} failed, {:.0?}", began.elapsed());
        }
    }
    println!("{done} seeds from {first} on: {failed} failed, {:.1?}", began.elapsed());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
