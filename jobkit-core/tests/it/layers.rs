//! Imports of this crate go one way: a reader who has understood the rooms below needs none above.

use std::fs;
use std::path::{Path, PathBuf};

/// Lowest first; each may import from itself and from those before it.
const ROOMS: [&str; 9] =
    ["model", "storage", "metrics", "jobs", "client", "handlers", "operate", "server", "testing"];

/// The specification is written against the contract alone, as the storage of a stranger would be.
const MEMORY: [&str; 3] = ["model", "storage", "memory"];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => sources(&path, found),
            false => found.push(path),
        }
    }
}

/// What the code of a file, without its tests and comments, imports from other rooms.
fn imports(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut found = Vec::new();
    for line in lines {
        for (at, _) in line.match_indices("crate::") {
            // A macro's path is the caller's.
            if at > 0 && line.as_bytes()[at - 1] == b'$' {
                continue;
            }
            let rest = &line[at + "crate::".len()..];
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            found.push(rest[..end].to_owned());
        }
    }
    found
}

#[test]
fn imports_go_one_way() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for path in files.iter().filter(|path| path.extension().is_some_and(|it| it == "rs")) {
        let inside = path.strip_prefix(&src).expect("found there").with_extension("");
        let names: Vec<_> = inside.iter().filter_map(|part| part.to_str()).collect();
        let room = names[0];
        if room == "lib" || names.iter().any(|name| name.ends_with("tests")) {
            continue;
        }
        let may: &[&str] = match (room, ROOMS.iter().position(|it| *it == room)) {
            ("memory", _) => &MEMORY,
            (_, Some(floor)) => &ROOMS[..=floor],
            (_, None) => panic!("{room} is no room: see the code map in docs/ARCHITECTURE.md"),
        };
        for import in imports(&fs::read_to_string(path).expect("a file")) {
            seen += 1;
            let of_tests = room == "testing" && import == "memory";
            if !may.contains(&import.as_str()) && !of_tests {
                wrong.push(format!("{} imports crate::{import}", inside.display()));
            }
        }
    }
    assert!(seen > 500, "imports are not found any more: {seen}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}
