//! What changes something, and that the audit tells of it.

use std::io::{Seek, Write};
use std::time::Duration;

use jobkit::state::StateName;
use jobkit::storage::Call;
use serde_json::json;

use crate::world::{World, actor, full, job, run_on};

#[tokio::test]
async fn jobs_are_changed_by_id() {
    let (world, ids) = full().await;
    let state = async |id| world.client.state(id).await.expect("is read").expect("is stored");
    let id = |id: jobkit::JobId| id.to_string();
    world.run(&["retry", &id(ids.failed)]).expect(0);
    assert_eq!(state(ids.failed).await, StateName::Enqueued);
    world.run(&["requeue", &id(ids.succeeded), &id(ids.deleted)]).expect(0);
    assert_eq!(state(ids.succeeded).await, StateName::Enqueued);
    world.run(&["run-now", &id(ids.scheduled), &id(ids.retrying), &id(ids.awaiting)]).expect(0);
    assert_eq!(state(ids.awaiting).await, StateName::Enqueued);
    let ran = world.run(&["delete", &id(ids.processing), &id(ids.enqueued), "--json"]).expect(0);
    let ran = ran.json();
    assert_eq!((&ran["items"][0]["outcome"], &ran["done"]), (&json!("cancelling"), &json!(2)));
    assert_eq!(state(ids.enqueued).await, StateName::Deleted);
    let ran = world.run(&["retry", &id(ids.failed)]).expect(1);
    assert!(ran.out.contains("refused: the job is enqueued\n"), "{ran:?}");
    let audit = world.client.storage().audit(None, 50).await.expect("is read");
    assert!(audit.iter().any(|it| it.actor == actor() && it.action == "run now"), "{audit:?}");
}

#[tokio::test]
async fn a_retry_by_id_is_for_what_failed_too() {
    let (world, ids) = full().await;
    let state = async |id| world.client.state(id).await.expect("is read").expect("is stored");
    for (id, words) in [
        (ids.succeeded, "the job is succeeded; `requeue` runs it again"),
        (ids.deleted, "the job is deleted (on request); `requeue` runs it again"),
        (ids.scheduled, "the job is scheduled; `run-now` runs it now"),
        (ids.processing, "the job is processing"),
    ] {
        let before = state(id).await;
        let ran = world.run(&["retry", &id.to_string()]).expect(1);
        assert!(ran.out.contains(&format!("refused: {words}\n")), "{ran:?}");
        assert_eq!(state(id).await, before);
    }
    let both = [ids.failed.to_string(), ids.succeeded.to_string()];
    let ran = world.run(&["retry", &both[0], &both[1], "--json"]).expect(1).json();
    assert_eq!((&ran["done"], &ran["refused"]), (&json!(1), &json!(1)));
    assert_eq!(state(ids.failed).await, StateName::Enqueued);
}

#[tokio::test]
async fn whoever_drives_a_bulk_operation_is_told_what_was_refused() {
    let (world, _) = full().await;
    // What has succeeded waits for nothing.
    let ran = world.run(&["run-now", "--where", "state:succeeded", "--yes"]).expect(1);
    assert!(ran.out.contains("0 changed, 0 had changed meanwhile, 1 refused"), "{ran:?}");
    let filter = "state:succeeded".parse().expect("a filter");
    let action = jobkit::storage::Action::RunNow;
    let operator = world.client.operator("ann");
    let bulk = operator.begin_bulk(filter, action, 1, Duration::ZERO).await.expect("is begun");
    let driven = world.run(&["bulk", "drive", &bulk.id.to_string()]).expect(1);
    assert_eq!(driven.out, ran.out);
}

#[tokio::test]
async fn runs_are_spread_only_by_what_spreads_them() {
    let (world, _) = full().await;
    for verb in ["delete", "run-now"] {
        let arguments = [verb, "--where", "state:failed", "--spread", "10m", "--yes"];
        let ran = world.run(&arguments).expect(2);
        assert!(ran.err.contains("--spread"), "{ran:?}");
        assert!(!world.run(&["help", verb]).out.contains("--spread"));
    }
    assert_eq!(world.run(&["jobs", "state:failed", "--count"]).out, "1\n");
    let arguments = ["retry", "--where", "state:failed", "--spread", "10m", "--yes", "--json"];
    assert_eq!(world.run(&arguments).expect(0).json()["spread_ms"], 600_000.0);
}

