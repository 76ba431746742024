//! Durations are read alike everywhere.

use jobkit::ServerOptions;
use jobkit::ops::search::JobFilter;
use serde_json::json;

use crate::world::run;

#[test]
fn the_same_durations_are_read_everywhere() {
    for (text, accepted) in [
        ("250ms", true),
        ("90s", true),
        ("5m", true),
        ("5min", true),
        ("1h30m", true),
        ("1d 12 h", true),
        ("36500d", true),
        ("36501d", false),
        ("1.5h", false),
        ("1h30", false),
        ("1w", false),
        ("1H", false),
        ("+1s", false),
        ("90", false),
    ] {
        let setting = serde_json::from_value::<ServerOptions>(json!({ "lease": text }));
        let filter = format!("wait:>\"{text}\"").parse::<JobFilter>();
        let age = format!("failed:<\"{text}\"").parse::<JobFilter>();
        // It goes on to say that there is no terminal.
        let command = run(Some("memory:"), &["top", "--interval", text]).expect(2).err;
        let read = [
            setting.map_err(|error| error.to_string()).err(),
            filter.map_err(|error| error.to_string()).err(),
            age.map_err(|error| error.to_string()).err(),
            Some(command).filter(|error| !error.contains("top draws on a terminal")),
        ];
        for error in read {
            assert_eq!(error.is_none(), accepted, "{text}: {error:?}");
            let expected = jobkit_core::duration::DURATIONS;
            assert!(error.as_ref().is_none_or(|error| error.contains(expected)), "{error:?}");
        }
    }
}

#[test]
fn the_options_of_jobs_are_read_by_the_same_code() {
    let workspace = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let source = |of| std::fs::read_to_string(workspace.join(of)).expect("is read");
    let (core, macros) = ("jobkit-core/src/model/duration.rs", "jobkit-macros/src/duration.rs");
    assert_eq!(source(core), source(macros), "copy {core} to {macros}");
}
