//! The guide names what there is.

const CAPTURE: &str = include_str!("../../../jobkit-core/src/jobs/capture.rs");
const CONTEXT: &str = include_str!("../../../jobkit-core/src/handlers/context.rs");
const DURABLE: &str = include_str!("../../../jobkit-core/src/handlers/context/durable.rs");
const RECORD: &str = include_str!("../../../jobkit-core/src/model/record.rs");
const HISTORY: &str = include_str!("../../../jobkit-core/src/model/record/history.rs");
const INSIDE: &str = include_str!("../../../docs/guide/inside-a-job.md");
const TRACING: &str = include_str!("../../../docs/guide/context-and-tracing.md");

/// The names of the public functions and constants of a source, without those hidden from its documentation.
fn functions(source: &str) -> Vec<&str> {
    let mut hidden = false;
    let mut found = Vec::new();
    for line in source.lines().map(str::trim) {
        let declared = ["pub fn ", "pub async fn ", "pub const "];
        let rest = declared.iter().find_map(|begin| line.strip_prefix(begin));
        if let Some(rest) = rest.filter(|_| !hidden) {
            found.extend(rest.split(|c: char| !c.is_alphanumeric() && c != '_').next());
        }
        hidden = line == "#[doc(hidden)]";
    }
    found
}

/// The names of the public fields of a struct.
fn fields<'a>(source: &'a str, name: &str) -> Vec<&'a str> {
    let begin = format!("pub struct {name} {{\n");
    let (_, rest) = source.split_once(&begin).expect("the struct");
    let (body, _) = rest.split_once("\n}").expect("its end");
    let field = |line: &'a str| line.trim().strip_prefix("pub ")?.split(':').next();
    body.lines().filter_map(field).collect()
}

/// Whether the text names it as code, alone or with what belongs to it.
fn names(text: &str, item: &str) -> bool {
    let code = text.split('`').skip(1).step_by(2);
    code.flat_map(|code| code.split(|c: char| !c.is_alphanumeric() && c != '_'))
        .any(|word| word == item)
}

#[track_caller]
fn all_named(text: &str, items: &[&str], few: usize) {
    assert!(items.len() >= few, "the source is read wrongly: {items:?}");
    let missing: Vec<_> = items.iter().filter(|item| !names(text, item)).collect();
    assert!(missing.is_empty(), "the guide does not name {missing:?}");
}

#[test]
fn the_guide_names_all_of_capture() {
    all_named(TRACING, &functions(CAPTURE), 8);
}

#[test]
fn the_guide_names_all_that_a_handler_can_ask() {
    let (context, _) = CONTEXT.split_once("pub struct Data<").expect("what follows the context");
    all_named(INSIDE, &functions(context), 25);
    all_named(INSIDE, &functions(DURABLE), 5);
}

#[test]
fn the_guide_names_all_that_is_known_of_a_job() {
    for (name, few) in [("JobDetails", 7), ("Progress", 4), ("AttemptError", 4), ("EdgeStatus", 2)]
    {
        all_named(INSIDE, &fields(RECORD, name), few);
    }
    all_named(INSIDE, &fields(HISTORY, "History"), 2);
    all_named(INSIDE, &fields(HISTORY, "HistoryEntry"), 8);
}
