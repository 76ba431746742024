//! The same inside an application, which knows its jobs.

use jobkit::cli::CommandLine;
use jobkit::codec::{Codec, Encoded, Place};
use jobkit::storage::Call;
use jobkit::{Client, Failure, Job, Jobs, MemoryStorage, Recurring};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::world::job;

#[derive(Serialize, Deserialize)]
struct Resize {
    width: u32,
}

impl Job for Resize {
    const KIND: &'static str = "resize";
    type Output = ();
}

fn jobs() -> Jobs {
    Jobs::new().handle(|_: Resize, _| async { Ok::<_, Failure>(()) })
}

async fn run(client: &Client, arguments: &[&str]) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let line = CommandLine::new().jobs(jobs()).client(client.clone());
    let code = line.run_to(arguments.iter().copied(), &mut out, &mut err).await;
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (code, text(out), text(err))
}

#[tokio::test]
async fn arguments_are_checked_before_they_are_enqueued() {
    let client = Client::new(MemoryStorage::new());
    let (code, out, err) = run(&client, &["enqueue", "resize", r#"{"width":"800px"}"#]).await;
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("argument `width`"), "{err}");
    let (code, _, err) = run(&client, &["enqueue", "resise", "{}"]).await;
    assert!(code == 2 && err.contains("no registered job is of this kind"), "{err}");
    let (code, ..) = run(&client, &["enqueue", "resize", r#"{"width":800}"#]).await;
    assert_eq!(code, 0);
}

/// An output that takes everything, and says at the end that it could not be kept.
struct Lost(std::io::ErrorKind);

impl std::io::Write for Lost {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Err(self.0.into())
    }
}

#[tokio::test]
async fn an_answer_that_is_lost_is_an_error() {
    use std::io::ErrorKind;

    let client = Client::new(MemoryStorage::new());
    client.enqueue(job("resize", &json!({ "width": 1 }))).await.expect("is stored");
    let lost = async |kind, arguments: &[&str]| {
        let mut err = Vec::new();
        let line = CommandLine::new().client(client.clone());
        let code = line.run_to(arguments.iter().copied(), &mut Lost(kind), &mut err).await;
        (code, String::from_utf8(err).expect("text"))
    };
    for arguments in [
        &["jobs"][..],
        &["retry", "0197a2c4-8d3e-7b10-9c55-2f6f0a1b3c4d"],
        &["jobs", "--limit", "1", "--json"],
        &["export"],
        &["enqueue", "resize", "{}", "--json"],
        &["completion", "bash"],
        &["--help"],
    ] {
        let (code, err) = lost(ErrorKind::StorageFull, arguments).await;
        assert_eq!(code, 3, "{arguments:?}: {err}");
        assert!(err.contains("error: the output cannot be written"), "{arguments:?}: {err}");
        let (code, err) = lost(ErrorKind::BrokenPipe, arguments).await;
        assert!(!err.contains("error"), "{arguments:?}: {err}");
        let refused = arguments[0] == "retry";
        assert_eq!(code, u8::from(refused), "{arguments:?}: who read has seen enough");
    }
}

#[tokio::test]
async fn what_does_not_fit_is_told_by_job_and_doctor() {
    let client = Client::new(MemoryStorage::new());
    let id = client.enqueue(job("resize", &json!({ "width": "x" }))).await.expect("is stored").id();
    let (code, out, _) = run(&client, &["job", &id.to_string()]).await;
    assert!(code == 0 && out.contains("does not fit this program"), "{out}");
    let (code, out, _) = run(&client, &["doctor", "--json"]).await;
    let out: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &out["stored_jobs"]["misfits"]), (1, &json!(1)));
    client.delete(id).await.expect("is deleted");
    let (code, out, err) = run(&client, &["doctor"]).await;
    assert_eq!(code, 0, "{out} {err}");
}

/// Turns bytes round.
struct Mirror;

impl Codec for Mirror {
    fn name(&self) -> &str {
        "mirror"
    }

    fn encode(&self, _: Place<'_>, plain: &[u8]) -> jobkit::Result<Option<Encoded>> {
        Ok(Some(Encoded { key: None, data: plain.iter().rev().copied().collect() }))
    }

    fn decode(&self, _: Place<'_>, encoded: &Encoded) -> jobkit::Result<Vec<u8>> {
        Ok(encoded.data.iter().rev().copied().collect())
    }
}

