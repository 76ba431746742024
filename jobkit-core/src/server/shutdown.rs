//! The three stages of a stop, and the handle by which it is asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::model::error::{Error, ErrorKind, Result};
use crate::server::dispatcher::Dispatcher;
use crate::server::engine::Engine;
use crate::server::health::Health;
use crate::server::held::{Phase, StopCause};
use crate::server::supervisor::supervise;
use crate::server::{janitor, leases, recurring_scheduler, reporter, scheduler, watch};
use crate::storage::{Call, caught};

/// How long outcomes may take to land after all handlers have ended.
const LAST_SETTLES: Duration = Duration::from_secs(10);
/// How long deregistering may take.
const DEREGISTER: Duration = Duration::from_secs(2);

/// Runs the engine until it has stopped.
///
/// # Errors
/// The dispatcher panicked, so the server stopped without being asked.
async fn run(engine: Arc<Engine>) -> Result<()> {
    let mut processes = tokio::task::JoinSet::new();
    processes.spawn(supervise(Arc::clone(&engine), "leases", leases::run));
    processes.spawn(supervise(Arc::clone(&engine), "scheduler", scheduler::run));
    processes.spawn(supervise(Arc::clone(&engine), "recurring", recurring_scheduler::run));
    processes.spawn(supervise(Arc::clone(&engine), "janitor", janitor::run));
    processes.spawn(supervise(Arc::clone(&engine), "reporter", reporter::run));
    processes.spawn(supervise(Arc::clone(&engine), "unserved", watch::run));
    let dispatcher = tokio::spawn(Dispatcher::new(Arc::clone(&engine)).run());
    tokio::pin!(dispatcher);
    let options = &engine.options;
    // Stage one, in the dispatcher: claim nothing, give back what has not started. Stage two: let what
    // runs go on for a while, then cancel it. Stage three: give back what has ended.
    let told = AtomicBool::new(false);
    let stages = async {
        engine.stopping.cancelled().await;
        told.store(true, Ordering::Relaxed);
        tracing::info!(server = %engine.info.name, "stopping");
        tokio::time::sleep(options.shutdown_grace).await;
        engine.held.stop_all(StopCause::Shutdown);
        tokio::time::sleep(options.cancel_grace + LAST_SETTLES).await;
    };
    let mut result = Ok(());
    tokio::select! {
        biased;
        ended = &mut dispatcher => {
            if let Err(panic) = ended {
                tracing::error!("the dispatcher panicked; please report this bug");
                engine.health.failed("dispatcher", &"panicked; the server has stopped");
                engine.held.stop_all(StopCause::Shutdown);
                let text = "the dispatcher panicked, so the server has stopped";
                result = Err(Error::new(ErrorKind::Internal, text).caused_by(panic));
            }
        }
        () = stages => tracing::warn!("some jobs did not stop in time; they are recovered when their leases expire"),
        () = engine.ended.cancelled() => {}
    }
    // With nothing to wait for, the dispatcher may be done before that was said.
    if engine.stopping.is_cancelled() && !told.load(Ordering::Relaxed) {
        tracing::info!(server = %engine.info.name, "stopping");
    }
    let hard_stop = engine.ended.is_cancelled();
    engine.stopping.cancel();
    engine.ended.cancel();
    dispatcher.abort();
    processes.shutdown().await;
    if !hard_stop {
        deregister(&engine).await;
        tokio::spawn(leases::keep(engine));
    }
    result
}

/// Names what still runs, so that its rescue counts no crash.
async fn deregister(engine: &Engine) {
    let still_running: Vec<_> = {
        let held = engine.held.lock();
        held.jobs
            .values()
            .filter(|job| !matches!(job.phase, Phase::Prefetched))
            .map(|job| job.lease)
            .collect()
    };
    let call = Call::default();
    let answer = engine.storage.remove_server(&call, engine.incarnation(), &still_running);
    match tokio::time::timeout(DEREGISTER, caught(answer)).await {
        Ok(Ok(())) => {
            tracing::info!(server = %engine.info.name, still_running = still_running.len(), "stopped")
        }
        Ok(Err(error)) => tracing::warn!(error = %error, "stopped without deregistering"),
        Err(_) => {
            tracing::warn!("stopped without deregistering: the storage did not answer in time")
        }
    }
}

/// A running server. Dropping it starts the graceful stop.
///
/// Put it into an `Arc` where several parts of a program need it, such as a page that tells its health
/// and the code that stops it.
#[derive(Debug)]
pub struct ServerHandle {
    engine: Arc<Engine>,
    /// `None` once it has ended.
    task: Mutex<Option<JoinHandle<Result<()>>>>,
}

impl ServerHandle {
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        let task = tokio::spawn(run(Arc::clone(&engine)));
        Self { engine, task: Mutex::new(Some(task)) }
    }

    /// The server's name.
    pub fn name(&self) -> &str {
        &self.engine.info.name
    }

    /// What does not work now.
    pub fn health(&self) -> Health {
        self.engine.health.read()
    }

    /// Asks for the graceful stop, and returns at once.
    pub fn stop(&self) {
        self.engine.stopping.cancel();
    }

    /// Claims nothing more, and goes on running what is held.
    pub fn quiet(&self) {
        self.engine.quiet.cancel();
    }

    /// Ends at once: handlers are left where they are, and their jobs are taken back when their leases
    /// expire.
    pub fn abort(&self) {
        self.engine.ended.cancel();
    }

    /// Stops gracefully, and waits until it is done: nothing more is claimed, what has not started is
    /// given back, what runs has the grace period to end and is cancelled then.
    ///
    /// # Errors
    /// A part of the server panicked, so that it stopped by itself.
    pub async fn shutdown(&self) -> Result<()> {
        self.stop();
        self.join().await
    }

    /// Waits until the server has stopped, by whatever cause.
    ///
    /// # Errors
    /// A part of the server panicked, so that it stopped by itself; the first who waits gets it.
    ///
    /// # Cancel safety
    /// A dropped future changes nothing; wait again.
    pub async fn join(&self) -> Result<()> {
        let mut task = self.task.lock().await;
        let Some(running) = task.as_mut() else { return Ok(()) };
        let ended = running.await;
        *task = None;
        ended.unwrap_or_else(|error| {
            Err(Error::new(ErrorKind::Internal, "the server's task panicked").caused_by(error))
        })
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.engine.stopping.cancel();
    }
}

/// Waits for SIGTERM or SIGINT, or Ctrl-C where there are no signals; what
/// [`Server::run_until_signal`](crate::Server::run_until_signal) waits for.
///
/// From its first poll on the signals do not end the process any more.
///
/// # Example: a web server and a job server with one shutdown
/// ```no_run
/// # use jobkit::{Server, server::stop_signal};
/// # async fn serve_http(_until: impl Future<Output = ()>) {}
/// # async fn both(server: Server) -> Result<(), jobkit::Error> {
/// let jobs = server.start().await?;
/// serve_http(stop_signal()).await;
/// jobs.shutdown().await?;
/// # Ok(())
/// # }
/// ```
pub async fn stop_signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let (Ok(mut terminate), Ok(mut interrupt)) =
            (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        {
            tokio::select! {
                biased;
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            return;
        }
    }
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}