#[tokio::test]
async fn jobs_are_changed_by_a_filter_only_when_somebody_agreed() {
    let world = World::empty().await;
    for n in 0..7 {
        world.enqueue(job("lost", &json!({ "n": n }))).await;
    }
    for empty in ["", "  "] {
        let ran = world.run(&["delete", "--where", empty]).expect(2);
        assert!(ran.err.starts_with("error: the filter is empty"), "it is not asked: {ran:?}");
    }
    let ran = world.run(&["delete", "--where", "kind:lost"]).expect(4);
    assert!(ran.out.is_empty() && ran.err.contains("would change 7 jobs"), "{ran:?}");
    let examples = ran.err.lines().filter(|line| line.starts_with("enqueued")).count();
    assert_eq!(examples, 5, "{ran:?}");
    assert_eq!(world.run(&["jobs", "state:enqueued", "--count"]).out, "7\n");
    let arguments =
        ["delete", "--where", "kind:lost", "--yes", "--as", "bob", "--reason", "a test", "--json"];
    let ran = world.run(&arguments).expect(0).json();
    assert_eq!(
        (&ran["done"], &ran["refused"], &ran["actor"]),
        (&json!(7), &json!(0), &json!("bob"))
    );
    assert_eq!(world.run(&["jobs", "state:deleted", "--count"]).out, "7\n");
    let id = ran["id"].as_str().expect("an id");
    let ran = world.run(&["bulk", id]).expect(0);
    assert!(ran.out.starts_with("delete ended: 7 changed"), "{ran:?}");
    world.run(&["bulk", "stop", id]).expect(1);
    assert_eq!(world.run(&["bulk", "--json"]).json()["items"][0]["reason"], "a test");
}