#[tokio::test]
async fn what_is_sealed_is_shown_by_who_can_open_it() {
    let storage = MemoryStorage::new();
    let options = jobkit::ClientOptions::default().codec(Mirror);
    let owner = Client::with_options(storage.clone(), options);
    let args = json!({ "width": 800, "password": "hunter2" });
    let nightly = Recurring::cron("nightly", "0 3 * * *").job(job("resize", &args));
    owner.save_recurring(nightly).await.expect("is stored");
    let id = owner.enqueue(job("resize", &args)).await.expect("is stored").id().to_string();
    let stranger = Client::new(storage);
    let list = async |client, arguments: &[&str]| {
        let (code, out, err) = run(client, arguments).await;
        assert_eq!(code, 0, "{err}");
        serde_json::from_str::<serde_json::Value>(&out).expect("JSON")
    };
    let args_of = async |client| {
        let all = list(client, &["recurring", "--json"]).await["items"][0]["args"].clone();
        let one = list(client, &["recurring", "show", "nightly", "--json"]).await["args"].clone();
        let job = list(client, &["job", &id, "--json"]).await["args"].clone();
        assert!(one == all && job == all, "{all} {one} {job}");
        all
    };
    assert_eq!(args_of(&owner).await, json!({ "width": 800, "password": "(hidden)" }));
    let sealed = args_of(&stranger).await;
    assert!(sealed.as_str().is_some_and(|it| it.starts_with("(sealed: ")), "{sealed}");
}

#[tokio::test]
async fn the_commands_act_in_the_storage_that_was_given() {
    let client = Client::new(MemoryStorage::new());
    client.enqueue(job("resize", &json!({ "width": 1 }))).await.expect("is stored");
    let (code, out, _) = run(&client, &["jobs", "--json"]).await;
    let out: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, out["items"].as_array().map(Vec::len)), (0, Some(1)));
}

#[tokio::test]
async fn another_storage_is_refused_and_not_ignored() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("shop.db");
    let storage = jobkit::sqlite::SqliteStorage::open(&path).await.expect("is opened");
    let client = Client::new(storage);
    client.enqueue(job("resize", &json!({ "width": 1 }))).await.expect("is stored");
    for arguments in [
        &["pause", "queue", "default"][..],
        &["jobs"],
        &["status"],
        &["migrate"],
        &["delete", "--where", "kind:resize", "--yes"],
    ] {
        let arguments = [&["--url", "sqlite://elsewhere.db?x=hunter2"], arguments].concat();
        let (code, out, err) = run(&client, &arguments).await;
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {err}");
        assert!(err.contains("acts in its own storage, sqlite (jobkit) at "), "{err}");
        assert!(err.contains("shop.db") && !err.contains("hunter2"), "{err}");
    }
    let snapshot = client.storage().snapshot(&Call::default()).await.expect("is read");
    assert!(snapshot.queues.iter().all(|queue| queue.pause.is_none()), "nothing is paused");
    let (_, out, _) = run(&client, &["status"]).await;
    assert!(out.starts_with(&format!("sqlite (jobkit) at {}, ", path.display())), "{out}");
}

#[tokio::test]
async fn usage_and_advice_name_the_program_that_people_type() {
    let client = Client::new(MemoryStorage::new());
    let shop = async |arguments: &[&str]| {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let line = CommandLine::new().program("shop admin").client(client.clone());
        line.run_to(arguments.iter().copied(), &mut out, &mut err).await;
        String::from_utf8([out, err].concat()).expect("text")
    };
    for arguments in [&["--help"][..], &["retry", "--help"], &["nonsense"], &[], &["retry"]] {
        let text = shop(arguments).await;
        assert!(text.contains("Usage: shop admin"), "{arguments:?}: {text}");
        assert!(!text.contains("JOBKIT_URL") && !text.contains("--url"), "{arguments:?}: {text}");
    }
    let words = shop(&["completion", "bash"]).await;
    assert!(words.contains("completion needs a program of one word"), "{words}");
    // Where an address is given instead, it may be another one.
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let line = CommandLine::new().program("shop admin").url("sqlite://shop.db");
    line.run_to(["--help"], &mut out, &mut err).await;
    assert!(String::from_utf8_lossy(&out).contains("--url"), "{out:?}");
}

