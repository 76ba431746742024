//! The same inside an application, which knows its jobs.

use jobkit::cli::CommandLine;
use jobkit::codec::{Codec, Encoded, Place};
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
    let client = Client::new(MemoryStorage::new()).erase();
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

    let client = Client::new(MemoryStorage::new()).erase();
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
    let client = Client::new(MemoryStorage::new()).erase();
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
    let owner = Client::with_options(storage.clone(), options).erase();
    let args = json!({ "width": 800, "password": "hunter2" });
    let nightly = Recurring::cron("nightly", "0 3 * * *").job(job("resize", &args));
    owner.save_recurring(nightly).await.expect("is stored");
    let id = owner.enqueue(job("resize", &args)).await.expect("is stored").id().to_string();
    let stranger = Client::new(storage).erase();
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
    let client = Client::new(MemoryStorage::new()).erase();
    client.enqueue(job("resize", &json!({ "width": 1 }))).await.expect("is stored");
    let (code, out, _) = run(&client, &["jobs", "--url", "sqlite://elsewhere.db", "--json"]).await;
    let out: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, out["items"].as_array().map(Vec::len)), (0, Some(1)));
}
