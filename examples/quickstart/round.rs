//! One round: a batch of files with its report, a flaky job, a delayed one.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jobkit::batch::{BatchRecord, BatchState};
use jobkit::sqlite::SqliteStorage;
use jobkit::state::StateName;
use jobkit::storage::{BatchStore, RecurringStore};
use jobkit::{Batch, BatchId, Client, JobId, On, RetryPolicy};

use crate::arguments::Arguments;
use crate::{files, jobs};

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

/// Goes on with an unfinished round that the database holds, else begins a new one.
pub async fn resume_or_begin(
    client: &Client<SqliteStorage>,
    arguments: &Arguments,
) -> Result<Round> {
    let round = match unfinished(client).await? {
        Some(round) => round,
        None => begin(client, arguments).await?,
    };
    // Killed before these were stored, it stores them now; killed after, this changes nothing.
    let key = round.batch.to_string();
    let flaky = jobs::flaky().keyed(&key).retry(RetryPolicy::fixed(Duration::from_millis(300)));
    let delayed = jobs::delayed().keyed(&key).delay(Duration::from_secs(2));
    client.enqueue((flaky, delayed)).await?;
    Ok(round)
}

async fn unfinished(client: &Client<SqliteStorage>) -> Result<Option<Round>> {
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
    for job in [round.report, round.flaky, round.delayed] {
        match client.state(job).await? {
            Some(state) if state.is_finished() => {}
            _ => {
                let counts = batch.counts;
                println!(
                    "going on with {}: the database says that {} of {} files are finished; they are not read again",
                    batch.name,
                    counts.total - counts.open(),
                    counts.total
                );
                return Ok(Some(round));
            }
        }
    }
    println!("the database holds a finished {}; beginning a new round", batch.name);
    Ok(None)
}

async fn begin(client: &Client<SqliteStorage>, arguments: &Arguments) -> Result<Round> {
    let Arguments { folder, slow_ms, .. } = arguments;
    let paths = files::below(folder, &left_out(arguments))?;
    let name: String = format!("scan of {}", folder.display()).chars().take(190).collect();
    println!("{name}: {} files, one job each", paths.len());
    let batch = Batch::new(name);
    let round = Round::of(batch.id());
    let report =
        jobs::write_report(batch.id(), arguments.report.clone()).keyed(&batch.id().to_string());
    let files = paths.into_iter().map(|path| jobs::fingerprint(folder.clone(), path, *slow_ms));
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
    /// Tells how far it is, until everything has finished.
    pub async fn watch(&self, client: &Client<SqliteStorage>) -> Result<()> {
        let mut told = u64::MAX;
        let mut last_told_at = tokio::time::Instant::now();
        loop {
            let batch: BatchRecord =
                client.batch(self.batch).status().await?.context("the batch is gone")?;
            let counts = batch.counts;
            let finished = counts.total - counts.open();
            let every_second = last_told_at.elapsed() >= Duration::from_secs(1);
            if finished != told && (every_second || counts.open() == 0 || told == u64::MAX) {
                println!("  {finished} of {} files", counts.total);
                told = finished;
                last_told_at = tokio::time::Instant::now();
            }
            if self.is_finished(client).await? {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn is_finished(&self, client: &Client<SqliteStorage>) -> Result<bool> {
        for job in [self.report, self.flaky, self.delayed] {
            match client.state(job).await? {
                Some(StateName::Succeeded) => {}
                Some(StateName::Failed | StateName::Deleted) => bail!("job {job} did not succeed"),
                _ => return Ok(false),
            }
        }
        Ok(!client.storage().recurring_runs("pulse", 1).await?.is_empty())
    }
}
