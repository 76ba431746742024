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
