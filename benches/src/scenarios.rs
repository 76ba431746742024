//! The scenarios.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use jobkit::state::StateName;
use jobkit::stats::Scope;
use jobkit::storage::{Call, Storage};
use jobkit::testing::FaultyStorage;
use jobkit::{Client, Server};
use std::sync::Arc;

use crate::bare::{self, Limit};
use crate::jobs::{self, sized};
use crate::operators;
use crate::processor;
use crate::report::{Measured, Report};
use crate::runtime;
use crate::target::{Fresh, Kind, Target};

type Round = Pin<Box<dyn Future<Output = Result<f64>>>>;

pub struct Scenario {
    pub name: &'static str,
    pub about: &'static str,
    unit: &'static str,
    limit: Option<Limit>,
    run: Run,
}

enum Run {
    /// One number; the median of the rounds counts.
    Rate(fn(Target) -> Round),
    /// Durations.
    Latency,
    /// Drain with a million finished and a million scheduled jobs, as a ratio to `drain-20`.
    Grown,
    /// Calls that people wait for, each with its name.
    Operators,
}

pub const ALL: &[Scenario] = &[
    Scenario {
        name: "enqueue-1",
        about: "one caller, one job a call",
        unit: "jobs/s",
        limit: Some(Limit::SingleInsert),
        run: Run::Rate(|target| Box::pin(enqueue(target, 1))),
    },
    Scenario {
        name: "enqueue-50",
        about: "50 callers at the same time, one job a call",
        unit: "jobs/s",
        limit: Some(Limit::SingleInsert),
        run: Run::Rate(|target| Box::pin(enqueue(target, 50))),
    },
    Scenario {
        name: "bulk",
        about: "enqueue_many, 500 a call and six calls at a time",
        unit: "jobs/s",
        limit: Some(Limit::BulkInsert),
        run: Run::Rate(|target| Box::pin(bulk(target))),
    },
    Scenario {
        name: "drain-20",
        about: "no-op jobs, 20 workers",
        unit: "jobs/s",
        limit: Some(Limit::ClaimAndUpdate),
        run: Run::Rate(|target| Box::pin(drain(target, 20, None))),
    },
    Scenario {
        name: "drain-200",
        about: "no-op jobs, 200 workers",
        unit: "jobs/s",
        limit: Some(Limit::ClaimAndUpdate),
        run: Run::Rate(|target| Box::pin(drain(target, 200, None))),
    },
    Scenario {
        name: "drain-limit",
        about: "no-op jobs under one semaphore of 10, 20 workers; bare by tens as well",
        unit: "jobs/s",
        limit: Some(Limit::ClaimAndUpdateTens),
        run: Run::Rate(|target| Box::pin(drain(target, 20, Some(10)))),
    },
    Scenario {
        name: "drain-processes",
        about: "no-op jobs, four server processes of 20 workers",
        unit: "jobs/s",
        limit: Some(Limit::ClaimAndUpdate),
        run: Run::Rate(|target| Box::pin(drain_processes(target))),
    },
    Scenario {
        name: "steady",
        about: "jobs of a millisecond, 20 workers",
        unit: "jobs/s",
        limit: None,
        run: Run::Rate(|target| Box::pin(steady(target))),
    },
    Scenario {
        name: "latency",
        about: "idle server, from the call of enqueue to the start of the handler",
        unit: "ms",
        limit: None,
        run: Run::Latency,
    },
    Scenario {
        name: "idle",
        about: "storage calls of an idle server",
        unit: "calls/s",
        limit: None,
        run: Run::Rate(|target| Box::pin(idle(target))),
    },
    Scenario {
        name: "processor",
        about: "processor time of the engine for a no-op job: drain-20 less the same calls without it",
        unit: "us/job",
        limit: None,
        run: Run::Rate(|target| Box::pin(processor(target))),
    },
    Scenario {
        name: "grown",
        about: "drain-20 beside 1 M finished and 1 M scheduled jobs, as a ratio to drain-20",
        unit: "ratio",
        limit: None,
        run: Run::Grown,
    },
    Scenario {
        name: "operators",
        about: "what people look at, beside 1 M jobs of all states: p50 and longest of each call",
        unit: "ms",
        limit: None,
        run: Run::Operators,
    },
    Scenario {
        name: "bulk-retry",
        about: "drain-20 while 100,000 failed jobs are retried in bulk, as a ratio to one without",
        unit: "ratio",
        limit: None,
        run: Run::Rate(|target| Box::pin(bulk_retry(target))),
    },
    Scenario {
        name: "memory",
        about: "growth of resident memory while 1 M jobs are drained",
        unit: "MiB",
        limit: None,
        run: Run::Rate(|target| Box::pin(memory(target))),
    },
];

