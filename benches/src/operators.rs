//! What people look at, beside a million jobs of all states: how long each call takes.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use jobkit::ops::prometheus::Figures;
use jobkit::ops::{search, why};
use jobkit::record::ErrorDetail;
use jobkit::server::Incarnation;
use jobkit::state::Ending;
use jobkit::state::Reason;
use jobkit::storage::{
    Call, ClaimRequest, ErrorQuery, QueueQuota, ServerInfo, Settle, SettleRequest,
};
use jobkit::{Client, JobId, Name, Timestamp};

use crate::jobs::sized;
use crate::target::{Fresh, Target};

/// How often each call is made.
const CALLS: usize = 50;
const QUEUES: [&str; 4] = ["default", "mail", "reports", "sync"];
const STEP: usize = 300;

/// A call, and how long it took each time, sorted.
pub struct Timed {
    pub call: String,
    pub lengths: Vec<Duration>,
}

pub async fn measure(target: &Target) -> Result<Vec<Timed>> {
    let fresh = target.fresh().await?;
    let jobs = target.jobs(1_000_000);
    let [awaiting, failed] = fill(&fresh, jobs).await?;
    let storage = &*fresh.storage;
    let there: u64 = storage.snapshot(&Call::default()).await?.by_state.iter().sum();
    ensure!(there >= jobs as u64, "{there} of {jobs} are there");

    let mut all = Vec::new();
    all.push(timed("snapshot", || async { storage.snapshot(&Call::default()).await }).await?);
    all.push(timed("lanes", || storage.lanes(1_000)).await?);
    all.push(timed("servers", || storage.servers()).await?);
    all.push(timed("error_groups", || storage.error_groups(ERRORS)).await?);
    all.push(timed("check", || storage.check()).await?);
    all.push(timed("figures", || Figures::read(storage)).await?);
    for (what, id) in [("awaiting", awaiting), ("failed", failed)] {
        all.push(
            timed(&format!("why {what}"), || async {
                why::why(storage, &Call::default(), id).await
            })
            .await?,
        );
        all.push(timed(&format!("job {what}"), || storage.job(id)).await?);
    }
    for state in ["enqueued", "scheduled"] {
        let page = search::page(storage, &format!("state:{state}").parse()?, None, 1).await?;
        let id = page.jobs.first().context("one is there")?.id;
        all.push(
            timed(&format!("why {state}"), || async {
                why::why(storage, &Call::default(), id).await
            })
            .await?,
        );
    }
    for text in [
        "",
        "state:succeeded",
        "state:failed",
        "state:enqueued",
        "state:scheduled",
        "state:awaiting",
        "state:deleted",
        "state:failed queue:mail",
        "state:enqueued queue:mail",
        "state:succeeded kind:noop",
        "state:succeeded tag:vip",
        "tag:vip",
        "failed:<1h",
        "state:failed error:\"timed out\"",
        "kind:nothing",
    ] {
        let filter: search::JobFilter = text.parse()?;
        all.push(
            timed(&format!("list '{text}'"), || search::page(storage, &filter, None, 50)).await?,
        );
        all.push(
            timed(&format!("count '{text}'"), || search::count(storage, &filter, 10_000)).await?,
        );
    }
    Ok(all)
}

const ERRORS: &ErrorQuery = &ErrorQuery { since: None, kind: None, fingerprint: None };

async fn timed<T, F>(call: &str, mut make: impl FnMut() -> F) -> Result<Timed>
where
    F: Future<Output = jobkit::Result<T>>,
{
    let mut lengths = Vec::new();
    for _ in 0..CALLS {
        let begun = Instant::now();
        make().await?;
        lengths.push(begun.elapsed());
        // One that is slow is known to be after a few.
        if lengths.len() >= 5 && begun.elapsed() > Duration::from_secs(1) {
            break;
        }
    }
    lengths.sort_unstable();
    Ok(Timed { call: call.to_owned(), lengths })
}

