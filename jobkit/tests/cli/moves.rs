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
    let dumped = std::fs::read(at("jobs.dump")).expect("a file");
    let bytes = || std::fs::read(at("jobs.dump")).expect("a file");
    #[cfg(unix)]
    {
        let file = std::fs::metadata(at("jobs.dump")).expect("a file");
        let mode = std::os::unix::fs::MetadataExt::mode(&file);
        assert_eq!(mode & 0o777, 0o600, "arguments are for their owner alone");
    }
    // What stands in its place is replaced when that is asked for, and by nothing else.
    std::fs::write(at("jobs.dump"), "something else").expect("is written");
    let again = ["move", "--from", &there, "--to", &dump];
    for force in [&[][..], &["--force"]] {
        let ran = run(None, &[&again[..], force].concat()).expect(1);
        assert!(ran.err.contains("--replace"), "{ran:?}");
        assert_eq!(bytes(), b"something else");
    }
    run(None, &[&again[..], &["--replace"]].concat()).expect(0);
    assert_eq!(bytes(), dumped);
    // A live server is not overlooked for it.
    let live = ["move", "--from", &world.url, "--to", &dump, "--replace"];
    let ran = run(None, &live).expect(1);
    assert!(ran.err.contains("servers live"), "{ran:?}");
    run(None, &["move", "--from", &dump, "--to", &there, "--replace"]).expect(2);
    let third = format!("sqlite://{}", at("third.db"));
    let back = ["move", "--from", &dump, "--to", &third];
    assert!(run(None, &back).expect(0).out.starts_with(&format!("{stored} stored, 0 were there")));
    assert!(run(None, &back).expect(0).out.starts_with(&format!("0 stored, {stored} were there")));
    run(None, &["move", "--from", &dump, "--to", &dump]).expect(2);
    let missing = format!("sqlite://{}", at("missing.db"));
    run(None, &["move", "--from", &missing, "--to", &third]).expect(3);
}
