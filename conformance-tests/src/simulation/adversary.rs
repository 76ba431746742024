//! What goes wrong, and what operators do meanwhile.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jobkit_core::limit::Limit;
use jobkit_core::recurring::Pause;
use jobkit_core::server::{Prefetch, ServerOptions};
use jobkit_core::state::{Keep, Retention};
use jobkit_core::storage::{
    Action, BatchStore, Call, Change, ChangeRequest, Guard, JobStore, LimitStore, LockRequest,
    LockStore, Operations, PauseTarget,
};
use jobkit_core::testing::{Fault, FaultyStorage};
use jobkit_core::{
    Client, Clock, Incarnation, Name, OperationId, RetryPolicy, Server, ServerHandle,
};

use super::{Shared, work};
use crate::history::Fact;

/// A server, as one process would be.
pub(super) struct Process {
    storage: FaultyStorage,
    handle: ServerHandle,
    dead: bool,
}

/// A storage of one process, whose calls go wrong as chance has it until all is calm.
pub(super) fn faulty(shared: &Arc<Shared>) -> FaultyStorage {
    let storage = FaultyStorage::new(Arc::new(shared.storage.clone()));
    storage.observe(Arc::clone(&shared.watcher) as _);
    let of = Arc::clone(shared);
    storage.decide(move |_| {
        if of.calm.load(Ordering::SeqCst) || !of.chance.once_in_thousand(of.faults) {
            return Fault::None;
        }
        match of.chance.below(5) {
            0 => Fault::Before,
            1 | 2 => Fault::AnswerLost,
            3 => Fault::Late(of.chance.millis(1..4000)),
            _ => Fault::AnswerLate(of.chance.millis(1..4000)),
        }
    });
    let of = Arc::clone(shared);
    storage.lose_pushes(move || {
        !of.calm.load(Ordering::SeqCst) && of.chance.once_in_thousand(of.faults * 3)
    });
    #[cfg(feature = "_planted")]
    if shared.swaps {
        storage.swap_answers();
    }
    storage
}

/// Starts a server; `None` if it could not announce itself.
pub(super) async fn start(shared: &Arc<Shared>) -> Option<Process> {
    let chance = &shared.chance;
    let number = shared.servers.fetch_add(1, Ordering::SeqCst);
    let storage = faulty(shared);
    let lease = chance.millis(600..2500);
    let prefetch = match chance.below(3) {
        0 => Prefetch::Adaptive,
        ahead => Prefetch::Fixed(usize::try_from(ahead * 2).unwrap_or(2)),
    };
    let options = ServerOptions::default()
        .workers(usize::try_from(chance.in_range(1..5)).unwrap_or(1))
        .lease(lease)
        .poll_interval(Duration::from_millis(200), Duration::from_millis(1500))
        .janitor_interval(Duration::from_millis(700))
        .dead_after(Duration::from_secs(4))
        .prefetch(prefetch)
        .retry(RetryPolicy::fixed(chance.millis(0..700)).max_attempts(3))
        .retention(Retention::all(Keep::For(Duration::ZERO)))
        .crash_limit(3)
        .cancel_grace(Duration::from_millis(400))
        .shutdown_grace(Duration::from_millis(800));
    let server = Server::builder(storage.clone())
        .client(&work::client(shared, &storage))
        .jobs(work::jobs(shared, &storage))
        .name(format!("server-{number}"))
        .queues(["default", "mail"])
        .options(options)
        .build();
    let server = server.expect("the options are fine");
    let handle = server.start().await.ok()?;
    Some(Process { storage, handle, dead: false })
}

impl Process {
    /// Ends it without a word, wherever it is.
    fn crash(&mut self) {
        self.storage.freeze();
        self.handle.abort();
        self.dead = true;
    }
}