/// Six in ten succeeded, one each failed, deleted, scheduled, enqueued; some wait for a parent. Answers
/// one that waits and one that failed.
async fn fill(fresh: &Fresh, jobs: usize) -> Result<[JobId; 2]> {
    let client = Client::new(std::sync::Arc::clone(&fresh.storage));
    let tenth = jobs / 10;
    let queue = |n: usize| QUEUES[n % QUEUES.len()];
    let job = |n: usize| {
        let job = sized().queue(queue(n)).priority(u8::try_from(n % 10).unwrap_or(5));
        if n.is_multiple_of(1_000) { job.tag("vip") } else { job }
    };
    client.enqueue_many((0..7 * tenth).map(job)).await?;
    let failed = end_all(fresh, tenth).await?;
    // Deleted where they wait, by the bulk operation that people use.
    client.enqueue_many((0..tenth).map(job)).await?;
    let operator = client.operator("bench");
    let action = jobkit::storage::Action::Delete { keep: None };
    let filter = "state:enqueued".parse()?;
    let begun = operator.begin_bulk(filter, action, tenth as u64, Duration::ZERO).await?;
    jobkit::ops::bulk::drive(&*fresh.storage, begun.id, |_| {}).await?;
    let day = Duration::from_secs(24 * 3600);
    client.enqueue_many((0..tenth).map(|n| job(n).delay(day))).await?;
    let parent = sized().delay(day);
    let child = sized().after(&parent);
    let awaiting = child.id();
    client.enqueue((parent, child)).await?;
    client.enqueue_many((0..tenth).map(job)).await?;
    Ok([awaiting, failed])
}

/// Fails this many jobs of the queue `mail`.
pub async fn fail(fresh: &Fresh, jobs: usize) -> Result<()> {
    let client = Client::new(std::sync::Arc::clone(&fresh.storage));
    client.enqueue_many((0..jobs).map(|_| sized().queue("mail"))).await?;
    end_all(fresh, jobs).await.map(drop)
}

/// Ends everything that is enqueued, the first `failures` as Failed; answers one of these.
async fn end_all(fresh: &Fresh, failures: usize) -> Result<JobId> {
    let storage = &fresh.storage;
    let name = |text: &str| Name::new("name", text);
    let server = name("bench-1")?;
    let incarnation = Incarnation::new();
    let queues = QUEUES.map(name).into_iter().collect::<jobkit::Result<Vec<_>>>()?;
    let info = ServerInfo {
        name: server.clone(),
        incarnation,
        pid: 1,
        host: "bench".into(),
        version: "0".into(),
        workers: 20,
        queues: queues.clone(),
        kinds: vec![name("noop")?],
        started_at: Timestamp::from_micros(0),
        draining: false,
    };
    storage.announce(&Call::default(), &info).await?;
    let quotas = queues.iter().map(|queue| QueueQuota { queue: queue.clone(), max: STEP });
    let mut claim = ClaimRequest {
        server: server.clone(),
        incarnation,
        sequence: 1,
        queues: quotas.collect(),
        kinds: vec![name("noop")?].into(),
        max: STEP,
        started: STEP,
        lease: Duration::from_secs(300),
        sleeps_below: 0,
        hint: None,
    };
    let mut claimed = storage.claim(&Call::default(), &claim).await?;
    let (mut ended, mut failed) = (0, None);
    while !claimed.jobs.is_empty() {
        let settles = claimed.jobs.iter().map(|job| {
            ended += 1;
            let took = Some(Duration::from_millis(20));
            if ended > failures {
                return Settle { duration: took, ..Settle::new(job.lease, Ending::Succeeded) };
            }
            failed = Some(job.lease.job);
            let message = format!("timed out after {} s", ended % 60);
            let kind = format!("Error{}", ended % 20);
            let error = Some(ErrorDetail::new("noop", &kind, &message, [], None));
            let ending = Ending::Failed(Reason::OutOfAttempts);
            Settle { duration: took, error, ..Settle::new(job.lease, ending) }
        });
        let settle = SettleRequest { server: server.clone(), settles: settles.collect() };
        claim.sequence += 1;
        claim.hint = claimed.hint;
        (_, claimed) = storage.settle_and_claim(&Call::default(), &settle, &claim).await?;
    }
    failed.context("none failed")
}
