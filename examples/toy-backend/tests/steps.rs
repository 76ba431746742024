//! What must be green at each step of the guide: `cargo test -p toy-backend --no-default-features --features
//! step-3 --test steps`.
#![cfg(not(feature = "step-8"))]

mod toy;

use std::sync::Mutex;

use conformance_tests::try_case;
use toy::Toy;

/// The step that this was built for.
const STEP: usize = {
    let mut step = 1;
    let later = [
        cfg!(feature = "step-2"),
        cfg!(feature = "step-3"),
        cfg!(feature = "step-4"),
        cfg!(feature = "step-5"),
        cfg!(feature = "step-6"),
        cfg!(feature = "step-7"),
    ];
    while step <= later.len() && later[step - 1] {
        step += 1;
    }
    step
};

/// The cases of the steps so far: of each the line `step N`, then its cases. One that is red again when more is
/// offered than the level claims is promised by that step `alone`.
fn expected() -> Vec<&'static str> {
    let mut step = 0;
    let mut cases = Vec::new();
    for line in include_str!("steps.txt").lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line.strip_prefix("step ") {
            Some(number) => step = number.parse().expect("a number"),
            None => match line.strip_prefix("alone ") {
                Some(case) if step == STEP => cases.push(case),
                None if step <= STEP => cases.push(line),
                _ => {}
            },
        }
    }
    cases
}

/// The names of those that fail.
fn failing(cases: Vec<&'static str>) -> Vec<String> {
    let (cases, failed) = (Mutex::new(cases), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(name) = { cases.lock().expect("is whole").pop() } {
                    if let Err(why) = try_case::<Toy>(name) {
                        failed.lock().expect("is whole").push(format!("{name}: {why}"));
                    }
                }
            });
        }
    });
    failed.into_inner().expect("is whole")
}

#[test]
fn what_this_step_promises_is_green() {
    let cases = expected();
    assert!(!cases.is_empty());
    assert_eq!(failing(cases), Vec::<String>::new(), "at step {STEP}");
}
