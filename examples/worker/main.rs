//! A server in a process of its own, told by its environment what to do; and clients in other processes.
//!
//! ```text
//! cargo run --example worker                        serves until Ctrl-C or SIGTERM
//! cargo run --example worker -- enqueue Ann Bob     in another terminal: enqueues, and waits
//! ```
//!
//! `JOBKIT_URL` names the storage, by default the file `mail.db` in this folder; `JOBKIT_WORKERS`,
//! `JOBKIT_QUEUES` and the others of `ServerOptions::from_env` set up the server; `HEALTH_ADDR` is where
//! `/healthz` is served, and `RUST_LOG` says how much is logged.

use std::env;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::{Router, extract::State, http::StatusCode, routing::get};
use jobkit::server::stop_signal;
use jobkit::{Client, JobLogLayer, Server, ServerHandle, ServerOptions, Storage};
use jobkit_examples::mail;
use tokio::net::TcpListener;
use tracing_subscriber::{EnvFilter, prelude::*};

#[tokio::main]
async fn main() -> Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::registry()
        .with(filter)
        .with(tracing_subscriber::fmt::layer())
        .with(JobLogLayer::new()) // what handlers log is kept with their jobs, too
        .init();

    let url = env::var("JOBKIT_URL").unwrap_or_else(|_| "sqlite://mail.db".to_owned());
    let storage = jobkit::connect(&url).await.context("JOBKIT_URL")?;
    let mut arguments = env::args().skip(1);
    match arguments.next().as_deref() {
        None => serve(storage).await,
        Some("enqueue") => enqueue(storage, arguments).await,
        Some(other) => bail!("`{other}` is unknown; say nothing, or `enqueue NAME…`"),
    }
}

/// The worker: this much is the whole of one.
async fn serve(storage: Arc<dyn Storage>) -> Result<()> {
    let server = Server::builder(storage)
        .jobs(mail::jobs())
        .options(ServerOptions::from_env()?)
        .build()?
        .start()
        .await?;
    let server = Arc::new(server);

    let address = env::var("HEALTH_ADDR").unwrap_or_else(|_| "127.0.0.1:0".to_owned());
    let listener = TcpListener::bind(&address).await.context("HEALTH_ADDR")?;
    tracing::info!("healthy? see http://{}/healthz", listener.local_addr()?);
    let page = Router::new().route("/healthz", get(healthz)).with_state(Arc::clone(&server));
    let page = tokio::spawn(async move { axum::serve(listener, page).await });

    stop_signal().await;
    tokio::select! {
        stopped = server.shutdown() => stopped?,
        () = stop_signal() => server.abort(), // somebody is in a hurry; nothing is lost
    }
    page.abort(); // it answered until the last job had ended
    Ok(())
}

async fn healthz(State(server): State<Arc<ServerHandle>>) -> (StatusCode, String) {
    let problems = server.health().problems;
    if problems.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    let lines = problems.iter().map(|problem| format!("{}: {}\n", problem.part, problem.message));
    (StatusCode::SERVICE_UNAVAILABLE, lines.collect())
}

/// A client: it runs nothing, and waits for what some worker makes of its jobs.
async fn enqueue(storage: Arc<dyn Storage>, names: impl Iterator<Item = String>) -> Result<()> {
    let client = Client::new(storage);
    let mut jobs = Vec::new();
    for name in names {
        println!("enqueueing a welcome to {name}");
        jobs.push(client.enqueue(mail::send_welcome(name)).await?);
    }
    println!("waiting for a worker");
    for job in jobs {
        println!("{}", job.wait(Duration::from_secs(60)).await?);
        let log = client.storage().read_log(job.id(), None, 0, 10).await?;
        for (_, line) in log.lines {
            println!("    it logged: {}", line.text);
        }
    }
    Ok(())
}
