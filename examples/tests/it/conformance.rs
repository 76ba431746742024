//! The suite as a command line.

use std::process::{Command, Output};

fn conformance(arguments: &[&str]) -> Output {
    // Beside this test, where cargo puts them.
    let mut program = std::env::current_exe().expect("has a path");
    program.pop();
    program.pop();
    Command::new(program.join("examples/conformance")).args(arguments).output().expect("runs")
}

#[test]
fn a_storage_is_held_to_a_part_of_the_suite() {
    for url in ["memory:", "sqlite:"] {
        let output = conformance(&[url, "submit::", "durable::"]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
        assert!(text.contains("ok    submit::a_flow_becomes_visible"), "{text}");
        assert!(text.contains(": proven are G1 G2 "), "{text}");
        let skipped = text.contains("skip  ");
        assert_eq!(skipped, url == "memory:", "only the file survives a restart: {text}");
        let last = text.lines().last().unwrap_or_default();
        assert!(last.contains(" passed, 0 failed, "), "{last}");
    }
    assert_eq!(conformance(&["oracle:"]).status.code(), Some(2));
}
