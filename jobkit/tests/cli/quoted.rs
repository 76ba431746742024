//! Every log line that `docs/operations.md` quotes stands in the sources, at its level.

use std::path::{Path, PathBuf};

/// The sources of all crates, spaces and line ends made one space, as one text.
fn sources(root: &Path) -> String {
    let mut folders: Vec<PathBuf> = ["jobkit-core/src", "jobkit-sqlite/src", "jobkit/src"]
        .iter()
        .map(|it| root.join(it))
        .collect();
    let mut all = String::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") {
                all += &std::fs::read_to_string(path).expect("a source");
            }
        }
    }
    // A text that goes on behind a backslash is one.
    let joined: Vec<_> = all.lines().map(|line| line.trim().trim_end_matches('\\')).collect();
    joined.join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn every_quoted_log_line_stands_in_the_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let document = std::fs::read_to_string(root.join("docs/operations.md")).expect("the document");
    let sources = sources(&root);
    let mut quoted = 0;
    for line in document.lines() {
        // - log: `WARN the message` with what else is to be said
        let Some(rest) = line.trim_start_matches(['-', ' ']).strip_prefix("log: `") else {
            continue;
        };
        let words = rest.split('`').next().unwrap_or_default();
        let (level, message) = words.split_once(' ').expect("a level and a message");
        assert!(["ERROR", "WARN", "INFO"].contains(&level), "{line}");
        let quote = format!("\"{message}\"");
        let mut said = sources.match_indices(&quote).peekable();
        assert!(said.peek().is_some(), "no source says {message:?}");
        let at_level = format!("tracing::{}!(", level.to_lowercase());
        let mut levels =
            said.filter_map(|(at, _)| Some(&sources[sources[..at].rfind("tracing::")?..]));
        assert!(levels.any(|call| call.starts_with(&at_level)), "{message:?} is no {level}");
        quoted += 1;
    }
    assert!(quoted >= 10, "{quoted} lines are quoted");
}
