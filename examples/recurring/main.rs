//! Schedules: in crontab's words, in Quartz's, at a fixed pace; paused, and missed.
//!
//! ```text
//! cargo run --example recurring -- [URL]
//! ```
//!
//! `URL` is the storage; without it everything is kept in memory. It takes about fifteen seconds.

mod story;

use std::time::Duration;

use anyhow::Result;
use jobkit::recurring::{Misfire, Overlap, Pause, RunOutcome};
use jobkit::{Client, JobContext, Recurring, Schedule, Server, ServerBuilder, TimeZone, jobs};

/// `nominal_at` is the instant that the schedule names, however late the job runs.
#[jobkit::job]
async fn tick(name: String, ctx: JobContext) -> Result<()> {
    let nominal_at = ctx.nominal_at().map(|at| at.to_string()).unwrap_or_default();
    println!("   {name:<7} for {}", story::clock(&nominal_at));
    Ok(())
}

/// Takes longer than its pace.
#[jobkit::job]
async fn slow() -> Result<()> {
    println!("   slow    begins");
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    println!("   slow    ends");
    Ok(())
}

fn schedules() -> [Recurring; 3] {
    [
        // Six fields begin with the second; five with the minute.
        Recurring::cron("crontab", "* * * * * *")
            .time_zone("Europe/Berlin")
            .misfire(Misfire::RunAll { cap: 3 })
            .job(tick("crontab".into())),
        Recurring::quartz("quartz", "0/2 * * * * ?").job(tick("quartz".into())),
        Recurring::every("slow", Duration::from_secs(1)).overlap(Overlap::Skip).job(slow()),
    ]
}

/// Every server declares them all, and each occurrence makes one job.
fn server(storage: std::sync::Arc<dyn jobkit::Storage>) -> ServerBuilder {
    let server = Server::builder(storage).jobs(jobs![tick, slow]);
    schedules().into_iter().fold(server, ServerBuilder::recurring)
}

fn fired(outcome: &RunOutcome) -> bool {
    matches!(outcome, RunOutcome::Fired { .. })
}

fn overlapping(outcome: &RunOutcome) -> bool {
    matches!(outcome, RunOutcome::Overlapping { .. })
}

#[tokio::main]
async fn main() -> Result<()> {
    println!("1. What `30 2 * * *` in Berlin means when the clock goes forward:");
    let night = Schedule::cron("30 2 * * *")?;
    let from = std::time::UNIX_EPOCH + Duration::from_secs(1_774_656_000); // 28 March 2026
    for at in night.upcoming(from.into(), TimeZone::parse("Europe/Berlin")?, 3) {
        println!("   {at}");
    }

    let url = std::env::args().nth(1).unwrap_or_else(|| "memory:".to_owned());
    let storage = jobkit::connect(&url).await?;
    let client = Client::new(storage.clone());

    println!(
        "\n2. A server runs: every second, every other second, and a slow one that never overlaps."
    );
    let rung = story::count(&client, "crontab", fired).await?;
    let skipped = story::count(&client, "slow", overlapping).await?;
    let first = server(storage.clone()).build()?.start().await?;
    story::until(&client, "crontab", rung + 3, fired).await?;
    story::until(&client, "slow", skipped + 1, overlapping).await?;

    println!("\n3. Somebody pauses `crontab`; the others go on.");
    client.pause_recurring("crontab", Pause::new("ann", "the bell is too loud")).await?;
    let rung = story::count(&client, "quartz", fired).await?;
    story::until(&client, "quartz", rung + 2, fired).await?;
    client.resume_recurring("crontab").await?;

    println!("\n4. No server runs for a while; the next one fires what is a minute late at most.");
    first.shutdown().await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let rung = story::count(&client, "crontab", fired).await?;
    let second = server(storage).build()?.start().await?;
    story::until(&client, "crontab", rung + 4, fired).await?;

    println!("\n5. One more by hand, beside the schedule.");
    client.trigger_recurring("quartz").await?;
    second.shutdown().await?;

    println!("\nThe outcome of the occurrences:");
    for schedule in schedules() {
        story::tell_runs(&client, schedule.id()).await?;
    }
    Ok(())
}
