//! What it did, as a table.

use anyhow::{Context, Result};
use jobkit::sqlite::SqliteStorage;
use jobkit::state::StateName;
use jobkit::stats::Scope;
use jobkit::storage::{Monitoring, RecurringStore};
use jobkit::{Client, Name};

use crate::jobs::Report;
use crate::round::Round;

pub async fn print(client: &Client<SqliteStorage>, round: &Round) -> Result<()> {
    let storage = client.storage();
    let report = client.job(round.report).await?.and_then(|job| job.result).context("no report")?;
    let report: Report = serde_json::from_slice(&report)?;
    println!("\n{} files, {} bytes, {} words", report.files, report.bytes, report.words);
    println!("fingerprint {}", report.fingerprint);
    println!(
        "\n{:<14}{:>10}{:>9}{:>9}{:>9}{:>12}",
        "jobs", "succeeded", "retried", "failed", "deleted", "median run"
    );
    for kind in ["fingerprint", "write_report", "flaky", "delayed", "pulse"] {
        let scope = Scope::Kind(Name::new("kind", kind)?);
        let tally = storage.counters(&scope).await?;
        let retried = tally.reasons.get(&jobkit::state::Reason::Retry).copied().unwrap_or(0);
        let median = match client_median(storage, &scope).await? {
            Some(length) => format!("≤ {length:?}"),
            None => "–".to_owned(),
        };
        println!(
            "{kind:<14}{:>10}{retried:>9}{:>9}{:>9}{median:>12}",
            tally.transitions_to(StateName::Succeeded),
            tally.transitions_to(StateName::Failed),
            tally.transitions_to(StateName::Deleted),
        );
    }
    println!("\nThe numbers count every round in this database.");
    let pulses = storage.recurring_runs("pulse", 100).await?.len();
    println!(
        "The recurring job was fired {pulses} times lately; the flaky one took {} attempts.",
        attempts(client, round).await?
    );
    Ok(())
}

async fn client_median(
    storage: &SqliteStorage,
    scope: &Scope,
) -> Result<Option<std::time::Duration>> {
    use jobkit::Storage;
    use jobkit::storage::{HistogramQuery, Measure};
    let to = storage.now().await?.plus(std::time::Duration::from_secs(3600));
    let from = to.minus(std::time::Duration::from_secs(72 * 3600));
    let query = HistogramQuery { scope: scope.clone(), measure: Measure::Run, from, to };
    Ok(storage.histogram(&query).await?.quantile(0.5))
}

async fn attempts(client: &Client<SqliteStorage>, round: &Round) -> Result<u32> {
    let flaky = client.job(round.flaky).await?.context("the flaky job is gone")?;
    Ok(flaky.record.head.attempt())
}
