//! The same inside an application, which knows its jobs.

use jobkit::cli::CommandLine;
use jobkit::{Client, Failure, Job, Jobs, MemoryStorage};
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

#[tokio::test]
async fn the_commands_act_in_the_storage_that_was_given() {
    let client = Client::new(MemoryStorage::new()).erase();
    client.enqueue(job("resize", &json!({ "width": 1 }))).await.expect("is stored");
    let (code, out, _) = run(&client, &["jobs", "--url", "sqlite://elsewhere.db", "--json"]).await;
    let out: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, out["items"].as_array().map(Vec::len)), (0, Some(1)));
}
