//! What the commands print, with ids and times masked. `JOBKIT_GOLDEN=write` writes the files anew.

use std::path::Path;

use jobkit::JobId;
use serde_json::Value;

use crate::world::{Ran, full};

/// Whether a word tells of a time or an id, so that it differs from run to run.
fn masked(word: &str) -> Option<&'static str> {
    let bare = word.trim_matches(|c: char| matches!(c, ',' | '(' | ')' | ';' | ':'));
    let is_date = |text: &str| {
        text.len() >= 10
            && text.is_char_boundary(10)
            && text[..10]
                .chars()
                .enumerate()
                .all(|(i, c)| if i == 4 || i == 7 { c == '-' } else { c.is_ascii_digit() })
    };
    if bare.parse::<JobId>().is_ok() {
        Some("<id>")
    } else if bare.starts_with('/') && bare.ends_with(".db") {
        Some("<path>")
    } else if is_date(bare) {
        Some("<date>")
    } else if matches!(bare.len(), 5 | 8) && bare.as_bytes()[2] == b':' {
        Some("<time>")
    } else {
        None
    }
}

/// A job that waits without a server is a warning, and after half a minute an error: a slow run.
const AGEING: &str = "kind-unserved";

/// A line with its words one space apart, and lengths of time masked.
fn mask(line: &str) -> String {
    if let Some((_, rest)) = line.split_once(&format!(" {AGEING}:")) {
        return format!("<severity> {AGEING}:{}", mask(rest));
    }
    const UNITS: [&str; 6] = ["µs", "ms", "s", "min", "h", "d"];
    let indent = line.len() - line.trim_start().len();
    let mut words: Vec<String> = Vec::new();
    for word in line.split_whitespace() {
        let bare = word.trim_end_matches([',', ')', ';', ':']);
        let is_number =
            |last: &String| last.trim_start_matches('(').replace(',', "").parse::<f64>().is_ok();
        if UNITS.contains(&bare) && words.last().is_some_and(is_number) {
            words.pop();
            words.push(format!("<length>{}", &word[bare.len()..]));
        } else {
            let masked = masked(word).map_or_else(|| word.to_owned(), str::to_owned);
            words.push(masked);
        }
    }
    format!("{}{}", " ".repeat(indent), words.join(" "))
}

fn mask_json(key: &str, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if fields.get("code").is_some_and(|code| code == AGEING) {
                fields.insert("severity".into(), "<severity>".into());
            }
            fields.iter_mut().for_each(|(key, value)| mask_json(key, value));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| mask_json(key, value)),
        Value::String(text) => *text = mask(text),
        Value::Number(_) if key.ends_with("_ms") => *value = "<length>".into(),
        // How many failed in which of the last hours: at the full hour it is another.
        Value::Number(_) if matches!(key, "etag" | "trend") => *value = "<number>".into(),
        _ => {}
    }
}

#[track_caller]
fn check(file: &str, ran: &Ran) {
    let masked = if ran.out.starts_with('{') {
        let mut value = ran.json();
        mask_json("", &mut value);
        format!("{value:#}\n")
    } else {
        ran.out.lines().map(|line| mask(line) + "\n").collect()
    };
    // Bars by the hour move at the full hour.
    let masked = masked.replace(['·', '▁', '▂', '█'], "");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/golden").join(file);
    if std::env::var_os("JOBKIT_GOLDEN").is_some() {
        std::fs::write(&path, &masked).expect("is written");
        return;
    }
    let golden = std::fs::read_to_string(&path).expect("a golden file");
    assert_eq!(masked, golden, "{file} differs; JOBKIT_GOLDEN=write writes it anew");
}

#[tokio::test]
async fn every_list_and_detail_is_as_it_was() {
    let (world, ids) = full().await;
    let ids = [ids.succeeded, ids.failed, ids.processing, ids.awaiting].map(|id| id.to_string());
    let [succeeded, failed, processing, awaiting] = ids.each_ref().map(String::as_str);
    let commands: [(&str, &[&str]); 14] = [
        ("status", &["status"]),
        ("jobs", &["jobs"]),
        ("job-succeeded", &["job", succeeded]),
        ("job-failed", &["job", failed, "--backtrace"]),
        ("job-processing", &["job", processing]),
        ("why-awaiting", &["why", awaiting]),
        ("queues", &["queues"]),
        ("recurring", &["recurring"]),
        ("batches", &["batches"]),
        ("limits", &["limits"]),
        ("servers", &["servers"]),
        ("errors", &["errors"]),
        ("audit", &["audit"]),
        ("doctor", &["doctor"]),
    ];
    for (file, arguments) in commands {
        check(&format!("{file}.txt"), &world.run(arguments));
        let as_json = [arguments, &["--json"]].concat();
        check(&format!("{file}.json"), &world.run(&as_json));
    }
}

#[test]
fn a_preview_marks_where_the_clocks_change() {
    let arguments =
        ["recurring", "preview", "30 2 * * *", "--zone", "Europe/Berlin", "--from", "2026-03-27"];
    let ran = crate::world::run(None, &arguments).expect(0);
    let lines: Vec<_> = ran.out.lines().collect();
    assert_eq!(lines.len(), 10);
    let changed = "Sun 2026-03-29 03:00:00 +02:00  2026-03-29 01:00:00 UTC  the clocks have gone forward by 60 min";
    assert_eq!(lines[2], changed);
    assert!(!lines[3].contains("clocks"));
    let ran = crate::world::run(None, &[&arguments[..], &["--json"]].concat()).expect(0);
    assert_eq!(ran.json()["items"][2]["clock_change_seconds"], 3600);
}