pub fn measure(scenario: &Scenario, target: &Target, report: &mut Report) -> Result<()> {
    let mut measured =
        Measured { scenario: scenario.name, unit: scenario.unit, ..Measured::default() };
    match scenario.run {
        Run::Rate(_) if scenario.name == "drain-processes" && target.kind == Kind::Memory => {
            return Ok(());
        }
        Run::Rate(run) => {
            // Those that count calls or bytes are not made surer by repetition.
            let repeated = matches!(scenario.unit, "jobs/s" | "us/job");
            let rounds = if repeated { target.rounds() } else { 1 };
            let value = median(rounds, || runtime()?.block_on(run(target.clone())))?;
            measured.value = Some(value);
            if let Some(limit) = scenario.limit
                && let Some((limit, trusted)) = bare::measure(target, limit)?
            {
                measured.limit = Some(limit);
                measured.ratio = trusted.then_some(value / limit);
            }
        }
        Run::Latency => {
            let mut lengths = runtime()?.block_on(latency(target))?;
            lengths.sort_unstable();
            let at = |fraction: f64| {
                let place = (lengths.len() as f64 * fraction) as usize;
                Some(lengths[place.min(lengths.len() - 1)].as_secs_f64() * 1e3)
            };
            (measured.p50, measured.p95, measured.p99) = (at(0.5), at(0.95), at(0.99));
        }
        Run::Operators => {
            let millis = |length: &Duration| length.as_secs_f64() * 1e3;
            for timed in runtime()?.block_on(crate::operators::measure(target))? {
                let lengths = &timed.lengths;
                report.add(Measured {
                    scenario: scenario.name,
                    unit: scenario.unit,
                    p50: lengths.get(lengths.len() / 2).map(millis),
                    max: lengths.last().map(millis),
                    call: timed.call,
                    ..Measured::default()
                });
            }
            return Ok(());
        }
        Run::Grown => {
            let plain =
                median(target.rounds(), || runtime()?.block_on(drain(target.clone(), 20, None)))?;
            let grown = runtime()?.block_on(grown(target))?;
            measured.value = Some(grown / plain);
        }
    }
    report.add(measured);
    Ok(())
}

fn median(rounds: usize, mut run: impl FnMut() -> Result<f64>) -> Result<f64> {
    let mut values = (0..rounds).map(|_| run()).collect::<Result<Vec<_>>>()?;
    values.sort_by(f64::total_cmp);
    Ok(values[values.len() / 2])
}

fn rate(jobs: usize, begun: Instant) -> f64 {
    jobs as f64 / begun.elapsed().as_secs_f64()
}

