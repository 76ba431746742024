// Fingerprints every file under a folder, one job a file, and counts the words of the text files.
//
// Kill it half-way and start it again: it goes on with the rest.
//
// ```text
// cargo run --release -p quickstart -- [FOLDER] [--db FILE] [--report FILE] [--slow MS] [--stay]
// ```

mod arguments;
mod facts;
mod files;
mod jobs;
mod progress;
mod round;
mod summary;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use jobkit::ServerOptions;
use jobkit::sqlite::SqliteStorage;
use jobkit::{Client, Recurring, Server};

use arguments::Arguments;
use jobs::ReportPlace;
use progress::Progress;

/// How long a job of a killed process stays with it. Short, so that a second start need not wait.
const LEASE: Duration = Duration::from_millis(2500);
/// How soon those jobs return: a lease runs out, is looked for at half of it, and looked at again.
const JOBS_RETURN: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // In words alone: a backtrace says nothing to who tries it.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `false` where not everything could be read or written.
async fn run() -> Result<bool> {
    let Some(arguments) = Arguments::from_env()? else { return Ok(true) };
    let storage = SqliteStorage::open(&arguments.db).await?;
    let client = Client::new(storage.clone());

    // What is left of an earlier start comes first; the storage alone knows.
    let round = round::resume_or_begin(&client, &arguments).await?;

    let progress = Arc::new(Progress::new());
    let server = Server::builder(storage)
        .jobs(jobs::all())
        .data(ReportPlace(arguments.report.clone()))
        .data_arc(Arc::clone(&progress))
        .outcome_filter(progress::Failures(Arc::clone(&progress)))
        .recurring(Recurring::every("pulse", Duration::from_secs(3)).job(jobs::pulse()))
        .options(ServerOptions::default().lease(LEASE))
        .build()?;
    let server = server.start().await?;
    round.watch(&client, &progress).await?;
    let complete = summary::print(&client, &round, &arguments).await?;
    if arguments.stay {
        println!("\nstaying up; stop with Ctrl-C");
        tokio::signal::ctrl_c().await?;
    }
    server.shutdown().await?;
    Ok(complete)
}
