//! `move`: from one file to another, through a dump, and what is refused.

use jobkit::state::StateName;

use crate::world::{full, run};

#[tokio::test]
async fn everything_moves_to_another_file_and_through_a_dump() {
    let (world, ids) = full().await;
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let there = format!("sqlite://{}", at("there.db"));
    // A server was there a moment ago.
    let refused = run(None, &["move", "--from", &world.url, "--to", &there]).expect(1);
    assert!(refused.err.contains("servers live on the old storage"), "{refused:?}");
    let moved = ["move", "--from", &world.url, "--to", &there, "--force", "--json"];
    let moved = run(None, &moved).expect(1).json();
    assert_eq!((&moved["missing"], &moved["running"]), (&0.into(), &1.into()), "one runs");
    let stored = moved["stored"].as_u64().expect("a number");
    assert_eq!(moved["verified"].as_u64(), Some(stored));
    let new = jobkit::connect(&there).await.expect("opens");
    let found = new.jobs(&[ids.failed, ids.processing]).await.expect("reads");
    assert_eq!(found[0].as_ref().map(|job| job.state()), Some(StateName::Failed));
    assert_eq!(found[1], None);

    let dump = format!("dump:{}", at("jobs.dump"));
    let dumped = run(None, &["move", "--from", &there, "--to", &dump, "--json"]).expect(0).json();
    assert_eq!(dumped["stored"].as_u64(), Some(stored));
    let third = format!("sqlite://{}", at("third.db"));
    let back = ["move", "--from", &dump, "--to", &third];
    assert!(run(None, &back).expect(0).out.starts_with(&format!("{stored} stored, 0 were there")));
    assert!(run(None, &back).expect(0).out.starts_with(&format!("0 stored, {stored} were there")));
    run(None, &["move", "--from", &dump, "--to", &dump]).expect(2);
    let missing = format!("sqlite://{}", at("missing.db"));
    run(None, &["move", "--from", &missing, "--to", &third]).expect(3);
}
