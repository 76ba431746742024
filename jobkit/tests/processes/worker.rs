//! The server process, its jobs, and how a test starts, kills and freezes it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use jobkit::ServerOptions;
use jobkit::state::State;
use jobkit::{Data, JobContext, Jobs, Recurring, RetryPolicy, Server, jobs};

use crate::ledger::{Ledger, What};

/// The URL of the storage.
const DB: &str = "JOBKIT_PROCESSES_DB";
const LEDGER: &str = "JOBKIT_PROCESSES_LEDGER";
/// Whether the servers have a schedule.
const TICKS: &str = "JOBKIT_PROCESSES_TICKS";

/// The lease of these servers: what was running when one is killed goes on after little more.
pub(crate) const LEASE: Duration = Duration::from_secs(2);

#[jobkit::job]
pub(crate) async fn work(name: String, millis: u64, ledger: Data<Ledger>, ctx: JobContext) {
    ledger.write(What::Start, &name, &ctx);
    tokio::time::sleep(Duration::from_millis(millis)).await;
    ledger.write(What::End, &name, &ctx);
}

/// Fails at its first attempt.
#[jobkit::job]
pub(crate) async fn retried(
    name: String,
    ledger: Data<Ledger>,
    ctx: JobContext,
) -> anyhow::Result<()> {
    ledger.write(What::Start, &name, &ctx);
    anyhow::ensure!(ctx.attempt() > 1, "the first attempt fails");
    ledger.write(What::End, &name, &ctx);
    Ok(())
}

/// Waits for so long, whatever its token says.
#[jobkit::job]
pub(crate) async fn stubborn(name: String, millis: u64, ledger: Data<Ledger>, ctx: JobContext) {
    ledger.write(What::Start, &name, &ctx);
    tokio::time::sleep(Duration::from_millis(millis)).await;
    ledger.write(What::End, &name, &ctx);
}

/// The first attempt waits until it is told to stop, a later one for nothing.
#[jobkit::job]
pub(crate) async fn waiter(name: String, ledger: Data<Ledger>, ctx: JobContext) {
    ledger.write(What::Start, &name, &ctx);
    if ctx.fence() == 1 {
        let told = ctx.cancellation().cancelled();
        tokio::time::timeout(Duration::from_secs(30), told).await.unwrap();
    }
    ledger.write(What::End, &name, &ctx);
}

/// Asks once to run later.
#[jobkit::job]
pub(crate) async fn snoozer(
    name: String,
    ledger: Data<Ledger>,
    ctx: JobContext,
) -> anyhow::Result<()> {
    ledger.write(What::Start, &name, &ctx);
    if ctx.fence() == 1 {
        return Err(jobkit::snooze(Duration::from_millis(100)).into());
    }
    ledger.write(What::End, &name, &ctx);
    Ok(())
}

/// Fails for good.
#[jobkit::job]
pub(crate) async fn doomed(
    name: String,
    ledger: Data<Ledger>,
    ctx: JobContext,
) -> anyhow::Result<()> {
    ledger.write(What::Start, &name, &ctx);
    Err(jobkit::permanent("it cannot be").into())
}

/// Enqueues one child, however often it runs.
#[jobkit::job]
pub(crate) async fn parent_of(
    name: String,
    ledger: Data<Ledger>,
    ctx: JobContext,
) -> anyhow::Result<()> {
    ledger.write(What::Start, &name, &ctx);
    let child = work(format!("child of {name}"), 1).idempotency_key(&name);
    ctx.client().enqueue(child).await?;
    ledger.write(What::End, &name, &ctx);
    Ok(())
}

#[jobkit::job]
async fn tick(ledger: Data<Ledger>, ctx: JobContext) {
    ledger.write(What::Start, "tick", &ctx);
    ledger.write(What::End, "tick", &ctx);
}

/// Ends its process.
#[jobkit::job]
pub(crate) async fn killer(name: String, ledger: Data<Ledger>, ctx: JobContext) {
    ledger.write(What::Start, &name, &ctx);
    // A death counts where the storage was told, by a renewal, that the attempt has started.
    eventually("a renewal told", 20, || async {
        let job = ctx.client().storage().jobs(&[ctx.id()]).await.unwrap().remove(0).unwrap();
        matches!(job.head.state, State::Processing(hold) if hold.started)
    })
    .await;
    std::process::exit(9);
}

fn all() -> Jobs {
    jobs![work, retried, stubborn, waiter, snoozer, doomed, parent_of, tick, killer]
}

/// Runs a server where the environment names a database; else does nothing.
pub(crate) fn run_if_asked() {
    let (Ok(db), Ok(ledger)) = (std::env::var(DB), std::env::var(LEDGER)) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let storage = jobkit::connect(&db).await.unwrap();
        let options = ServerOptions::default()
            .lease(LEASE)
            .janitor_interval(Duration::from_millis(300))
            .workers(8)
            .retry(RetryPolicy::fixed(Duration::from_millis(50)).max_attempts(5));
        let every_second = Recurring::every("tick", Duration::from_secs(1)).job(tick());
        let mut server =
            Server::builder(storage).jobs(all()).data(Ledger::at(ledger)).options(options);
        if std::env::var(TICKS).is_ok() {
            server = server.recurring(every_second);
        }
        server.build().unwrap().run_until_signal().await.unwrap();
    });
}

/// A server process; killed when it is dropped.
pub(crate) struct Process(Child);

impl Process {
    /// On a SQLite file.
    pub(crate) fn start(db: &Path, ledger: &Ledger) -> Self {
        Self::spawn(
            &format!("sqlite://{}", db.display()),
            ledger,
            &mut Command::new(std::env::current_exe().unwrap()),
        )
    }

    /// With a schedule that fires every second.
    pub(crate) fn start_with_ticks(url: &str, ledger: &Ledger) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        Self::spawn(url, ledger, command.env(TICKS, "1"))
    }

    fn spawn(url: &str, ledger: &Ledger, command: &mut Command) -> Self {
        let child = command
            .args(["server_process", "--exact", "--nocapture"])
            .env(DB, url)
            .env(LEDGER, ledger.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Asks it to stop, and waits until it has; killed if it takes longer.
    pub(crate) async fn stop(mut self, longest: Duration) {
        self.signal("TERM");
        let deadline = tokio::time::Instant::now() + longest;
        while !self.has_ended() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn freeze(&self) {
        self.signal("STOP");
    }

    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.pid());
        assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Also one that is frozen; an error means that it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Polls until a condition holds.
pub(crate) async fn eventually<F, Fut>(what: &str, seconds: u64, mut condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let deadline = tokio::time::Instant::now() + Duration::from_secs(seconds);
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