#[tokio::test]
async fn looking_makes_no_database() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("shop.db");
    let url = format!("sqlite://{}", path.display());
    let id = "0197a2c4-8d3e-7b10-9c55-2f6f0a1b3c4d";
    for arguments in [
        &["status"][..],
        &["jobs"],
        &["jobs", "--count"],
        &["job", id],
        &["why", id],
        &["retry", id],
        &["requeue", id],
        &["delete", id],
        &["run-now", id],
        &["bulk"],
        &["enqueue", "resize", "{}"],
        &["queues"],
        &["pause", "queue", "mail"],
        &["resume", "queue", "mail"],
        &["recurring"],
        &["recurring", "show", "nightly"],
        &["batches"],
        &["limits"],
        &["servers"],
        &["errors"],
        &["audit"],
        &["doctor"],
        &["export"],
        &["metrics"],
        &["move", "--from", &url, "--to", "memory:"],
    ] {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let line = CommandLine::new().url(&url);
        let code = line.run_to(arguments.iter().copied(), &mut out, &mut err).await;
        let err = String::from_utf8(err).expect("text");
        assert_eq!((code, out.len()), (3, 0), "{arguments:?}: {err}");
        assert!(err.contains("there is no such file, and looking makes none"), "{err}");
        let left: Vec<_> = std::fs::read_dir(folder.path()).expect("is read").collect();
        assert!(left.is_empty(), "{arguments:?} made {left:?}");
    }
}

#[tokio::test]
async fn an_error_says_each_thing_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("no folder").join("shop.db");
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let line = CommandLine::new().url(format!("sqlite://{}", path.display()));
    assert_eq!(line.run_to(["migrate"], &mut out, &mut err).await, 3);
    let err = String::from_utf8(err).expect("text");
    assert_eq!(err.matches("unable to open database file").count(), 1, "{err}");
    // And for who prints the chain.
    let error = jobkit::sqlite::SqliteStorage::open(&path).await.expect_err("is refused");
    assert!(error.native().is_some_and(|native| native.to_string().contains("unable to open")));
    let text = format!("{:#}", anyhow::Error::from(error));
    assert_eq!(text.matches("unable to open database file").count(), 1, "{text}");
}

#[tokio::test]
async fn what_no_job_and_no_server_names_is_not_paused_by_a_slip() {
    let client = Client::new(MemoryStorage::new());
    client.enqueue(job("resize", &json!({ "width": 1 }))).await.expect("is stored");
    let (code, _, err) = run(&client, &["pause", "kind", "resiez"]).await;
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("no job or server names kind `resiez`; did you mean `resize`?"), "{err}");
    assert!(err.contains("--force"), "{err}");
    let (code, _, err) = run(&client, &["pause", "queue", "elsewhere"]).await;
    assert!(code == 1 && !err.contains("did you mean"), "{err}");
    assert!(client.storage().pauses(&Call::default()).await.expect("is read").is_empty());
    for arguments in [
        &["pause", "kind", "resize"][..],
        &["pause", "queue", "default"],
        &["pause", "queue", "elsewhere", "--force"],
    ] {
        let (code, _, err) = run(&client, arguments).await;
        assert_eq!(code, 0, "{arguments:?}: {err}");
    }
}

#[tokio::test]
async fn a_recurring_job_is_previewed_by_its_id_in_its_own_zone() {
    let client = Client::new(MemoryStorage::new());
    let nightly = Recurring::cron("nightly", "30 2 * * *").time_zone("Europe/Berlin");
    let nightly = nightly.job(job("resize", &json!({ "width": 1 })));
    client.save_recurring(nightly).await.expect("is stored");
    let from = ["--from", "2026-03-27"];
    let by_id = run(&client, &[&["recurring", "preview", "nightly"][..], &from].concat()).await;
    let expression = ["recurring", "preview", "30 2 * * *", "--zone", "Europe/Berlin"];
    let by_expression = run(&client, &[&expression[..], &from].concat()).await;
    assert_eq!((by_id.0, &by_id.1), (0, &by_expression.1));
    let (code, _, err) = run(&client, &["recurring", "preview", "nightyl"]).await;
    assert!(code == 1 && err.contains("there is no recurring job nightyl"), "{err}");
}
