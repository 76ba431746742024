//! The guide quotes these sources: what stands between `// [guide: name]` and `// [end]`.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// The lines of a region, moved to the left margin.
fn region(file: &str, name: &str) -> String {
    let text = fs::read_to_string(root().join("src").join(file)).expect(file);
    let begin = format!("// [guide: {name}]");
    let lines: Vec<&str> = text
        .lines()
        .skip_while(|line| line.trim() != begin)
        .skip(1)
        .take_while(|line| line.trim() != "// [end]")
        .collect();
    assert!(!lines.is_empty(), "{file} has no region {name}");
    let indented = lines.iter().filter(|line| !line.trim().is_empty());
    let margin = indented.map(|line| line.len() - line.trim_start().len()).min().unwrap_or(0);
    let lines = lines.iter().map(|line| line.get(margin..).unwrap_or_default().trim_end());
    lines.collect::<Vec<_>>().join("\n")
}

/// The guide as the sources would have it: behind each `<!-- quote: file name -->` its block of code.
fn quoted(guide: &str) -> String {
    let mut text = String::new();
    let mut lines = guide.lines();
    while let Some(line) = lines.next() {
        text.push_str(line);
        text.push('\n');
        let quote = line.strip_prefix("<!-- quote: ").and_then(|rest| rest.strip_suffix(" -->"));
        let Some((file, name)) = quote.and_then(|quote| quote.split_once(' ')) else { continue };
        let code = region(file, name);
        text.push_str(&format!("```rust\n{code}\n```\n"));
        // What it quotes now.
        let mut rest = lines.clone();
        if rest.next().is_some_and(|line| line.starts_with("```")) {
            lines = rest;
            lines.by_ref().find(|line| *line == "```");
        }
    }
    text
}

#[test]
fn the_guide_quotes_the_sources_as_they_are() {
    let path = root().join("../../docs/writing-a-backend.md");
    let guide = fs::read_to_string(&path).expect("the guide");
    assert!(guide.matches("<!-- quote: ").count() > 20, "the quotes are found");
    let quoted = quoted(&guide);
    if std::env::var_os("TOY_WRITE_GUIDE").is_some() {
        fs::write(&path, &quoted).expect("writes the guide");
        return;
    }
    let differs = guide.lines().zip(quoted.lines()).find(|(is, should)| is != should);
    assert!(
        differs.is_none() && guide.lines().count() == quoted.lines().count(),
        "the guide differs from the sources at {differs:?}; run this test with TOY_WRITE_GUIDE=1",
    );
}

#[test]
fn every_region_is_quoted() {
    let guide =
        fs::read_to_string(root().join("../../docs/writing-a-backend.md")).expect("is there");
    for entry in fs::read_dir(root().join("src")).expect("the sources") {
        let path = entry.expect("an entry").path();
        let Some(file) = path.file_name().and_then(|it| it.to_str()).filter(|_| path.is_file())
        else {
            continue;
        };
        let text = fs::read_to_string(&path).expect(file);
        for name in text.lines().filter_map(|line| line.trim().strip_prefix("// [guide: ")) {
            let name = name.trim_end_matches(']');
            let quote = format!("<!-- quote: {file} {name} -->");
            assert!(guide.contains(&quote), "the guide does not quote {name} of {file}");
        }
    }
}
