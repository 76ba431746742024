//! Runs jobs until it is told to stop.

use anyhow::Context;
use jobkit::Server;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("JOBKIT_URL").context("JOBKIT_URL names the storage")?;
    let storage = jobkit::connect(&url).await?;
    Server::builder(storage).jobs(example_worker::jobs()).build()?.run_until_signal().await?;
    Ok(())
}
