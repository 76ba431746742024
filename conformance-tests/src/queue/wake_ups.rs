//! `wake_ups`.

use std::time::Duration;

use jobkit_core::batch::Starts;
use jobkit_core::edge::On;
use jobkit_core::record::NewRecord;
use jobkit_core::state::{Reason, Start};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{Action, ClaimedJob, Level, PauseTarget, WakeUp, WakeUpFilter, WakeUps};
use jobkit_core::{BatchId, JobId};

use crate::fixtures::*;

/// How long a push may take; within the contract's bound, and more for a slow machine.
const BOUND: Duration = Duration::from_secs(5);

/// A claimer that sleeps, and what it is told.
struct Sleeper {
    claimer: Claimer,
    wake_ups: Box<dyn WakeUps>,
}

impl Sleeper {
    async fn new(env: &Env, claimer: Claimer) -> Self {
        let filter = WakeUpFilter {
            queues: vec![name("default")],
            claimer: Some(claimer.incarnation),
            ..WakeUpFilter::default()
        };
        Self { wake_ups: listen(env, filter).await, claimer }
    }

    /// A claim after which it sleeps, since it takes `taken` jobs and could take more.
    async fn falls_asleep(&mut self, env: &Env, taken: usize) -> Vec<ClaimedJob> {
        self.claimer.sequence += 1;
        let mut request = self.claimer.request(self.claimer.sequence, taken + 3);
        request.sleeps_below = taken + 3;
        let jobs = env.storage.claim(&env.call(), &request).await.expect("claims").jobs;
        assert_eq!(jobs.len(), taken);
        // What it was told before is no answer to what comes.
        while tokio::time::timeout(Duration::ZERO, self.wake_ups.next()).await.is_ok() {}
        jobs
    }

    async fn told(&mut self, of: &str) {
        let push = tokio::time::timeout(BOUND, self.wake_ups.next()).await;
        let push = push.unwrap_or_else(|_| panic!("nobody told of {of}"));
        assert!(matches!(push, Some(WakeUp::Work | WakeUp::Lost)), "{of}: {push:?}");
    }
}

async fn listen(env: &Env, filter: WakeUpFilter) -> Box<dyn WakeUps> {
    env.storage.wake_ups(filter).await.expect("subscribes").expect("pushes")
}

/// Waits for a push; answers those before it.
async fn wait_for(wake_ups: &mut Box<dyn WakeUps>, wanted: WakeUp) -> Vec<WakeUp> {
    let mut before = Vec::new();
    let look = async {
        while let Some(push) = wake_ups.next().await {
            if push == wanted || push == WakeUp::Lost {
                return;
            }
            before.push(push);
        }
        panic!("the pushes ended");
    };
    let found = tokio::time::timeout(BOUND, look).await;
    found.unwrap_or_else(|_| panic!("nobody told of {wanted:?}"));
    before
}

/// WAK-1, G16, G21: a claimer that sleeps is told of work that became claimable, by whatever way.
pub async fn an_idle_claimer_is_told_of_new_work(env: Env) {
    let mut server = env.claimer("s").await;
    let mut idle = Sleeper::new(&env, env.claimer("idle").await).await;

    idle.falls_asleep(&env, 0).await;
    let id = env.add(job()).await;
    idle.told("a submit").await;
    let lease = server.claim_one().await.lease;
    idle.falls_asleep(&env, 0).await;
    server.settled(lease, RETRY_NOW).await;
    idle.told("a retry").await;
    let lease = server.claim_one().await.lease;
    server.settled(lease, Ending::Succeeded).await;
    idle.falls_asleep(&env, 0).await;
    env.requeue(id).await;
    idle.told("a requeue").await;
    server.claim_one().await;
    env.advance(60);
    idle.falls_asleep(&env, 0).await;
    env.rescue_all().await;
    idle.told("a rescue").await;
    server.claim_one().await;
    let later = env.add(NewRecord { start: Start::After(seconds(60)), ..job() }).await;
    idle.falls_asleep(&env, 0).await;
    env.changed(later, Action::RunNow).await;
    idle.told("a run-now").await;
    let lease = server.claim_one().await.lease;
    server.settled(lease, Ending::Retry { delay: seconds(1) }).await;
    env.advance(1);
    idle.falls_asleep(&env, 0).await;
    env.promote().await;
    idle.told("a promotion").await;
    server.claim_one().await;
    idle.falls_asleep(&env, 0).await;
    server.renew(1..=server.sequence, Vec::new()).await;
    idle.told("a lost claim answer").await;
}

