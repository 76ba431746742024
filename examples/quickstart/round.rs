//! One round: a batch of files with its report, a flaky job, a delayed one.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use jobkit::record::{BatchRecord, BatchState};
use jobkit::state::StateName;
use jobkit::storage::Call;
use jobkit::{Batch, BatchId, Client, JobId, On, RetryPolicy};

use crate::arguments::Arguments;
use crate::progress::{self, Progress};
use crate::{JOBS_RETURN, files, jobs};

pub struct Round {
    pub batch: BatchId,
    pub report: JobId,
    pub flaky: JobId,
    pub delayed: JobId,
}

impl Round {
    /// The ids of a round's jobs follow from its batch, so that enqueueing them twice makes one job.
    fn of(batch: BatchId) -> Self {
        let key = batch.to_string();
        Self {
            batch,
            report: JobId::from_key("write_report", &key),
            flaky: JobId::from_key("flaky", &key),
            delayed: JobId::from_key("delayed", &key),
        }
    }
}

/// After this time the results that a report needs may have been purged: they are kept for a day.
const REPORT_AGAIN: Duration = Duration::from_secs(12 * 3600);
/// How long the recurring job is waited for when all else has finished: it may be paused.
const PULSE: Duration = Duration::from_secs(10);

/// Goes on with an unfinished round that the database holds, else begins a new one.
pub async fn resume_or_begin(client: &Client, arguments: &Arguments) -> Result<Round> {
    let round = match unfinished(client, arguments).await? {
        Some(round) => round,
        None => begin(client, arguments).await?,
    };
    // Killed before these were stored, it stores them now; killed after, this changes nothing.
    let key = round.batch.to_string();
    let flaky =
        jobs::flaky().idempotency_key(&key).retry(RetryPolicy::fixed(Duration::from_millis(300)));
    let delayed = jobs::delayed().idempotency_key(&key).delay(Duration::from_secs(2));
    client.enqueue((flaky, delayed)).await?;
    Ok(round)
}

async fn unfinished(client: &Client, arguments: &Arguments) -> Result<Option<Round>> {
    let Some(batch) = client.storage().batches(None, None, 1).await?.pop() else { return Ok(None) };
    let round = Round::of(batch.id);
    if batch.state() == BatchState::Open {
        println!(
            "{} was interrupted while it was stored; nothing of it ran. Beginning anew.",
            batch.name
        );
        client.batch(batch.id).cancel().await?;
        return Ok(None);
    }
    let report = client.state(round.report).await?;
    // Where the report's job is gone, its time is over, and so is that of the others.
    let mut goes_on = report.is_some_and(|state| !state.is_finished());
    for job in [round.flaky, round.delayed].into_iter().filter(|_| report.is_some()) {
        goes_on |= !client.state(job).await?.is_some_and(StateName::is_finished);
    }
    let age = client.storage().now().await?.since(batch.created_at);
    let report_again = report == Some(StateName::Failed) && age < REPORT_AGAIN;
    if !goes_on && !report_again {
        println!("the database holds a finished {}; beginning a new round", batch.name);
        return Ok(None);
    }
    is_of_this_folder(client, &round, arguments).await?;
    let counts = batch.counts;
    println!(
        "going on with {}: the database says that {} of {} finished; finished files are not read again",
        batch.name,
        counts.total - counts.open(),
        progress::count(counts.total, "file"),
    );
    let taken = client.storage().snapshot(&Call::default()).await?.count(StateName::Processing);
    if taken > 0 {
        println!(
            "{} of the killed process {} within {} s",
            progress::count(taken, "job"),
            if taken == 1 { "returns" } else { "return" },
            JOBS_RETURN.as_secs()
        );
    }
    if report_again {
        println!("its report was not written: trying again, at {}", arguments.report.display());
        client.requeue(round.report).await?;
    }
    Ok(Some(round))
}

/// Refuses to go on with one folder where another one is named.
async fn is_of_this_folder(client: &Client, round: &Round, arguments: &Arguments) -> Result<()> {
    #[derive(serde::Deserialize)]
    struct Stored {
        folder: PathBuf,
    }
    let (Some(named), Some(report)) = (&arguments.folder, client.job(round.report).await?) else {
        return Ok(());
    };
    let Stored { folder } = serde_json::from_slice(&client.open_args(&report)?)?;
    if folder != *named {
        bail!(
            "{} holds an unfinished scan of {}, not of {}: name that folder or none to go on with it, \
             or another database with --db",
            arguments.db.display(),
            folder.display(),
            named.display()
        );
    }
    Ok(())
}

async fn begin(client: &Client, arguments: &Arguments) -> Result<Round> {
    let folder = arguments.folder()?;
    let below = files::below(&folder, &left_out(arguments))?;
    let name: String = format!("scan of {}", folder.display()).chars().take(190).collect();
    println!("{name}: {}, one job each", progress::count(below.files.len() as u64, "file"));
    for unread in &below.unread {
        println!("  left out, since it cannot be read: {unread}");
    }
    let batch = Batch::new(name);
    let round = Round::of(batch.id());
    let report =
        jobs::write_report(batch.id(), folder.clone()).idempotency_key(&batch.id().to_string());
    let slow_ms = arguments.slow_ms;
    let files =
        below.files.into_iter().map(|path| jobs::fingerprint(folder.clone(), path, slow_ms));
    // Whatever becomes of single files, the report is written.
    client.enqueue(batch.jobs(files).then_on(On::Any, report)).await?;
    Ok(round)
}

fn left_out(arguments: &Arguments) -> Vec<PathBuf> {
    let beside = |path: &PathBuf, end: &str| {
        let mut name = path.clone().into_os_string();
        name.push(end);
        PathBuf::from(name)
    };
    let mut left_out: Vec<_> =
        ["", "-wal", "-shm", "-journal"].iter().map(|end| beside(&arguments.db, end)).collect();
    left_out.push(arguments.report.clone());
    left_out.push(arguments.report.with_extension("part"));
    left_out
}

impl Round {
    /// Shows how far it is, until everything has finished, well or not.
    pub async fn watch(&self, client: &Client, progress: &Progress) -> Result<()> {
        let mut finished_at = None;
        loop {
            let batch: BatchRecord =
                client.batch(self.batch).status().await?.context("the batch is gone")?;
            let counts = batch.counts;
            progress.files(counts.total - counts.open(), counts.total);
            if self.is_finished(client).await? {
                let since = *finished_at.get_or_insert_with(Instant::now);
                let pulses = client.storage().recurring_runs("pulse", 1).await?;
                if !pulses.is_empty() || since.elapsed() >= PULSE {
                    progress.end();
                    return Ok(());
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn is_finished(&self, client: &Client) -> Result<bool> {
        for job in [self.report, self.flaky, self.delayed] {
            let state = client.state(job).await?;
            if !state.context("a job of the round is gone")?.is_finished() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