/// Does one thing after the other.
pub(super) async fn rage(shared: &Arc<Shared>, processes: &mut Vec<Process>, actions: u64) {
    let chance = &shared.chance;
    let mut paused = Vec::new();
    for _ in 0..actions {
        tokio::time::sleep(chance.millis(20..600)).await;
        let place = chance.below(processes.len().max(1) as u64);
        let place = usize::try_from(place).unwrap_or(0);
        match chance.below(26) {
            0 | 1 => {
                if let Some(process) = processes.get_mut(place) {
                    process.crash();
                }
                processes.extend(start(shared).await);
            }
            2 => {
                if let Some(process) = processes.get_mut(place).filter(|process| !process.dead) {
                    process.handle.stop();
                }
                processes.extend(start(shared).await);
            }
            3..6 => {
                if let Some(process) = processes.get(place).filter(|process| !process.dead) {
                    process.storage.freeze();
                    let storage = process.storage.clone();
                    let length = chance.millis(100..8000);
                    tokio::spawn(async move {
                        tokio::time::sleep(length).await;
                        storage.thaw();
                    });
                }
            }
            6..16 => change_something(shared).await,
            16..18 => {
                let target = match chance.below(4) {
                    0 => PauseTarget::Queue(Name::default_queue()),
                    1 => PauseTarget::Queue(name("mail")),
                    2 => PauseTarget::Kind(name("plain")),
                    _ => PauseTarget::Kind(name("other")),
                };
                let pause = Pause::new("adversary", "why not");
                // At once, so that nothing comes between it and what is told of it.
                shared.storage.pause(&Call::default(), &target, &pause).await.ok();
                shared.watcher.tell(Fact::Paused(target.clone()));
                paused.push(target);
            }
            18..21 => {
                if let Some(target) = paused.pop() {
                    resume(shared, &target).await;
                }
            }
            21 => {
                let jumps = [-300, -20, -3, 2, 4, 30, 90, 400];
                shared.clock.jump(*chance.pick(&jumps).unwrap_or(&0));
            }
            22 => {
                let max = u32::try_from(chance.in_range(1..4)).unwrap_or(1);
                let name = if chance.once_in_thousand(500) { "narrow" } else { "wide" };
                shared.operator.define_limit(&Call::default(), &Limit::new(name, max)).await.ok();
            }
            23 => {
                if let Some(batch) = work::some_batch(shared) {
                    let done = match chance.below(3) {
                        0 => shared.operator.cancel_batch(&Call::default(), batch).await,
                        _ => shared.operator.start_batch(&Call::default(), batch).await,
                    };
                    drop(done);
                }
            }
            _ => {
                let request = LockRequest {
                    name: "lock".into(),
                    owner: Incarnation::new(),
                    ttl: chance.millis(100..2000),
                };
                shared.operator.try_acquire(&Call::default(), &request).await.ok();
            }
        }
    }
    for target in paused {
        resume(shared, &target).await;
    }
    for process in processes.iter().filter(|process| !process.dead) {
        process.storage.thaw();
    }
}

async fn resume(shared: &Shared, target: &PauseTarget) {
    shared.storage.resume(&Call::default(), target).await.ok();
    shared.watcher.tell(Fact::Resumed(target.clone()));
}

fn name(name: &str) -> Name {
    Name::new("name", name).expect("a fine name")
}

async fn change_something(shared: &Shared) {
    let chance = &shared.chance;
    let Some(job) = chance.pick(&shared.watcher.jobs()).copied() else { return };
    let soon = || shared.clock.now().plus(chance.millis(0..3000));
    let action = match chance.below(12) {
        0..4 => Action::Requeue { run_at: chance.once_in_thousand(300).then(soon) },
        4..9 => Action::Delete { keep: Some(Keep::For(Duration::ZERO)) },
        9 => Action::Reschedule { run_at: soon() },
        10 => Action::RunNow,
        _ => Action::Move {
            queue: chance.once_in_thousand(500).then(|| name("mail")),
            priority: Some(u8::try_from(chance.below(10)).unwrap_or(5)),
        },
    };
    let change = Change { operation: OperationId::new(), job, guard: Guard::None, action };
    let changes = [change.clone(), change];
    // Now and then as if the first answer had been lost.
    let repeats = 1 + usize::from(chance.once_in_thousand(200));
    for change in changes.chunks(1).take(repeats) {
        let request = ChangeRequest { changes: change, actor: Some("adversary") };
        shared.operator.change_state(&Call::default(), request).await.ok();
    }
}

/// Clients that come and go.
pub(super) async fn enqueue_things(shared: Arc<Shared>, things: u64) {
    let chance = &shared.chance;
    let clients: Vec<Client> = (0..2).map(|_| work::client(&shared, &faulty(&shared))).collect();
    for _ in 0..things {
        tokio::time::sleep(chance.millis(0..900)).await;
        if let Some(client) = chance.pick(&clients) {
            tokio::spawn(work::enqueue_something(Arc::clone(&shared), client.clone()));
        }
    }
}
