//! Waiting for occurrences, and telling them.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use jobkit::Client;
use jobkit::recurring::RunOutcome;

/// How many occurrences of a sort a schedule has had.
pub async fn count(client: &Client, id: &str, is: impl Fn(&RunOutcome) -> bool) -> Result<u32> {
    let runs = client.storage().recurring_runs(id, 100).await?;
    Ok(runs.iter().filter(|run| is(&run.outcome)).map(|run| run.count).sum())
}

/// Waits until a schedule has had this many occurrences of a sort in all.
///
/// What to wait for is counted before its cause is set off, or it may have come already.
pub async fn until(
    client: &Client,
    id: &str,
    total: u32,
    is: impl Fn(&RunOutcome) -> bool,
) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while count(client, id, &is).await? < total {
        ensure!(Instant::now() < deadline, "`{id}` did not get there within half a minute");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

pub async fn tell_runs(client: &Client, id: &str) -> Result<()> {
    println!("   {id}");
    for run in client.storage().recurring_runs(id, 100).await?.into_iter().rev() {
        let what = match &run.outcome {
            RunOutcome::Fired { .. } => "fired".to_owned(),
            RunOutcome::Triggered { .. } => "triggered by hand".to_owned(),
            RunOutcome::Misfired => "missed".to_owned(),
            RunOutcome::Paused => "paused".to_owned(),
            RunOutcome::Overlapping { .. } => "skipped, the last one still ran".to_owned(),
            other => format!("{other:?}"),
        };
        let times = if run.count == 1 { String::new() } else { format!(", {} times", run.count) };
        println!("     {} {what}{times}", clock(&run.nominal_at.to_string()));
    }
    Ok(())
}

/// Hours, minutes and seconds of an instant, in UTC.
pub fn clock(instant: &str) -> &str {
    instant.get(11..19).unwrap_or(instant)
}
