//! Jobs and servers that the tests share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jobkit_core::server::{Prefetch, ServerOptions};
use jobkit_core::testing::FaultyStorage;
use jobkit_core::{Client, Job, JobContext, Jobs, MemoryStorage, Server, ServerHandle};
use serde::{Deserialize, Serialize};

/// Does what its script says.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub(crate) enum Act {
    /// Returns the number.
    Return(u64),
    /// Fails so often, then returns.
    FailTimes(u32),
    /// Fails for good.
    Permanent,
    /// Snoozes once, then returns.
    SnoozeOnce,
    /// Panics.
    Panic,
    /// Panics in a task that it awaits.
    PanicInTask,
    /// Waits until it is cancelled, and returns an error then.
    WaitForCancel,
    /// Never returns, and ignores its token.
    Hang,
    /// Blocks its thread for this many milliseconds.
    Block(u64),
    /// Sleeps for this many milliseconds.
    Sleep(u64),
    /// Returns a text of this many bytes.
    Large(usize),
    /// Fails with NUL and a megabyte of text.
    LongError,
    /// Tells progress and lines.
    Tell,
}

#[derive(Serialize, Deserialize, Clone, Debug)]
pub(crate) struct Script {
    pub(crate) name: String,
    pub(crate) act: Act,
}

impl Job for Script {
    const KIND: &'static str = "script";
    type Output = serde_json::Value;
}

/// What the handlers saw: (name, attempt) in the order of starts, and names in the order of ends.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) starts: Vec<(String, u32)>,
    pub(crate) ends: Vec<String>,
    pub(crate) running: usize,
    pub(crate) most_running: usize,
    pub(crate) cancelled: Vec<String>,
}

pub(crate) type Shared = Arc<Mutex<Ledger>>;

pub(crate) fn script(name: &str, act: Act) -> jobkit_core::NewJob<Script> {
    jobkit_core::NewJob::new(Script { name: name.to_owned(), act })
}

pub(crate) fn jobs(ledger: &Shared) -> Jobs {
    let ledger = Arc::clone(ledger);
    Jobs::new().handle(move |job: Script, context| {
        let ledger = Arc::clone(&ledger);
        async move {
            {
                let mut ledger = ledger.lock().unwrap();
                ledger.starts.push((job.name.clone(), context.attempt()));
                ledger.running += 1;
                ledger.most_running = ledger.most_running.max(ledger.running);
            }
            let guard = Leaves(Arc::clone(&ledger));
            let result = play(&job, &context).await;
            drop(guard);
            let mut ledger = ledger.lock().unwrap();
            if context.is_cancelled() {
                ledger.cancelled.push(job.name.clone());
            }
            ledger.ends.push(job.name);
            result
        }
    })
}

struct Leaves(Shared);

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.lock().unwrap().running -= 1;
    }
}

async fn play(
    job: &Script,
    context: &JobContext,
) -> Result<serde_json::Value, Box<dyn std::error::Error + Send + Sync>> {
    match job.act {
        Act::Return(n) => Ok(n.into()),
        Act::FailTimes(times) if context.attempt() <= times => {
            Err(format!("failure {} of {times}", context.attempt()).into())
        }
        Act::FailTimes(times) => Ok(times.into()),
        Act::Permanent => Err(jobkit_core::permanent("it never will").into()),
        Act::SnoozeOnce if context.fence() == 1 => {
            Err(jobkit_core::snooze(Duration::from_millis(20)).into())
        }
        Act::SnoozeOnce => Ok(context.attempt().into()),
        Act::Panic => panic!("on purpose"),
        Act::PanicInTask => {
            tokio::spawn(async { panic!("in a task") }).await?;
            Ok(().into())
        }
        Act::WaitForCancel => {
            context.cancelled().await;
            Err("cancelled".into())
        }
        Act::Hang => std::future::pending().await,
        Act::Block(millis) => {
            std::thread::sleep(Duration::from_millis(millis));
            Ok(().into())
        }
        Act::Sleep(millis) => {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            Ok(().into())
        }
        Act::Large(bytes) => Ok("x".repeat(bytes).into()),
        Act::LongError => Err(format!("a\0{}", "b".repeat(1 << 20)).into()),
        Act::Tell => {
            context.progress(3, 10);
            context.info("first");
            context.info("second");
            Ok(().into())
        }
    }
}

/// Options whose times are short enough for tests.
pub(crate) fn quick() -> ServerOptions {
    ServerOptions::default()
        .lease(Duration::from_millis(600))
        .poll_interval(Duration::from_millis(50), Duration::from_millis(200))
        .janitor_interval(Duration::from_millis(100))
        .cancel_grace(Duration::from_millis(200))
        .shutdown_grace(Duration::from_millis(300))
        .retry(jobkit_core::RetryPolicy::fixed(Duration::from_millis(10)).max_attempts(3))
        .prefetch(Prefetch::Adaptive)
}

pub(crate) struct Bench {
    pub(crate) storage: MemoryStorage,
    pub(crate) client: Client,
    pub(crate) ledger: Shared,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let storage = MemoryStorage::new();
        let storage = if crate::TELLS_SLEEPERS { storage.tells_sleepers() } else { storage };
        Self { client: Client::new(storage.clone()), storage, ledger: Shared::default() }
    }

    pub(crate) async fn server(&self, options: ServerOptions) -> ServerHandle {
        let server =
            Server::builder(self.storage.clone()).jobs(jobs(&self.ledger)).options(options);
        server.build().unwrap().start().await.unwrap()
    }

    /// A server whose calls of the storage are counted.
    pub(crate) async fn counted_server(
        &self,
        options: ServerOptions,
    ) -> (ServerHandle, FaultyStorage) {
        let counted = FaultyStorage::new(Arc::new(self.storage.clone()));
        let server = Server::builder(counted.clone()).jobs(jobs(&self.ledger)).options(options);
        (server.build().unwrap().start().await.unwrap(), counted)
    }

    pub(crate) fn starts_of(&self, name: &str) -> usize {
        self.ledger.lock().unwrap().starts.iter().filter(|(other, _)| other == name).count()
    }

    pub(crate) fn starts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for (name, _) in &self.ledger.lock().unwrap().starts {
            *counts.entry(name.clone()).or_default() += 1;
        }
        counts
    }
}

/// Polls until a condition holds, for thirty seconds at the most.
pub(crate) async fn eventually<F, Fut>(what: &str, condition: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = bool>,
{
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
