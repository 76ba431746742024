//! The engine on the memory storage, in virtual time, with an adversary; one seed decides everything.
//!
//! Several servers and clients, each behind a storage of its own that fails, delays and loses answers
//! and pushes; servers that freeze, crash and stop; a clock that jumps; operators at work. Then all of
//! it heals, time passes, and every guarantee is checked on the history of all commits.

mod adversary;
mod watcher;
mod work;
mod world;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use jobkit_core::ids::use_id_source;
use jobkit_core::testing::FaultyStorage;
use jobkit_core::{Clock, MemoryStorage, NewJob, Recurring};
use sha2::{Digest, Sha256};

use crate::history::{Fact, History, Violation};
use watcher::Watcher;
use world::{Chance, JumpingClock, SeededIds};

/// What differs from an ordinary run.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Options {
    /// A fault of the storage that is to be found.
    #[cfg(feature = "_planted")]
    pub planted: Option<jobkit_core::memory::Planted>,
    /// The answers of a shared flight are swapped: a fault that is to be found.
    #[cfg(feature = "_planted")]
    pub swaps: bool,
}

#[cfg(feature = "_planted")]
#[doc(hidden)]
impl Options {
    /// With a fault of the storage.
    pub fn planted(fault: jobkit_core::memory::Planted) -> Self {
        Self { planted: Some(fault), ..Self::default() }
    }

    /// With a flight that swaps its answers.
    pub fn swapping() -> Self {
        Self { swaps: true, ..Self::default() }
    }
}

/// What a run showed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What happened.
    pub history: History,
    /// What must not have happened.
    pub violations: Vec<Violation>,
}

impl Outcome {
    /// One line for each fact: the same for the same seed, to the byte.
    pub fn trace(&self) -> String {
        let mut trace = String::new();
        for event in &self.history.events {
            let _ = writeln!(trace, "{event}");
        }
        trace
    }

    /// SHA-256 of the trace.
    pub fn digest(&self) -> String {
        let digest = Sha256::digest(self.trace().as_bytes());
        digest.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// What is wrong, with the last facts about the job concerned; empty if nothing is.
    pub fn complaint(&self, seed: u64) -> String {
        let mut text = String::new();
        for violation in &self.violations {
            let _ = writeln!(text, "seed {seed}: {violation}");
            let Some(job) = violation.job else { continue };
            for event in self.history.last_of(job, 40) {
                let _ = writeln!(text, "    {event}");
            }
        }
        if !text.is_empty() {
            let _ = writeln!(text, "again: cargo xtask simulate --seeds 1 --first-seed {seed}");
        }
        text
    }
}

/// What everyone in a run has in hand.
struct Shared {
    chance: Arc<Chance>,
    clock: Arc<JumpingClock>,
    storage: MemoryStorage,
    watcher: Arc<Watcher>,
    /// Observed, and without faults.
    operator: FaultyStorage,
    kept: work::Kept,
    calm: AtomicBool,
    servers: AtomicU64,
    /// How many of a thousand calls go wrong.
    faults: u64,
    #[cfg(feature = "_planted")]
    swaps: bool,
}

/// Runs one seed.
///
/// # Panics
/// When no runtime can be made.
pub fn run(seed: u64, options: &Options) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime starts");
    let history = runtime.block_on(run_inside(seed, options));
    let violations = history.check();
    Outcome { history, violations }
}

async fn run_inside(seed: u64, options: &Options) -> History {
    let chance = Arc::new(Chance::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d)));
    let clock = Arc::new(JumpingClock::new());
    let ids = SeededIds { chance: Arc::clone(&chance), clock: Arc::clone(&clock) };
    let _ids = use_id_source(Arc::new(ids));
    let storage = MemoryStorage::with_clock(Arc::clone(&clock) as Arc<dyn Clock>);
    #[cfg(feature = "_planted")]
    if let Some(fault) = options.planted {
        storage.plant(fault);
    }
    #[cfg(not(feature = "_planted"))]
    let _ = options;
    let watcher = Arc::new(Watcher::new(storage.clone(), Arc::clone(&clock)));
    let operator = FaultyStorage::new(Arc::new(storage.clone()));
    operator.observe(Arc::clone(&watcher) as _);
    let shared = Arc::new(Shared {
        faults: *chance.pick(&[0, 5, 30, 100]).unwrap_or(&5),
        chance,
        clock,
        storage,
        watcher,
        operator,
        kept: work::Kept::default(),
        calm: AtomicBool::new(false),
        servers: AtomicU64::new(0),
        #[cfg(feature = "_planted")]
        swaps: options.swaps,
    });
    play(&shared).await;
    shared.watcher.finish()
}

async fn play(shared: &Arc<Shared>) {
    let chance = &shared.chance;
    schedule(shared).await;
    let mut processes = Vec::new();
    for _ in 0..chance.in_range(2..4) {
        processes.extend(adversary::start(shared).await);
    }
    let clients = tokio::spawn(adversary::enqueue_things(Arc::clone(shared), 24));
    adversary::rage(shared, &mut processes, 40).await;
    let _ = clients.await;
    shared.calm.store(true, std::sync::atomic::Ordering::SeqCst);
    // One that is surely alive, and whoever else is left.
    processes.extend(adversary::start(shared).await);
    settle_down(shared).await;
    if chance.once_in_thousand(500) {
        // Everything expires, and what waited for what is removed learns it.
        shared.clock.jump(2 * 3600);
        tokio::time::sleep(Duration::from_secs(20)).await;
        settle_down(shared).await;
    }
}

/// A schedule with a fixed pace, which ends before all is to be quiet.
async fn schedule(shared: &Arc<Shared>) {
    let pace = Duration::from_secs(shared.chance.in_range(2..6));
    let client = work::client(shared, &shared.operator);
    let ends_at = shared.clock.now().plus(Duration::from_secs(25));
    let recurring = Recurring::every("tick", pace)
        .ends_at(ends_at)
        .misfire(jobkit_core::recurring::Misfire::RunAll { cap: 3 })
        .job(NewJob::new(work::Plain { act: work::Act::Return }));
    if client.save_recurring(recurring).await.is_ok() {
        shared.watcher.tell(Fact::Schedule { id: "tick".into(), every: pace });
    }
}

/// Lets time pass until nothing is left to do, or for so long that it will never be done.
async fn settle_down(shared: &Shared) {
    let mut quiet = 0;
    for _ in 0..400 {
        tokio::time::sleep(Duration::from_secs(3)).await;
        quiet = if shared.watcher.is_busy() { 0 } else { quiet + 1 };
        if quiet == 4 {
            return;
        }
    }
}
