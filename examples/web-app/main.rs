//! A web application and its job server in one process, with one shutdown; or the web application alone.
//!
//! ```text
//! cargo run --example web-app                    then open the address it tells
//! cargo run --example web-app -- --client-only   leaves the jobs to others: start the example `worker`
//! ```
//!
//! `--url URL` names the storage, by default the file `mail.db` in this folder; `--listen ADDRESS` the
//! address, by default a free port of this machine.

mod arguments;
mod pages;

use std::sync::Arc;

use anyhow::Result;
use jobkit::server::stop_signal;
use jobkit::{Client, Server, ServerHandle};
use jobkit_examples::mail;
use tokio::net::TcpListener;

use arguments::Arguments;

/// What the pages need.
#[derive(Clone)]
struct App {
    client: Client,
    /// The job server of this process, if it has one.
    server: Option<Arc<ServerHandle>>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::from_env()?;
    let storage = jobkit::connect(&arguments.url).await?;
    let client = Client::new(Arc::clone(&storage));

    let server = if arguments.client_only {
        None
    } else {
        let server = Server::builder(storage).jobs(mail::jobs()).build()?;
        Some(Arc::new(server.start().await?))
    };

    let app = App { client, server: server.clone() };
    let listener = TcpListener::bind(&arguments.listen).await?;
    println!("sign up at http://{}/", listener.local_addr()?);
    axum::serve(listener, pages::router(app)).with_graceful_shutdown(stop_signal()).await?;

    // No request is left that could enqueue or wait; now the jobs that run may end.
    println!("the last request is answered");
    if let Some(server) = server {
        server.shutdown().await?;
        println!("the last job has ended");
    }
    Ok(())
}
