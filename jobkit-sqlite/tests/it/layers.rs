//! Imports of this crate go one way: rows and the transaction below, what writes in a transaction above
//! them, the writer's thread and the implementations of the contract on top. And numbers of states are
//! written as numbers in one file.

use std::fs;
use std::path::{Path, PathBuf};

/// The files at the bottom, which import only from each other.
const BOTTOM: [&str; 4] = ["error", "connection", "codec", "txn"];

/// The files that implement traits of the contract for the storage, and what only they import.
const TOP: [&str; 14] = [
    "batches",
    "jobs",
    "limits",
    "lock",
    "log",
    "monitoring",
    "operations",
    "queue",
    "recurring",
    "servers",
    "storage",
    "transaction",
    "wake_up",
    "lib",
];
const FOR_THE_TOP: [&str; 2] = ["storage", "writer"];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => sources(&path, found),
            false => found.push(path),
        }
    }
}

/// The code of every file by its path without the ending, without its tests and comments.
fn code() -> Vec<(String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let read = |path: &PathBuf| {
        let inside = path.strip_prefix(&src).expect("found there").with_extension("");
        let name = inside.to_str().expect("a name").replace('\\', "/");
        let text = fs::read_to_string(path).expect("a file");
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        (name, lines.collect::<Vec<_>>().join("\n"))
    };
    let files: Vec<_> = files.iter().map(read).collect();
    files.into_iter().filter(|(name, _)| !name.ends_with("tests")).collect()
}

#[test]
fn imports_go_one_way() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for (name, code) in code() {
        let room = name.split('/').next().unwrap_or_default();
        for (at, _) in code.match_indices("crate::") {
            let rest = &code[at + "crate::".len()..];
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let import = &rest[..end];
            seen += 1;
            let falls = BOTTOM.contains(&room) && !BOTTOM.contains(&import);
            let climbs = FOR_THE_TOP.contains(&import) && !TOP.contains(&name.as_str());
            assert!(!import.is_empty(), "{name}: name each import by its own path from `crate::`");
            // A macro's path is the caller's.
            if (falls || climbs) && !code[..at].ends_with('$') {
                wrong.push(format!("{name} imports crate::{import}"));
            }
        }
    }
    for (name, code) in code() {
        if code.contains("super::super::") {
            wrong.push(format!("{name} imports by super::super::"));
        }
    }
    assert!(seen > 200, "imports are not found any more: {seen}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn states_are_named_in_sql() {
    let mut bare = Vec::new();
    for (name, code) in code() {
        for (at, _) in code.match_indices("state") {
            let mut after = code[at + "state".len()..].trim_start();
            for operator in ["NOT ", "IN", "BETWEEN", "<>", "!=", "<=", ">=", "=", "<", ">", "("] {
                after = after.strip_prefix(operator).unwrap_or(after).trim_start();
            }
            if after.starts_with(|c: char| c.is_ascii_digit()) {
                bare.push(format!("{name}: {}", &code[at..code.len().min(at + 40)]));
            }
        }
    }
    assert!(bare.is_empty(), "write {{enqueued}} and so on inside of sql!: {bare:#?}");
}