async fn enqueue(target: Target, callers: usize) -> Result<f64> {
    let fresh = target.fresh().await?;
    let client = Client::new(Arc::clone(&fresh.storage));
    let slow = target.kind == Kind::SqliteFull && callers == 1;
    let jobs = target.jobs(if slow { 5_000 } else { 200_000 }) / callers * callers;
    let begun = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                for _ in 0..jobs / callers {
                    client.enqueue(sized()).await?;
                }
                Ok::<_, jobkit::Error>(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    let rate = rate(jobs, begun);
    check(&fresh, StateName::Enqueued, jobs).await?;
    Ok(rate)
}

async fn bulk(target: Target) -> Result<f64> {
    let fresh = target.fresh().await?;
    let jobs = target.jobs(300_000);
    let begun = Instant::now();
    fill(&fresh, jobs).await?;
    let rate = rate(jobs, begun);
    check(&fresh, StateName::Enqueued, jobs).await?;
    Ok(rate)
}

async fn fill(fresh: &Fresh, jobs: usize) -> Result<()> {
    let client = Client::new(Arc::clone(&fresh.storage));
    let report = client.enqueue_many((0..jobs).map(|_| sized())).await?;
    ensure!(report.stored == jobs, "stored {} of {jobs}", report.stored);
    Ok(())
}

/// Counts and histograms must be true after every measurement.
async fn check(fresh: &Fresh, state: StateName, jobs: usize) -> Result<()> {
    let snapshot = fresh.storage.snapshot(&Call::default()).await?;
    ensure!(
        snapshot.count(state) == jobs as u64,
        "{} of {jobs} are {state}",
        snapshot.count(state)
    );
    let counters = fresh.storage.counters(&Scope::Total).await?;
    ensure!(counters.transitions_to(state) >= jobs as u64, "the counters are wrong: {counters:?}");
    Ok(())
}

/// The longest time between two looks whether a drain is over.
const LOOK: Duration = Duration::from_millis(100);

async fn until_succeeded(storage: &Arc<dyn Storage>, jobs: usize) -> Result<()> {
    let begun = Instant::now();
    loop {
        if storage.snapshot(&Call::default()).await?.count(StateName::Succeeded) >= jobs as u64 {
            return Ok(());
        }
        // Each look is work of the storage, and every 10 ms it would be part of what is measured. After a short
        // time it looks sooner, so that the end is known to 2 %.
        let pause = begun.elapsed() / 50;
        tokio::time::sleep(pause.clamp(Duration::from_millis(10), LOOK)).await;
    }
}

async fn drain(target: Target, workers: usize, limit: Option<u32>) -> Result<f64> {
    let fresh = target.fresh().await?;
    let jobs = target.jobs(200_000);
    match limit {
        None => fill(&fresh, jobs).await?,
        Some(limit) => {
            let client = Client::new(Arc::clone(&fresh.storage));
            client.enqueue_many((0..jobs).map(|_| sized().limit("ten", limit))).await?;
        }
    }
    drain_filled(&fresh, jobs, jobs, workers).await
}

async fn drain_filled(fresh: &Fresh, jobs: usize, until: usize, workers: usize) -> Result<f64> {
    let server =
        Server::builder(Arc::clone(&fresh.storage)).jobs(jobs::all()).workers(workers).build()?;
    let begun = Instant::now();
    let server = server.start().await?;
    until_succeeded(&fresh.storage, until).await?;
    let rate = rate(jobs, begun);
    server.shutdown().await?;
    check(fresh, StateName::Succeeded, until).await?;
    Ok(rate)
}

async fn drain_processes(target: Target) -> Result<f64> {
    let fresh = target.fresh().await?;
    let jobs = target.jobs(200_000);
    fill(&fresh, jobs).await?;
    let begun = Instant::now();
    let mut servers = Vec::new();
    for _ in 0..4 {
        let mut command = tokio::process::Command::new(std::env::current_exe()?);
        servers.push(command.arg("serve").arg(fresh.url()).kill_on_drop(true).spawn()?);
    }
    until_succeeded(&fresh.storage, jobs).await?;
    let rate = rate(jobs, begun);
    check(&fresh, StateName::Succeeded, jobs).await?;
    Ok(rate)
}

async fn steady(target: Target) -> Result<f64> {
    let fresh = target.fresh().await?;
    let jobs = target.jobs(100_000);
    let client = Client::new(Arc::clone(&fresh.storage));
    let padding = "x".repeat(86);
    client.enqueue_many((0..jobs).map(|_| jobs::millisecond(padding.clone()))).await?;
    drain_filled(&fresh, jobs, jobs, 20).await
}

async fn latency(target: &Target) -> Result<Vec<Duration>> {
    let fresh = target.fresh().await?;
    let client = Client::new(Arc::clone(&fresh.storage));
    let server =
        Server::builder(Arc::clone(&fresh.storage)).jobs(jobs::all()).build()?.start().await?;
    let mut lengths = Vec::new();
    for _ in 0..target.jobs(2_000) {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let begun = Instant::now();
        client.enqueue(jobs::told()).await?;
        let started = loop {
            match jobs::take_started() {
                Some(started) => break started,
                None => tokio::time::sleep(Duration::from_micros(200)).await,
            }
        };
        lengths.push(started.saturating_duration_since(begun));
    }
    server.shutdown().await?;
    Ok(lengths)
}

async fn idle(target: Target) -> Result<f64> {
    let fresh = target.fresh().await?;
    let counted = FaultyStorage::new(Arc::clone(&fresh.storage));
    let server = Server::builder(counted.clone()).jobs(jobs::all()).build()?.start().await?;
    // After its first job, so that whatever a busy server leaves behind is part of it.
    Client::new(counted.clone()).enqueue(sized()).await?;
    until_succeeded(&fresh.storage, 1).await?;
    tokio::time::sleep(Duration::from_secs(15)).await;
    let before = counted.all_calls();
    let length = Duration::from_secs(if target.quick { 20 } else { 120 });
    tokio::time::sleep(length).await;
    let calls = counted.all_calls() - before;
    server.shutdown().await?;
    Ok(calls as f64 / length.as_secs_f64())
}

async fn processor(target: Target) -> Result<f64> {
    let jobs = target.jobs(500_000);
    let mut spent = Vec::new();
    for engine in [false, true] {
        let fresh = target.fresh().await?;
        fill(&fresh, jobs).await?;
        let before = processor::spent()?;
        if engine {
            drain_filled(&fresh, jobs, jobs, 20).await?;
        } else {
            processor::drain_bare(&fresh.storage, jobs).await?;
        }
        spent.push((processor::spent()? - before) * 1e6 / jobs as f64);
    }
    Ok(spent[1] - spent[0])
}

async fn grown(target: &Target) -> Result<f64> {
    let fresh = target.fresh().await?;
    let million = target.jobs(1_000_000);
    fill(&fresh, million).await?;
    drain_filled(&fresh, million, million, 20).await?;
    let client = Client::new(Arc::clone(&fresh.storage));
    let day = Duration::from_secs(24 * 3600);
    client.enqueue_many((0..million).map(|_| sized().delay(day))).await?;
    let jobs = target.jobs(200_000);
    fill(&fresh, jobs).await?;
    drain_filled(&fresh, jobs, million + jobs, 20).await
}

/// What is retried stands in a queue that nobody serves, so that it adds no work of its own.
async fn bulk_retry(target: Target) -> Result<f64> {
    let (failed, jobs) = (target.jobs(100_000), target.jobs(1_000_000));
    let mut rates = Vec::new();
    for retried in [false, true] {
        let fresh = target.fresh().await?;
        operators::fail(&fresh, failed).await?;
        fill(&fresh, jobs).await?;
        let client = Client::new(Arc::clone(&fresh.storage));
        let filter: jobkit::ops::search::JobFilter = "state:failed".parse()?;
        let action = jobkit::storage::Action::Requeue { run_at: None };
        let operator = client.operator("bench");
        let server = Server::builder(Arc::clone(&fresh.storage)).jobs(jobs::all());
        let server = server.queues(["default"]).only_queues().workers(20).build()?;
        let begun = Instant::now();
        let server = server.start().await?;
        let driven = if retried {
            let bulk = operator.begin_bulk(filter, action, failed as u64, Duration::ZERO).await?;
            let storage = Arc::clone(&fresh.storage);
            let drive = async move { jobkit::ops::bulk::drive(&*storage, bulk.id, |_| {}).await };
            Some(tokio::spawn(drive))
        } else {
            None
        };
        until_succeeded(&fresh.storage, jobs).await?;
        rates.push(rate(jobs, begun));
        if let Some(driven) = driven {
            let during = begun.elapsed();
            let ended = driven.await??;
            ensure!(ended.done == failed as u64, "{} of {failed} were retried", ended.done);
            eprintln!("retried within {:?}, drained within {during:?}", begun.elapsed());
        }
        server.shutdown().await?;
    }
    Ok(rates[1] / rates[0])
}

async fn memory(target: Target) -> Result<f64> {
    let fresh = target.fresh().await?;
    let jobs = target.jobs(1_000_000);
    fill(&fresh, jobs).await?;
    let before = resident_mib();
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let watch = {
        let done = Arc::clone(&done);
        std::thread::spawn(move || {
            let mut most: f64 = 0.0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                most = most.max(resident_mib());
                std::thread::sleep(Duration::from_millis(50));
            }
            most
        })
    };
    drain_filled(&fresh, jobs, jobs, 20).await?;
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    let most = watch.join().unwrap_or(f64::NAN);
    Ok(most - before)
}

/// Resident memory that is not a mapped file, in MiB, as Linux tells it.
fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line
        .and_then(|line| line.split_whitespace().nth(1))
        .and_then(|kib| kib.parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) / 1024.0
}
