//! Code and documents use the vocabulary of `docs/ARCHITECTURE.md`, and none of the words that it replaced.

use std::fs;
use std::path::{Path, PathBuf};

/// A word that was replaced, and what to write.
const OLD: [(&str, &str); 12] = [
    ("became of", "the outcome of"),
    ("deed", "action"),
    ("for ever", "forever"),
    ("from birth", "from creation"),
    ("go before", "take precedence over, or run before"),
    ("goes before", "takes precedence over, or runs before"),
    ("goodbye", "deregister"),
    ("mend", "fix"),
    ("mended", "fixed"),
    ("mends", "fixes"),
    ("round every", "around every"),
    ("so many", "this many, N"),
];

/// History keeps its words; the vocabulary and this file name the old ones.
const EXCEPT: [&str; 4] =
    ["CHANGELOG.md", "docs/decisions", "docs/ARCHITECTURE.md", "examples/tests/it/words.rs"];

fn texts(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                texts(&path, found);
            }
        } else if name.ends_with(".rs") || name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// Where a phrase stands as words of their own.
fn stands_in(line: &str, phrase: &str) -> bool {
    let is_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let mut found = line.match_indices(phrase);
    found.any(|(at, _)| {
        let after = line[at + phrase.len()..].chars().next();
        !is_word(line[..at].chars().next_back()) && !is_word(after)
    })
}

#[test]
fn old_words_stay_out() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (mut files, mut wrong) = (Vec::new(), Vec::new());
    texts(&root, &mut files);
    assert!(files.len() > 300, "{} files", files.len());
    for path in files {
        let name = path.strip_prefix(&root).expect("found there").display().to_string();
        if EXCEPT.iter().any(|except| name.starts_with(except)) {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a text").to_lowercase();
        let lines: Vec<_> =
            text.lines().map(|line| line.trim_start_matches([' ', '/', '!'])).collect();
        for (number, line) in lines.iter().enumerate() {
            // A phrase may go on in the next line.
            let both = format!("{line} {}", lines.get(number + 1).unwrap_or(&""));
            let next = lines.get(number + 1).unwrap_or(&"");
            let is_here = |old: &str| stands_in(&both, old) && !stands_in(next, old);
            for (old, new) in OLD.iter().filter(|(old, _)| is_here(old) || stands_in(line, old)) {
                wrong.push(format!("{name}:{}: `{old}`: {new}", number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
