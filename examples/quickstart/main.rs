//! Fingerprints every file under a folder, one job a file, and counts the words of the text files.
//!
//! Kill it half-way and start it again: it goes on with the rest.
//!
//! ```text
//! cargo run --release --example quickstart -- [FOLDER] [--db FILE] [--report FILE] [--slow MS] [--stay]
//! ```

mod arguments;
mod facts;
mod files;
mod jobs;
mod round;
mod summary;

use std::time::Duration;

use anyhow::Result;
use jobkit::server::ServerOptions;
use jobkit::sqlite::SqliteStorage;
use jobkit::{Client, Recurring, Server};

use arguments::Arguments;

#[tokio::main]
async fn main() -> Result<()> {
    let Some(arguments) = Arguments::from_env()? else { return Ok(()) };
    let storage = SqliteStorage::open(&arguments.db).await?;
    let client = Client::new(storage.clone());

    // What is left of an earlier start comes first; the storage alone knows.
    let round = round::resume_or_begin(&client, &arguments).await?;

    let server = Server::builder(storage)
        .jobs(jobs::all())
        .recurring(Recurring::every("pulse", Duration::from_secs(3)).job(jobs::pulse()))
        .options(ServerOptions::default().lease(Duration::from_secs(5)))
        .build()?;
    let server = server.start().await?;
    round.watch(&client).await?;
    summary::print(&client, &round).await?;
    if arguments.stay {
        println!("\nstaying up; stop with Ctrl-C");
        tokio::signal::ctrl_c().await?;
    }
    server.shutdown().await?;
    Ok(())
}
