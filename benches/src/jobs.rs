//! The jobs that are measured: 100 bytes of arguments.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Result;
use jobkit::{Jobs, NewJob, Run, Server, jobs};

#[jobkit::job]
pub async fn noop(padding: String) {
    drop(padding);
}

#[jobkit::job]
pub async fn millisecond(padding: String) {
    drop(padding);
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// Where [`told`] says when it was started.
static STARTED: Mutex<Option<Instant>> = Mutex::new(None);

#[jobkit::job]
pub async fn told() {
    *STARTED.lock().expect("never panics") = Some(Instant::now());
}

pub fn take_started() -> Option<Instant> {
    STARTED.lock().expect("never panics").take()
}

pub fn all() -> Jobs {
    jobs![noop, millisecond, told]
}

/// `{"padding":"…"}` of 100 bytes.
pub fn sized() -> NewJob<impl Run<Output = ()>> {
    noop("x".repeat(100 - r#"{"padding":""}"#.len()))
}

/// Serves until it is told to stop.
pub async fn serve(url: &str) -> Result<()> {
    let storage = jobkit::connect(url).await?;
    Server::builder(storage).jobs(all()).build()?.run_until_signal().await?;
    Ok(())
}
