//! What the engine costs of the processor.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jobkit::Name;
use jobkit::server::Incarnation;
use jobkit::state::Ending;
use jobkit::storage::{Call, ClaimRequest, QueueQuota, ServerInfo, Settle, SettleRequest, Storage};

/// Jobs in one call, as a drain makes them.
const AT_ONCE: usize = 300;

/// Processor time of this process in seconds, all threads, as Linux tells it in hundredths of a second.
pub fn spent() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").context("needs Linux")?;
    // The name of the program, in brackets, may hold anything.
    let (_, fields) = stat.rsplit_once(')').context("/proc/self/stat has no name")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let ticks: u64 = ticks.sum::<Result<_, _>>()?;
    Ok(ticks as f64 / 100.0)
}

/// Claims and settles everything there is, without an engine.
pub async fn drain_bare(storage: &Arc<dyn Storage>, jobs: usize) -> Result<()> {
    let server = ServerInfo {
        name: Name::new("server", "bare")?,
        incarnation: Incarnation::new(),
        pid: 1,
        host: String::new(),
        version: String::new(),
        workers: 1,
        queues: vec![Name::default_queue()],
        kinds: vec![Name::new("kind", "noop")?],
        started_at: storage.now().await?,
        draining: false,
    };
    storage.announce(&Call::default(), &server).await?;
    let mut settle = SettleRequest { server: server.name.clone(), settles: Vec::new() };
    let mut done = 0;
    for sequence in 1.. {
        let claim = ClaimRequest {
            server: server.name.clone(),
            incarnation: server.incarnation,
            sequence,
            queues: vec![QueueQuota { queue: Name::default_queue(), max: AT_ONCE }],
            kinds: server.kinds.clone().into(),
            max: AT_ONCE,
            started: AT_ONCE,
            lease: Duration::from_secs(30),
            sleeps_below: 0,
            hint: None,
        };
        let (answers, claimed) =
            storage.settle_and_claim(&Call::default(), &settle, &claim).await?;
        done += answers.len();
        if claimed.jobs.is_empty() {
            break;
        }
        let ends = claimed.jobs.iter().map(|job| Settle::new(job.lease, Ending::Succeeded));
        settle.settles = ends.collect();
    }
    ensure!(done == jobs, "{done} of {jobs} were settled");
    Ok(())
}
