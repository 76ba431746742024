//! Stands for a web process: enqueues a picture's thumbnail, and prints the job's id.

use anyhow::Context;
use example_declarations::Thumbnail;
use jobkit::{Client, NewJob};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("JOBKIT_URL").context("JOBKIT_URL names the storage")?;
    let mut words = std::env::args().skip(1);
    let user = words.next().context("usage: example-web USER PATH")?.parse()?;
    let path = words.next().context("usage: example-web USER PATH")?;
    let client = Client::new(jobkit::connect(&url).await?);
    let job = client.enqueue(NewJob::new(Thumbnail { user, path, width: 320 })).await?;
    println!("{}", job.id());
    Ok(())
}
