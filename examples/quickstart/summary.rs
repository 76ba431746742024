//! What it did, as a table.

use anyhow::{Context, Result};
use jobkit::state::{Reason, StateName};
use jobkit::stats::Scope;
use jobkit::storage::{HistogramQuery, JobQuery, Measure, Storage};
use jobkit::{Client, Name};

use crate::arguments::Arguments;
use crate::jobs::Report;
use crate::progress::count;
use crate::round::Round;

/// How many files that could not be read are named.
const SHOWN: usize = 20;

/// Prints it; `false` where something could not be done.
pub async fn print(client: &Client, round: &Round, arguments: &Arguments) -> Result<bool> {
    let complete = report(client, round, arguments).await?;
    let storage = client.storage();
    println!(
        "\n{:<14}{:>10}{:>9}{:>12}{:>9}{:>9}{:>12}",
        "jobs", "succeeded", "retried", "taken back", "failed", "deleted", "median run"
    );
    for kind in ["fingerprint", "write_report", "flaky", "delayed", "pulse"] {
        let scope = Scope::Kind(Name::new("kind", kind)?);
        let tally = storage.counters(&scope).await?;
        let by = |reason: Reason| tally.reasons.get(&reason).copied().unwrap_or(0);
        let median = match median_run(storage, &scope).await? {
            Some(length) => format!("≤ {length:?}"),
            None => "–".to_owned(),
        };
        println!(
            "{kind:<14}{:>10}{:>9}{:>12}{:>9}{:>9}{median:>12}",
            tally.transitions_to(StateName::Succeeded),
            by(Reason::Retry),
            by(Reason::Rescued),
            tally.transitions_to(StateName::Failed),
            tally.transitions_to(StateName::Deleted),
        );
    }
    println!("\nThe numbers count every round in this database.");
    let pulses = storage.recurring_runs("pulse", 100).await?.len() as u64;
    println!(
        "The recurring job was fired {} lately; the flaky one took {}.",
        count(pulses, "time"),
        count(attempts(client, round).await?.into(), "attempt"),
    );
    Ok(complete)
}

/// What the report says, or why there is none.
async fn report(client: &Client, round: &Round, arguments: &Arguments) -> Result<bool> {
    let job = client.job(round.report).await?.context("the report's job is gone")?;
    let Some(result) = &job.result else {
        let why = job.errors.last().map_or("it was deleted", |error| &error.detail.message);
        println!(
            "\nThere is no report: {why}\n\
             Start again when it can be written, or give another place with --report: \
             the files are not read again."
        );
        return Ok(false);
    };
    let report: Report = serde_json::from_slice(result)?;
    println!(
        "\n{}, {}, {}",
        count(report.files, "file"),
        count(report.bytes, "byte"),
        count(report.words, "word")
    );
    println!("fingerprint {}", report.fingerprint);
    println!("report in {}", arguments.report.display());
    if report.unread > 0 {
        println!("{} could not be read, left out of these numbers:", count(report.unread, "file"));
        let query =
            JobQuery { batch: Some(round.batch), limit: SHOWN, ..JobQuery::new(StateName::Failed) };
        for job in client.storage().list(&query).await?.jobs {
            let job = client.job(job.id).await?;
            if let Some(error) = job.as_ref().and_then(|job| job.errors.last()) {
                println!("  {}", error.detail.message);
            }
        }
    }
    Ok(report.unread == 0)
}

async fn median_run(storage: &dyn Storage, scope: &Scope) -> Result<Option<std::time::Duration>> {
    let to = storage.now().await?.plus(std::time::Duration::from_secs(3600));
    let from = to.minus(std::time::Duration::from_secs(72 * 3600));
    let query = HistogramQuery { scope: scope.clone(), measure: Measure::Run, from, to };
    Ok(storage.histogram(&query).await?.quantile(0.5))
}

async fn attempts(client: &Client, round: &Round) -> Result<u32> {
    let flaky = client.job(round.flaky).await?.context("the flaky job is gone")?;
    Ok(flaky.record.head.attempt())
}
