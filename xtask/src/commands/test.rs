//! `cargo xtask test`: all tests of the workspace, documentation included.

use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::process::Stdio;
use std::time::Instant;

use crate::process::{announce, cargo, run as run_program};
use crate::{Failure, Outcome, requirements};

/// Arguments go to nextest.
///
/// The runner's closing line is printed again at the end, so that a log ends with the number of
/// tests that ran.
pub(crate) fn run(arguments: &[String]) -> Outcome {
    requirements::ensure(&requirements::OF_TESTS)?;
    let started = Instant::now();
    let (tests, closing_line) = run_nextest(arguments)?;
    let documentation = run_program(cargo(&["test", "--doc", "--workspace", "--all-features"]));
    // Tests that were chosen are all that is wanted.
    let steps = if arguments.is_empty() { run_steps() } else { Ok(()) };

    println!();
    if let Ok(skipped) = std::env::var("JOBKIT_TEST_SKIP")
        && !skipped.is_empty()
    {
        println!("not run, as JOBKIT_TEST_SKIP says: {skipped}");
    }
    for (name, outcome) in [
        ("tests", &tests),
        ("examples in the documentation", &documentation),
        ("steps of the guide for backends", &steps),
    ] {
        let word = if outcome.is_ok() { "passed" } else { "FAILED" };
        println!("{name}: {word}");
    }
    println!("time: {:.1} s", started.elapsed().as_secs_f64());
    println!("{}", closing_line.as_deref().unwrap_or("no tests ran: see above"));
    tests.and(documentation).and(steps).map_err(|_| Failure::Told)
}

/// Builds and runs each step of `docs/writing-a-backend.md` alone. The last one is the default, and ran with
/// all other tests.
fn run_steps() -> Outcome {
    for step in 1..=7 {
        let step = format!("step-{step}");
        let arguments = ["-p", "toy-backend", "--no-default-features", "--features", &step];
        let mut test = cargo(&["test", "--quiet"]);
        test.args(arguments).args(["--test", "steps"]);
        run_program(test)?;
    }
    Ok(())
}

/// Runs the tests; answers whether they passed, and nextest's summary if it came so far.
fn run_nextest(arguments: &[String]) -> Result<(Outcome, Option<String>), Failure> {
    let mut nextest = cargo(&["nextest", "run", "--workspace", "--all-features"]);
    if std::env::var("CI").is_ok_and(|ci| ci == "true") {
        nextest.args(["--profile", "ci"]);
    }
    // Behind a pipe it would drop its colours.
    if std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        nextest.args(["--color", "always"]);
    }
    nextest.args(arguments);
    announce(&nextest);
    let cannot = |error: std::io::Error| Failure::Because(format!("cannot run nextest: {error}"));
    let mut child = nextest.stderr(Stdio::piped()).spawn().map_err(cannot)?;
    let closing_line = match child.stderr.take() {
        Some(stderr) => pass_on(stderr, std::io::stderr()).map_err(cannot)?,
        None => None,
    };
    let status = child.wait().map_err(cannot)?;
    let outcome = if status.success() { Ok(()) } else { Err(Failure::Told) };
    Ok((outcome, closing_line))
}

/// Copies line by line, and keeps the last summary.
fn pass_on(from: impl Read, mut to: impl Write) -> std::io::Result<Option<String>> {
    let mut from = BufReader::new(from);
    let mut summary = None;
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line)? > 0 {
        to.write_all(&line)?;
        let text = without_colours(&String::from_utf8_lossy(&line));
        if is_summary(&text) {
            summary = Some(text.trim().to_owned());
        }
        line.clear();
    }
    to.flush()?;
    Ok(summary)
}

/// Whether this is a line such as `Summary [   0.028s] 6 tests run: 6 passed, 0 skipped`.
fn is_summary(line: &str) -> bool {
    let words = line.trim_start().strip_prefix("Summary [");
    words.is_some_and(|words| words.contains(" run: "))
}

/// The text without escape sequences for colours.
fn without_colours(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("\x1b[") {
        plain.push_str(&rest[..start]);
        let sequence = &rest[start + 2..];
        let end = sequence.find(|c: char| c.is_ascii_alphabetic());
        rest = end.map_or("", |end| &sequence[end + 1..]);
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_found_and_everything_passed_on() {
        let log = "        PASS [   0.006s] (1/2) core Summary [x] run: \n\
                   \x1b[1m     Summary\x1b[0m [   0.028s] \x1b[1m2\x1b[0m tests run: 1 passed, 1 failed\n\
                   \x1b[31mFAIL\x1b[0m [   0.006s] (2/2) core\nerror: test run failed";
        let mut passed_on = Vec::new();
        let summary = pass_on(log.as_bytes(), &mut passed_on).unwrap();
        assert_eq!(summary.as_deref(), Some("Summary [   0.028s] 2 tests run: 1 passed, 1 failed"));
        assert_eq!(passed_on, log.as_bytes());
    }

    #[test]
    fn a_build_that_fails_has_no_summary() {
        let summary = pass_on(&b"error: could not compile\n\x1b["[..], std::io::sink()).unwrap();
        assert_eq!(summary, None);
    }
}
