use crate::programs::{example, finish};

/// What it says, whatever the storage.
fn check(text: &str) {
    let place = |line: &str| text.find(line).unwrap_or_else(|| panic!("no {line:?} in:\n{text}"));
    let story = [
        "charge: 1700 cents",
        "ship: on its way, paid with 1700 cents",
        "page: deleted, its condition can no longer be met",
        "charge: refused",
        "page: paged, since the card does not cover 1000000 cents",
        "ship: waits",
        "ship: deleted, on request",
        "report: the whole house is counted",
        "the house: 2 of 2 members succeeded",
        "somebody deletes it",
        "oven: turned off",
        "oven: deleted, cancelled while running",
    ];
    let places = story.map(place);
    assert!(places.is_sorted(), "out of order:\n{text}");
    let report = place("report:");
    assert!(place("the cellar: 42") < report && place("the attic: 8") < report, "{text}");
}

#[test]
fn it_tells_its_story_in_memory_and_on_a_file() {
    check(&finish(&mut example("flows")));
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("jobs.db").display());
    for _ in 0..2 {
        check(&finish(example("flows").arg(&url)));
    }
}