#[tokio::test]
async fn a_job_is_enqueued_with_its_options() {
    let world = World::empty().await;
    let arguments = [
        "enqueue",
        "mail",
        r#"{"user":17}"#,
        "--queue",
        "mail",
        "--priority",
        "7",
        "--delay",
        "1h",
        "--tag",
        "vip",
        "--tag",
        "eu",
        "--unique",
        "welcome:17",
        "--json",
    ];
    let ran = world.run(&arguments).expect(0).json();
    assert_eq!((&ran["submitted"], &ran["state"]), (&json!("created"), &json!("scheduled")));
    let id = ran["id"].as_str().expect("an id");
    let job =
        world.client.job(id.parse().expect("an id")).await.expect("is read").expect("is stored");
    let record = &job.record;
    assert_eq!((record.queue.as_str(), record.priority), ("mail", 7));
    assert_eq!(record.tags, ["vip", "eu"]);
    assert_eq!(job.args.as_bytes(), br#"{"user":17}"#);
    let ran = world.run(&["enqueue", "mail", "{}", "--unique", "welcome:17"]).expect(0);
    assert_eq!(ran.out, format!("{id}: holds the unique key, and stands in its place\n"));
    world.run(&["enqueue", "no name", "{}"]).expect(2);
    let from = |bytes: &[u8]| {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("is written");
        file.rewind().expect("is rewound");
        run_on(file.into(), Some(&world.url), &["enqueue", "mail", "-", "--json"])
    };
    let ran = from(b"\xff").expect(2);
    assert!(ran.err.contains("cannot be read from standard input"), "{ran:?}");
    let ran = from(br#"{"user":18}"#).expect(0).json();
    let id = ran["id"].as_str().expect("an id").parse().expect("an id");
    let job = world.client.job(id).await.expect("is read").expect("is stored");
    assert_eq!(job.args.as_bytes(), br#"{"user":18}"#);
    world.run(&["enqueue", "mail", "{", "--json"]).expect(2);
    world.run(&["enqueue", "mail", "{}", "--priority", "10"]).expect(2);
}

#[tokio::test]
async fn queues_kinds_and_schedules_are_paused_and_resumed() {
    let (world, _) = full().await;
    let pauses =
        async || world.client.storage().pauses(&Call::default()).await.expect("are read").len();
    world.run(&["pause", "kind", "report", "--for", "2h", "--reason", "too loud"]).expect(0);
    world.run(&["pause", "queue", "default", "--until", "2099-01-01"]).expect(0);
    assert_eq!(pauses().await, 3);
    let ran = world.run(&["queues"]).expect(0);
    assert!(
        ran.out.contains(&format!("kind report is paused by {}", actor()))
            && ran.out.contains("too loud"),
        "{ran:?}"
    );
    for (what, name) in [("kind", "report"), ("queue", "default"), ("queue", "mail")] {
        world.run(&["resume", what, name]).expect(0);
    }
    assert_eq!(pauses().await, 0);
    world.run(&["pause", "recurring", "nightly"]).expect(0);
    let paused = async || {
        let nightly = world.client.storage().recurring("nightly").await.expect("is read");
        nightly.expect("is stored").pause.is_some()
    };
    assert!(paused().await);
    let resumed = world.run(&["recurring", "resume", "nightly", "--json"]).expect(0).json();
    assert!(!paused().await);
    // Two spellings of one action.
    let until = ["--until", "2099-01-01", "--json"];
    let one = world.run(&[&["recurring", "pause", "nightly"][..], &until].concat()).expect(0);
    assert!(paused().await);
    assert_eq!(world.run(&["resume", "recurring", "nightly", "--json"]).expect(0).json(), resumed);
    let other = world.run(&[&["pause", "recurring", "nightly"][..], &until].concat()).expect(0);
    assert_eq!(one.json(), other.json());
    world.run(&["resume", "recurring", "nightly"]).expect(0);
    let ran = world.run(&["recurring", "run", "nightly", "--json"]).expect(0).json();
    assert!(ran["job"].is_string());
    let ran = world.run(&["recurring", "show", "nightly"]).expect(0);
    assert!(ran.out.contains("run by hand as"), "{ran:?}");
}

#[tokio::test]
async fn what_would_have_ended_already_is_refused() {
    let (world, _) = full().await;
    let groups = world.client.storage().error_groups(&Default::default()).await.expect("are read");
    let group = format!("{:?}", groups[0].fingerprint);
    let seen = || ["queues", "servers", "recurring", "audit"].map(|it| shown(&world, it));
    let before = seen();
    for command in [
        &["pause", "queue", "default"][..],
        &["pause", "kind", "report"],
        &["pause", "recurring", "nightly"],
        &["recurring", "pause", "nightly"],
        &["servers", "quiet", "web-1"],
        &["errors", "mute", &group],
    ] {
        let ran = world.run(&[command, &["--until", "2020-01-01"]].concat()).expect(2);
        assert!(ran.out.is_empty() && ran.err.contains("has passed"), "{ran:?}");
    }
    assert_eq!(seen(), before);
}

fn shown(world: &World, list: &str) -> serde_json::Value {
    world.run(&[list, "--json"]).expect(0).json()
}

#[tokio::test]
async fn limits_servers_batches_and_groups_are_operated() {
    let (world, ids) = full().await;
    let storage = world.client.storage();
    world.run(&["limits", "set", "reports", "3"]).expect(0);
    let usage =
        storage.limit(&Call::default(), "reports").await.expect("is read").expect("is stored");
    assert_eq!((usage.limit.max, usage.defined_by_operator), (3, true));
    world.run(&["limits", "release", "reports"]).expect(1);
    world.run(&["limits", "set", "reports", "0"]).expect(2);

    world.run(&["servers", "quiet", "web-1", "--for", "1h"]).expect(0);
    assert_eq!(world.run(&["servers", "--json"]).json()["items"][0]["state"], "quiet");
    world.run(&["servers", "stop", "web-1", "--yes"]).expect(0);
    assert_eq!(world.run(&["servers", "--json"]).json()["items"][0]["state"], "stopping");
    world.run(&["servers", "resume", "web-1"]).expect(0);
    assert!(storage.servers().await.expect("are read")[0].order.is_none());

    let batch = ids.batch.to_string();
    world.run(&["batches", "cancel", &batch]).expect(4);
    world.run(&["batches", "cancel", &batch, "--yes"]).expect(0);
    assert!(
        storage.batch(ids.batch).await.expect("is read").expect("is stored").cancelled_at.is_some()
    );
    world.run(&["batches", &batch]).expect(0);

    let groups = storage.error_groups(&Default::default()).await.expect("are read");
    let group = format!("{:?}", groups[0].fingerprint);
    world.run(&["errors", "mute", &group[..8], "--for", "1d"]).expect(0);
    assert!(world.run(&["errors"]).expect(0).out.contains("(muted)"));
    world.run(&["errors", "unmute", &group]).expect(0);
    assert!(!world.run(&["errors"]).expect(0).out.contains("(muted)"));
}