/// WAK-1, G16, G21: a claimer that sleeps is told of a child that was released, a slot that was freed
/// and a pause that was lifted.
pub async fn an_idle_claimer_is_told_of_releases_slots_and_resumes(env: Env) {
    if env.storage.capabilities().level < Level::Standard {
        // It has neither children nor limits to tell of.
        return;
    }
    let mut server = env.claimer("s").await;
    let mut idle = Sleeper::new(&env, env.claimer("idle").await).await;
    let parent = env.add(job()).await;
    let child = env.add(after(parent, On::Success)).await;
    let lease = server.claim_one().await.lease;
    idle.falls_asleep(&env, 0).await;
    server.settled(lease, Ending::Succeeded).await;
    idle.told("a release").await;
    assert_eq!(server.run_one(Ending::Succeeded).await, child);

    env.add(limited("l", 1)).await;
    env.add(limited("l", 1)).await;
    let claimed = server.claim(10).await;
    assert_eq!(claimed.len(), 1);
    idle.falls_asleep(&env, 0).await;
    server.settled(claimed[0].lease, Ending::Succeeded).await;
    idle.told("a freed slot").await;
    server.run_one(Ending::Succeeded).await;

    let queue = PauseTarget::Queue(name("default"));
    let pause = jobkit_core::recurring::Pause::new("op", "why");
    if env.storage.pause(&env.call(), &queue, &pause).await.is_ok() {
        env.add(job()).await;
        idle.falls_asleep(&env, 0).await;
        env.storage.resume(&env.call(), &queue).await.expect("resumes");
        idle.told("a resume").await;
        server.run_one(Ending::Succeeded).await;
    }
}

/// WAK-1, G16, G21: a claimer with free workers is told of new work also after a claim that took some.
pub async fn a_claimer_that_took_less_than_it_could_is_told(env: Env) {
    let mut server = Sleeper::new(&env, env.claimer("s").await).await;
    env.add_many(jobs(2)).await;
    let mut held = server.falls_asleep(&env, 2).await;
    let third = env.add(job()).await;
    server.told("a submit").await;
    held.extend(server.falls_asleep(&env, 1).await);
    assert_eq!(held[2].lease.job, third);
    // Telling once is enough until it claims again, and it does so now.
    env.add(job()).await;
    server.told("another submit").await;
}

/// WAK-1, WAK-3, G16: of several sleepers each job wakes one that would take it.
pub async fn sleepers_are_told_of_what_they_would_take(env: Env) {
    let mut other = Sleeper::new(&env, env.claimer("other").await.kinds(&["other"])).await;
    let mut drains = Sleeper::new(&env, env.claimer("drains").await).await;
    let mut first = Sleeper::new(&env, env.claimer("first").await).await;
    let mut second = Sleeper::new(&env, env.claimer("second").await).await;
    for sleeper in [&mut other, &mut drains, &mut first, &mut second] {
        sleeper.falls_asleep(&env, 0).await;
    }
    drains.claimer.drain().await;
    env.add_many(jobs(2)).await;
    first.told("one of two jobs").await;
    second.told("one of two jobs").await;
    env.add(job_of("other")).await;
    other.told("a job of its kind").await;
}

