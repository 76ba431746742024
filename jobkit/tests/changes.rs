//! Jobs that change while others wait: versions, aliases, and two releases at work on one file.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jobkit::sqlite::SqliteStorage;
use jobkit::state::{Reason, StateName};
use jobkit::storage::{Call, JobQuery, Monitoring};
use jobkit::testing::TestServer;
use jobkit::upgrade::StoredJob;
use jobkit::{
    Client, Data, JobContext, JobId, Jobs, MemoryStorage, NewJob, Recurring, Server, jobs,
};
use serde_json::{Value, json};

/// Who ran what: release, kind as stored, arguments.
type Ledger = Arc<Mutex<Vec<(&'static str, String, JobId)>>>;

/// The release that is in use.
mod older {
    use super::*;

    #[jobkit::job]
    pub(crate) async fn send(user: u64, ledger: Data<Ledger>, ctx: JobContext) {
        tokio::time::sleep(Duration::from_millis(1)).await;
        ledger.lock().unwrap().push(("older", format!("{} {user}", ctx.kind()), ctx.id()));
    }

    #[jobkit::job]
    pub(crate) async fn resize(size: String, ledger: Data<Ledger>, ctx: JobContext) {
        ledger.lock().unwrap().push(("older", format!("{} {size}", ctx.kind()), ctx.id()));
    }

    pub(crate) fn jobs() -> Jobs {
        jobs![send, resize]
    }
}

/// The next: `send` has a new name and one more argument, `resize` takes numbers.
mod newer {
    use super::*;

    #[jobkit::job(name = "mail.send", aliases("send"))]
    pub(crate) async fn send(
        user: u64,
        #[serde(default)] locale: Option<String>,
        ledger: Data<Ledger>,
        ctx: JobContext,
    ) {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let text = format!("{} {user} {}", ctx.kind(), locale.unwrap_or_default());
        ledger.lock().unwrap().push(("newer", text, ctx.id()));
    }

    #[derive(serde::Deserialize)]
    pub(crate) struct ResizeV1 {
        size: String,
    }

    pub(crate) fn from_v1(old: ResizeV1) -> anyhow::Result<(u32, u32)> {
        let (width, height) =
            old.size.split_once('x').ok_or_else(|| anyhow::anyhow!("{:?} has no x", old.size))?;
        Ok((width.parse()?, height.parse()?))
    }

    #[jobkit::job(version = 2, upgrade = from_v1)]
    pub(crate) async fn resize(width: u32, height: u32, ledger: Data<Ledger>, ctx: JobContext) {
        let text = format!("{} {width} by {height}", ctx.kind());
        ledger.lock().unwrap().push(("newer", text, ctx.id()));
    }

    pub(crate) fn jobs() -> Jobs {
        jobs![send, resize]
    }
}

#[tokio::test]
async fn an_older_version_is_upgraded_and_a_newer_one_waits() {
    assert_eq!(
        newer::jobs().names().collect::<Vec<_>>(),
        ["mail.send", "send", "resize@2", "resize"]
    );
    let ledger = Ledger::default();
    let mut t = TestServer::new(newer::jobs()).data(Arc::clone(&ledger));
    let client = t.client();
    client.enqueue((older::resize("3x4".into()), newer::resize(5, 6))).await.unwrap();
    let broken = client.enqueue(older::resize("3".into())).await.unwrap();
    t.run_until_idle().await;
    let told: Vec<_> = ledger.lock().unwrap().iter().map(|(_, text, _)| text.clone()).collect();
    assert_eq!(told, ["resize 3 by 4", "resize@2 5 by 6"]);
    let broken = t.job(broken.id()).await.0;
    assert_eq!(broken.record.head.reason, Reason::BadArguments);
    let message = &broken.errors[0].detail.message;
    assert!(message.contains("the upgrade from version 1 failed: \"3\" has no x"), "{message}");

    let mut t = TestServer::new(older::jobs()).data(Ledger::default());
    let newer = t.client().enqueue(newer::resize(5, 6)).await.unwrap();
    t.run_until_idle().await;
    assert_eq!(t.job(newer.id()).await.0.record.state(), StateName::Enqueued, "not for it");
}

/// Two versions back, and a former name: every combination that may be stored is served.
#[tokio::test]
async fn several_versions_and_aliases_are_served() {
    #[derive(serde::Deserialize)]
    struct V1 {
        a: u8,
    }
    #[derive(serde::Deserialize)]
    struct V2 {
        b: u8,
    }
    fn from_v1(old: V1) -> (u32,) {
        from_v2(V2 { b: old.a })
    }
    fn from_v2(old: V2) -> (u32,) {
        (u32::from(old.b) * 10,)
    }
    #[jobkit::job(version = 3, upgrade(1 = from_v1, 2 = from_v2), aliases("old"))]
    async fn new(c: u32) -> anyhow::Result<u32> {
        Ok(c)
    }
    let mut t = TestServer::new(jobs![new]);
    let mut ids = Vec::new();
    for (kind, args) in [
        ("new@3", json!({"c": 10})),
        ("old@3", json!({"c": 10})),
        ("new@2", json!({"b": 1})),
        ("old@2", json!({"b": 1})),
        ("new", json!({"a": 1})),
        ("old", json!({"a": 1})),
    ] {
        ids.push(t.client().enqueue(by_name(kind, &args)).await.unwrap().id());
    }
    t.run_until_idle().await;
    for id in ids {
        assert_eq!(t.job(id).await.0.result.unwrap().as_bytes(), b"10");
    }
    assert_eq!(
        new(1).idempotency_key("k").id(),
        JobId::from_key("new", "k"),
        "whatever the version"
    );
}

fn by_name(kind: &str, args: &Value) -> NewJob<jobkit::client::Untyped> {
    jobkit::job_by_name(kind, args.as_object().unwrap()).unwrap()
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Address {
    street: String,
    number: u32,
}

#[jobkit::job]
async fn deliver(to: Address, parcels: Vec<u32>) {
    let _ = (to.street, to.number, parcels);
}

#[tokio::test]
async fn bad_arguments_name_their_place() {
    let mut t = TestServer::new(jobs![deliver]);
    let good = json!({"street": "Elm", "number": 1});
    for (args, place) in [
        (json!({"parcels": []}), "`to`"),
        (json!({"to": {"street": "Elm"}, "parcels": []}), "`to.number`"),
        (json!({"to": {"street": 5, "number": 1}, "parcels": []}), "`to.street`"),
        (json!({"to": good, "parcels": [1, "two"]}), "`parcels[1]`"),
        (json!({"to": good, "parcels": null}), "`parcels`"),
    ] {
        let job = t.client().enqueue(by_name("deliver", &args)).await.unwrap();
        t.run_until_idle().await;
        let details = t.job(job.id()).await.0;
        assert_eq!(
            (details.record.state(), details.record.head.reason),
            (StateName::Failed, Reason::BadArguments)
        );
        let message = &details.errors[0].detail.message;
        let expected = format!("the stored argument {place} does not fit: ");
        assert!(message.starts_with(&expected), "{message}, where {expected}");
    }
    let unknown = json!({"to": good, "parcels": [1], "more": true});
    t.client().enqueue(by_name("deliver", &unknown)).await.unwrap();
    t.run_until_idle().await;
    assert_eq!(t.succeeded("deliver").await, 1, "unknown fields are ignored");
}

#[tokio::test]
async fn a_check_tells_what_a_new_release_could_not_run() {
    let client = Client::new(MemoryStorage::new());
    let first = client.enqueue(older::send(1)).await.unwrap();
    let mut misfits = Vec::new();
    for i in 0..450 {
        let fits = older::resize("3x4".into());
        let misfit = older::resize(format!("{i}"));
        misfits.push(misfit.id());
        // Waiting for all that a job can wait for.
        let misfit = match i % 3 {
            0 => misfit.after(first.id()),
            1 => misfit.delay(Duration::from_secs(600)),
            _ => misfit,
        };
        client.enqueue((fits, misfit)).await.unwrap();
    }
    let gone = client.enqueue(by_name("gone", &json!({}))).await.unwrap();
    let wrong = client.enqueue(by_name("deliver", &json!({"to": {"street": "x"}}))).await.unwrap();
    let nightly = Recurring::cron("nightly", "0 2 * * *").job(older::resize("large".into()));
    client.save_recurring(nightly).await.unwrap();
    client.save_recurring(Recurring::cron("fine", "0 2 * * *").job(older::send(2))).await.unwrap();

    let before = older::jobs().merge(jobs![deliver]).check_stored(&client).await.unwrap();
    assert_eq!((before.checked, before.misfits), (905, 2), "{before}");
    let found = newer::jobs().merge(jobs![deliver]).check_stored(&client).await.unwrap();
    assert_eq!((found.checked, found.misfits), (905, 453), "{found}");
    assert!(!found.is_ok());
    let of = |what: &StoredJob| found.told.iter().find(|misfit| misfit.what == *what).unwrap();
    for id in misfits {
        assert_eq!(of(&StoredJob::Job(id)).kind.as_str(), "resize");
    }
    let text = of(&StoredJob::Job(gone.id())).to_string();
    assert!(text.ends_with("of kind gone: no registered job is of this kind"), "{text}");
    let wrong = of(&StoredJob::Job(wrong.id()));
    assert_eq!(wrong.field.as_deref(), Some("to.number"));
    let text = of(&StoredJob::Recurring("nightly".into())).to_string();
    let expected = "recurring job \"nightly\" of kind resize: the upgrade from version 1 failed: \
                    \"large\" has no x";
    assert_eq!(text, expected);
}

/// Turns bytes round.
struct Mirror;

impl jobkit::codec::Codec for Mirror {
    fn name(&self) -> &str {
        "mirror"
    }

    fn encode(
        &self,
        _: jobkit::codec::Place<'_>,
        plain: &[u8],
    ) -> jobkit::Result<Option<jobkit::codec::Encoded>> {
        let data = plain.iter().rev().copied().collect();
        Ok(Some(jobkit::codec::Encoded { key: None, data }))
    }

    fn decode(
        &self,
        _: jobkit::codec::Place<'_>,
        encoded: &jobkit::codec::Encoded,
    ) -> jobkit::Result<Vec<u8>> {
        Ok(encoded.data.iter().rev().copied().collect())
    }
}

#[tokio::test]
async fn a_check_reads_what_a_codec_made() {
    let storage = MemoryStorage::new();
    let options = jobkit::ClientOptions::default().codec(Mirror);
    let client = Client::with_options(storage.clone(), options);
    client.enqueue(older::resize("3x4".into())).await.unwrap();
    client.save_recurring(Recurring::cron("r", "0 2 * * *").job(older::send(2))).await.unwrap();
    let found = newer::jobs().check_stored(&client).await.unwrap();
    assert_eq!((found.checked, found.misfits), (2, 0), "{found}");
    let found = newer::jobs().check_stored(&Client::new(storage)).await.unwrap();
    assert_eq!((found.checked, found.misfits), (2, 2), "{found}");
}

/// During a rolling deploy both releases enqueue and run; each job is run once, by one that can.
#[tokio::test(flavor = "multi_thread")]
async fn two_releases_drain_one_file_together() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jobs.db");
    let open = async || SqliteStorage::open(&file).await.unwrap();
    let storage = open().await;
    let client = Client::new(storage.clone());
    const EACH: u64 = 100;
    for i in 0..EACH {
        let old = (older::send(i), older::resize(format!("{i}x1")));
        let new = (newer::send(i, Some("de".into())), newer::resize(2, 3));
        client.enqueue(old).await.unwrap();
        client.enqueue(new).await.unwrap();
    }
    let ledger = Ledger::default();
    let mut servers = Vec::new();
    // Each release opens the file for itself.
    for jobs in [older::jobs(), newer::jobs()] {
        let server = Server::builder(open().await).jobs(jobs).data(Arc::clone(&ledger)).workers(4);
        servers.push(server.build().unwrap().start().await.unwrap());
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while storage.snapshot(&Call::default()).await.unwrap().count(StateName::Succeeded) < EACH * 4 {
        assert!(std::time::Instant::now() < deadline, "the file is not drained");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for server in servers {
        server.shutdown().await.unwrap();
    }
    let failed = storage.list(&JobQuery::new(StateName::Failed)).await.unwrap().jobs;
    assert!(failed.is_empty(), "{failed:?}");
    let ledger = ledger.lock().unwrap();
    let mut ids: Vec<_> = ledger.iter().map(|(_, _, id)| *id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ledger.len() as u64, ids.len() as u64), (EACH * 4, EACH * 4), "each once");
    let by_older = ledger.iter().filter(|(release, ..)| *release == "older");
    for (_, text, _) in by_older {
        assert!(!text.contains('@') && !text.starts_with("mail.send"), "{text}");
    }
    let of = |start: &str| ledger.iter().filter(|(_, text, _)| text.starts_with(start)).count();
    assert_eq!((of("mail.send "), of("resize@2 2 by 3")), (100, 100));
}
