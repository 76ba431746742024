//! Several storages in one process: nothing is global, so nothing is mixed up.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jobkit::sqlite::{SqliteOptions, SqliteStorage};
use jobkit::state::StateName;
use jobkit::{Client, Data, JobContext, Recurring, Server, ServerHandle, jobs};

const SOON: Duration = Duration::from_secs(60);

/// What ran on one of the storages.
#[derive(Clone)]
struct Here {
    name: &'static str,
    ran: Arc<Mutex<Vec<String>>>,
}

#[jobkit::job(unique = "once")]
async fn parent(text: String, here: Data<Here>, ctx: JobContext) -> anyhow::Result<String> {
    here.ran.lock().unwrap().push(text.clone());
    // A context's client is the one of its own storage.
    ctx.client().enqueue(child(text)).await?;
    Ok(here.name.to_owned())
}

#[jobkit::job]
async fn child(text: String, here: Data<Here>) -> anyhow::Result<()> {
    here.ran.lock().unwrap().push(format!("child of {text}"));
    Ok(())
}

#[jobkit::job]
async fn pulse() -> anyhow::Result<()> {
    Ok(())
}

struct Side {
    client: Client,
    here: Here,
    server: ServerHandle,
}

async fn side(name: &'static str, storage: SqliteStorage) -> Side {
    let here = Here { name, ran: Arc::default() };
    let client = Client::new(storage.clone());
    let every_second = Recurring::every("pulse", Duration::from_secs(1)).job(pulse());
    let server = Server::builder(storage)
        .jobs(jobs![parent, child, pulse])
        .data(here.clone())
        .recurring(every_second)
        .name(name)
        .build()
        .unwrap();
    Side { client, here, server: server.start().await.unwrap() }
}

async fn nothing_is_mixed_up(left: SqliteStorage, right: SqliteStorage) {
    let (left, right) = (side("left", left).await, side("right", right).await);
    // The same job value on both: its id and its unique key are free on each of them.
    let job = parent("both".into());
    let on_left = left.client.enqueue(job.clone()).await.unwrap();
    let on_right = right.client.enqueue(job).await.unwrap();
    assert_eq!(on_left.id(), on_right.id());
    assert_eq!(on_left.wait(SOON).await.unwrap(), "left");
    assert_eq!(on_right.wait(SOON).await.unwrap(), "right");

    let own = left.client.enqueue(parent("left alone".into())).await.unwrap();
    assert_eq!(own.wait(SOON).await.unwrap(), "left");
    assert_eq!(right.client.state(own.id()).await.unwrap(), None, "unknown on the other side");

    // A pause of one side leaves the other alone.
    let pause = jobkit::recurring::Pause::new("ann", "only here");
    left.client.pause_kind("parent", pause).await.unwrap();
    let waits = left.client.enqueue(parent("paused".into())).await.unwrap();
    let runs = right.client.enqueue(parent("not paused".into())).await.unwrap();
    assert_eq!(runs.wait(SOON).await.unwrap(), "right");
    assert_eq!(left.client.state(waits.id()).await.unwrap(), Some(StateName::Enqueued));

    // One of the servers stops, the other one goes on.
    right.server.shutdown().await.unwrap();
    left.client.resume_kind("parent").await.unwrap();
    assert_eq!(waits.wait(SOON).await.unwrap(), "left");
    left.server.shutdown().await.unwrap();

    let ran = |side: &Side| side.here.ran.lock().unwrap().iter().cloned().collect::<BTreeSet<_>>();
    let texts = |texts: &[&str]| -> BTreeSet<String> {
        let parents = texts.iter().map(|text| (*text).to_owned());
        parents.chain(texts.iter().map(|text| format!("child of {text}"))).collect()
    };
    let expected = texts(&["both", "left alone", "paused"]);
    let mut of_left = ran(&left);
    // The stop may have come before the last child, which then waits on its own side.
    of_left.insert("child of paused".to_owned());
    assert_eq!(of_left, expected);
    let mut of_right = ran(&right);
    of_right.insert("child of not paused".to_owned());
    assert_eq!(of_right, texts(&["both", "not paused"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_files_in_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str| SqliteStorage::open(folder.path().join(name));
    nothing_is_mixed_up(open("left.db").await.unwrap(), open("right.db").await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_namespaces_of_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("both.db");
    let open = |name: &str| SqliteOptions::new(&path).namespace(name).open();
    let (left, right) = (open("left").await.unwrap(), open("right").await.unwrap());
    nothing_is_mixed_up(left, right).await;
}
