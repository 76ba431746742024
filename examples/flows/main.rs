//! Jobs that follow from each other: a flow with a branch for failure, batches inside a batch, outputs of
//! parents, and a job that is told to stop.
//!
//! ```text
//! cargo run --example flows -- [URL]
//! ```
//!
//! `URL` is the storage; without it everything is kept in memory.

mod jobs;

use std::time::Duration;

use anyhow::{Result, bail};
use jobkit::{Batch, Client, JobHandle, On, Server, WaitError};

use jobs::{charge, page_somebody, report, ship, sum, ware, watch_the_oven};

const SOON: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory:".to_owned());
    let storage = jobkit::connect(&url).await?;
    let client = Client::new(storage.clone());
    let server = Server::builder(storage).jobs(jobs::all()).build()?.start().await?;

    println!("1. Charge 1700 cents, then ship; if the charge fails, page somebody.");
    order(&client, 1_700).await?;

    println!("\n2. The same order, and the card is refused.");
    order(&client, 1_000_000).await?;

    println!(
        "\n3. A batch of two batches, each with its own sum, and a report when both are done."
    );
    count_the_stock(&client).await?;

    println!("\n4. A job that would run forever is deleted, and stops where it may.");
    stop(&client).await?;

    Ok(server.shutdown().await?)
}

/// A flow: three jobs, stored together or not at all.
async fn order(client: &Client, cents: u64) -> Result<()> {
    let charge = charge(cents);
    let ship = ship().after(&charge);
    let page = page_somebody().after(&charge).when(On::Failed);
    let (charge, ship, page) = client.enqueue((charge, ship, page)).await?;

    if charge.wait(SOON).await.is_ok() {
        tell("ship", &ship).await?;
        tell("page", &page).await
    } else {
        tell("page", &page).await?;
        // It waits: a person may still fix the charge and requeue it. This customer has left.
        println!("   ship: waits, {:?}", client.state(ship.id()).await?);
        client.delete(ship.id()).await?;
        tell("ship", &ship).await
    }
}

async fn tell(name: &str, job: &JobHandle<String>) -> Result<()> {
    match job.wait(SOON).await {
        Ok(output) => println!("   {name}: {output}"),
        Err(WaitError::Deleted(reason)) => println!("   {name}: deleted, {}", reason.as_str()),
        Err(error) => bail!(error),
    }
    Ok(())
}

/// A batch is a member of the batch around it, and has succeeded when its own members have.
async fn count_the_stock(client: &Client) -> Result<()> {
    let room = |name: &str, pieces: [u64; 2]| {
        // The sum waits for the wares as its parents, so that it is given what they counted.
        let wares = pieces.map(ware);
        let sum = sum(name.to_owned()).after_all(&wares);
        Batch::new(name).jobs(wares).job(sum)
    };
    let report = report();
    let house = Batch::new("the house")
        .batch(room("the cellar", [30, 12]))
        .batch(room("the attic", [5, 3]))
        .then(report.clone());
    let house = client.enqueue(house).await?;

    let report = client.enqueue(report).await?; // it is stored already; this gives its handle
    tell("report", &report).await?;
    let Some(house) = house.status().await? else { bail!("a batch is kept for a day") };
    let counts = house.counts;
    println!("   {}: {} of {} members succeeded", house.name, counts.succeeded, counts.total);
    Ok(())
}

async fn stop(client: &Client) -> Result<()> {
    let (job, mut progress) = (client.enqueue(watch_the_oven()).await?, 0);
    // Until it has told that it is under way.
    while progress == 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let details = client.job(job.id()).await?;
        progress = details.and_then(|job| job.progress.first().map(|bar| bar.done)).unwrap_or(0);
    }
    println!("   somebody deletes it");
    client.delete(job.id()).await?;
    tell("oven", &job).await
}
