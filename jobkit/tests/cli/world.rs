//! A file with a bit of everything, and the program.

use std::process::{Command, Stdio};
use std::time::Duration;

use jobkit::client::Untyped;
use jobkit::limit::Limit;
use jobkit::record::ErrorDetail;
use jobkit::record::{Lease, Progress};
use jobkit::server::Incarnation;
use jobkit::sqlite::SqliteOptions;
use jobkit::state::Ending;
use jobkit::storage::{
    Call, ClaimRequest, LogLevel, LogLine, QueueQuota, ServerInfo, Settle, SettleRequest,
};
use jobkit::{Batch, Client, JobId, Name, NewJob, Recurring, Timestamp, job_by_name};
use serde_json::{Value, json};

/// What a run of the program left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}

/// Whom the audit names: the user, at this machine.
pub(crate) fn actor() -> String {
    format!("ann@{}", jobkit_core::server::hostname().unwrap_or_else(|| "localhost".into()))
}

/// Runs the program without a terminal.
pub(crate) fn run(url: Option<&str>, arguments: &[&str]) -> Ran {
    run_on(Stdio::null(), url, arguments)
}

/// The same with something to read.
pub(crate) fn run_on(stdin: Stdio, url: Option<&str>, arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jobkit"));
    command.args(arguments).stdin(stdin);
    for name in ["JOBKIT_URL", "NO_COLOR", "COLUMNS"] {
        command.env_remove(name);
    }
    command.env("USER", "ann");
    if let Some(url) = url {
        command.env("JOBKIT_URL", url);
    }
    let output = command.output().expect("the program starts");
    Ran {
        code: output.status.code().expect("it ends by itself"),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

/// A storage of one test.
pub(crate) struct World {
    _folder: tempfile::TempDir,
    pub(crate) url: String,
    pub(crate) client: Client,
    sequence: u64,
    incarnation: Incarnation,
}

pub(crate) fn name(text: &str) -> Name {
    Name::new("name", text).expect("a name")
}

pub(crate) fn job(kind: &str, args: &Value) -> NewJob<Untyped> {
    job_by_name(kind, args.as_object().expect("an object")).expect("a job")
}

/// The kinds that the world's server serves.
pub(crate) const KINDS: [&str; 6] = ["mail", "report", "resize", "charge", "sync", "canary"];

impl World {
    /// A file with an announced server and no jobs.
    pub(crate) async fn empty() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("jobs.db");
        let url = format!("sqlite://{}", path.display());
        let storage = SqliteOptions::new(&path).open().await.expect("opens");
        let incarnation = Incarnation::new();
        let client = Client::new(storage);
        let world = Self { _folder: folder, url, client, sequence: 0, incarnation };
        let info = ServerInfo {
            name: name("web-1"),
            incarnation,
            pid: 4711,
            host: "web".into(),
            version: "0.1.0".into(),
            workers: 20,
            queues: vec![name("default"), name("mail")],
            kinds: KINDS.map(name).to_vec(),
            started_at: Timestamp::from_micros(1_767_225_600_000_000),
            draining: false,
        };
        world.client.storage().announce(&Call::default(), &info).await.expect("is announced");
        world
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        run(Some(&self.url), arguments)
    }

    pub(crate) async fn enqueue(&self, job: NewJob<Untyped>) -> JobId {
        self.client.enqueue(job).await.expect("is stored").id()
    }

    /// Takes what waits, of these kinds.
    pub(crate) async fn claim(&mut self, kinds: &[&str]) -> Vec<Lease> {
        self.sequence += 1;
        let queue = |queue| QueueQuota { queue: name(queue), max: 100 };
        let request = ClaimRequest {
            server: name("web-1"),
            incarnation: self.incarnation,
            sequence: self.sequence,
            queues: vec![queue("default"), queue("mail")],
            kinds: kinds.iter().map(|kind| name(kind)).collect(),
            max: 100,
            started: 100,
            lease: Duration::from_secs(3600),
            sleeps_below: 0,
            hint: None,
        };
        let claimed =
            self.client.storage().claim(&Call::default(), &request).await.expect("is claimed");
        claimed.jobs.iter().map(|job| job.lease).collect()
    }

    pub(crate) async fn settle(&self, settles: Vec<Settle>) {
        let request = SettleRequest { server: name("web-1"), settles };
        self.client.storage().settle(&Call::default(), &request).await.expect("is settled");
    }

    /// Takes what waits of a kind, and ends it so.
    pub(crate) async fn end(&mut self, kind: &str, ending: Ending) -> Vec<JobId> {
        let leases = self.claim(&[kind]).await;
        let settles = leases.iter().map(|lease| settled(*lease, ending, kind)).collect();
        self.settle(settles).await;
        leases.iter().map(|lease| lease.job).collect()
    }
}

pub(crate) fn settled(lease: Lease, ending: Ending, kind: &str) -> Settle {
    let failed = !matches!(ending, Ending::Succeeded);
    let error = failed.then(|| {
        let chain = ["connection reset".to_owned()];
        let trace = "   0: mailer::send\n   1: main".to_owned();
        ErrorDetail::new(kind, "SmtpError", "timed out after 30 s", chain, Some(trace))
    });
    let line = LogLine {
        at: Timestamp::from_micros(1_767_225_600_000_000),
        level: LogLevel::Info,
        text: "connected".into(),
    };
    let progress = Progress { name: String::new(), done: 3, total: 4, message: "rows".into() };
    Settle {
        result: (!failed).then(|| b"{\"sent\":1}".to_vec().into()),
        error,
        duration: Some(Duration::from_millis(125)),
        log: vec![line],
        progress: vec![progress],
        ..Settle::new(lease, ending)
    }
}

/// The jobs of a full world.
pub(crate) struct Ids {
    pub(crate) succeeded: JobId,
    pub(crate) failed: JobId,
    pub(crate) retrying: JobId,
    pub(crate) processing: JobId,
    pub(crate) scheduled: JobId,
    pub(crate) awaiting: JobId,
    pub(crate) deleted: JobId,
    pub(crate) enqueued: JobId,
    pub(crate) batch: jobkit::BatchId,
}

/// A job in every state, a batch, a limit that is full, a schedule, a pause.
pub(crate) async fn full() -> (World, Ids) {
    let mut world = World::empty().await;
    let reason = jobkit::state::Reason::OutOfAttempts;
    let succeeded = world.enqueue(job("mail", &json!({ "user": 17 })).tag("vip")).await;
    world.end("mail", Ending::Succeeded).await;
    let failed = world.enqueue(job("charge", &json!({ "order": 4711 })).queue("mail")).await;
    world.end("charge", Ending::Failed(reason)).await;
    let retrying = world.enqueue(job("sync", &json!({}))).await;
    world.end("sync", Ending::Retry { delay: Duration::from_secs(36_000) }).await;
    let report = || job("report", &json!({ "year": 2026 })).limit("reports", 1);
    let processing = world.enqueue(report().unique("report:2026")).await;
    world.claim(&["report"]).await;
    let parked = world.enqueue(report()).await;
    // The claim finds the limit full, and parks it.
    assert!(world.claim(&["report"]).await.is_empty(), "{parked} is parked");
    let scheduled = world
        .enqueue(job("resize", &json!({ "width": 800 })).delay(Duration::from_secs(36_000)))
        .await;
    let awaiting = world.enqueue(job("mail", &json!({ "user": 18 })).after(processing)).await;
    let deleted = world.enqueue(job("resize", &json!({ "width": 1 }))).await;
    world.client.delete(deleted).await.expect("is deleted");
    let enqueued = world.enqueue(job("lost", &json!({ "n": 1 })).queue("mail").priority(9)).await;
    let members = [job("resize", &json!({ "n": 1 })), job("resize", &json!({ "n": 2 }))];
    let batch =
        world.client.enqueue(Batch::new("thumbnails").jobs(members)).await.expect("is stored");
    // Twice a night, so that the next time is within a day also where the clocks go back.
    let nightly = Recurring::cron("nightly", "0 1,3 * * *")
        .time_zone("Europe/Berlin")
        .job(job("report", &json!({ "night": true })));
    world.client.save_recurring(nightly).await.expect("is stored");
    world
        .client
        .operator("ann")
        .because("the provider is down")
        .pause_queue("mail", None)
        .await
        .expect("is paused");
    world.client.define_limit(Limit::new("smtp", 5)).await.expect("is defined");
    let ids = Ids {
        succeeded,
        failed,
        retrying,
        processing,
        scheduled,
        awaiting,
        deleted,
        enqueued,
        batch: batch.id(),
    };
    (world, ids)
}