/// WAK-4, G7, G9: who sweeps is told of what a call left, also where nothing became claimable.
pub async fn what_is_left_to_sweeps_is_told(env: Env) {
    if env.storage.capabilities().level < Level::Standard {
        // It leaves nothing.
        return;
    }
    let mut sweeper = listen(&env, WakeUpFilter { marks: true, ..WakeUpFilter::default() }).await;
    let parent = env.add(job()).await;
    env.add_many((0..150).map(|_| after(parent, On::Success)).collect()).await;
    env.changed(parent, Action::Delete { keep: None }).await;
    wait_for(&mut sweeper, WakeUp::Marks).await;
    env.sweep().await;

    let batch = BatchId::new();
    let members: Vec<NewRecord> = (0..600).map(|_| member(batch)).collect();
    let (first, rest) = members.split_at(300);
    env.submit(batch_of(batch, Starts::WhenStarted, first.to_vec())).await;
    env.flow(rest.to_vec()).await;
    while tokio::time::timeout(Duration::ZERO, sweeper.next()).await.is_ok() {}
    env.storage.cancel_batch(&env.call(), batch).await.expect("cancels");
    wait_for(&mut sweeper, WakeUp::Marks).await;
}

/// WAK-1: who wants them is told of cancellations and of earlier due instants.
pub async fn cancellations_and_due_instants_are_told(env: Env) {
    let mut server = env.claimer("s").await;
    let cancels_of = Some(server.incarnation);
    let filter = WakeUpFilter { due: true, cancels_of, ..WakeUpFilter::default() };
    let mut wake_ups = listen(&env, filter).await;
    let due = env.after(60);
    env.add(NewRecord { start: Start::At(due), ..job() }).await;
    wait_for(&mut wake_ups, WakeUp::Due(due)).await;
    let id = env.add(job()).await;
    let lease = server.claim_one().await.lease;
    server.settled(lease, Ending::Retry { delay: seconds(50) }).await;
    wait_for(&mut wake_ups, WakeUp::Due(env.after(50))).await;
    env.change(id, Action::Reschedule { run_at: env.after(40) }).await;
    wait_for(&mut wake_ups, WakeUp::Due(env.after(40))).await;
    env.change(id, Action::RunNow).await;
    server.claim_one().await;
    env.change(id, Action::Delete { keep: None }).await;
    wait_for(&mut wake_ups, WakeUp::Cancel(id)).await;
}

/// WAK-5: the ends of the jobs that somebody watches are told, and no others.
pub async fn the_ends_of_watched_jobs_are_told(env: Env) {
    let mut server = env.claimer("s").await;
    let mut wake_ups = listen(&env, WakeUpFilter::default()).await;
    let ids: [JobId; 4] = env.add_many(jobs(4)).await.try_into().expect("four");
    let leases: Vec<_> = server.claim(4).await.iter().map(|job| job.lease).collect();
    if !wake_ups.watch(&ids[1..3]).await.expect("answers") {
        // Such a storage is asked now and then.
        return;
    }
    server.settled(leases[0], Ending::Succeeded).await;
    server.settled(leases[1], Ending::Deleted(Reason::Cancelled)).await;
    let before = wait_for(&mut wake_ups, WakeUp::Finished(ids[1])).await;
    assert!(!before.contains(&WakeUp::Finished(ids[0])), "nobody watches it");
    // More may be watched later.
    assert!(wake_ups.watch(&ids[3..]).await.expect("answers"));
    server.settled(leases[3], Ending::Succeeded).await;
    wait_for(&mut wake_ups, WakeUp::Finished(ids[3])).await;
    server.settled(leases[2], Ending::Succeeded).await;
    wait_for(&mut wake_ups, WakeUp::Finished(ids[2])).await;
}

/// WAK-2, G16: a server that was told nothing finds the work when it looks.
pub async fn polling_finds_work_without_a_push(env: Env) {
    let mut server = env.claimer("s").await;
    let mut request = server.request(1, 1);
    request.sleeps_below = 1;
    assert!(env.storage.claim(&env.call(), &request).await.expect("claims").jobs.is_empty());
    server.sequence = 1;
    let id = env.add(job()).await;
    assert_eq!(server.claim_ids(1).await, [id]);
}
