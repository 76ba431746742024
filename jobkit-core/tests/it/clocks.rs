//! Clocks that are wrong, and are set right: in virtual time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jobkit_core::ids::{IdSource, IdSourceGuard, use_id_source};
use jobkit_core::recurring::{Misfire, Pause, RecurringRun, RunOutcome};
use jobkit_core::state::StateName;
use jobkit_core::storage::RecurringStore;
use jobkit_core::{
    Client, Clock, MemoryStorage, Recurring, Server, ServerHandle, ServerOptions, Timestamp,
};

use crate::support::{Act, Shared, jobs, script};

const DAY: i64 = 86_400;

/// Virtual time, and by how much a clock is off.
#[derive(Clone, Debug)]
pub(crate) struct Wrong {
    began: tokio::time::Instant,
    start: Timestamp,
    off_micros: Arc<AtomicI64>,
}

impl Wrong {
    /// A clock that is right, and shows 01:00.
    pub(crate) fn new() -> Self {
        Self {
            began: tokio::time::Instant::now(),
            start: Timestamp::from_micros(1_767_229_200_000_000),
            off_micros: Arc::default(),
        }
    }

    /// Another one on the same time.
    fn another(&self) -> Self {
        Self { off_micros: Arc::default(), ..self.clone() }
    }

    fn set_off(&self, seconds: i64) {
        self.off_micros.store(seconds * 1_000_000, Ordering::SeqCst);
    }

    /// A storage on this clock, and ids on the other.
    pub(crate) fn storage(&self, ids: &Self) -> (MemoryStorage, IdSourceGuard) {
        let guard = use_id_source(Arc::new(ids.clone()));
        (MemoryStorage::with_clock(Arc::new(self.clone())), guard)
    }
}

impl Clock for Wrong {
    fn now(&self) -> Timestamp {
        let right = self.start.plus(self.began.elapsed()).as_micros();
        Timestamp::from_micros(right + self.off_micros.load(Ordering::SeqCst))
    }
}

impl IdSource for Wrong {
    fn now(&self) -> Timestamp {
        Clock::now(self)
    }

    fn random(&self) -> u128 {
        static NEXT: AtomicI64 = AtomicI64::new(1);
        let next = NEXT.fetch_add(1, Ordering::SeqCst);
        u128::from(next.unsigned_abs()) << 64 | u128::from(next.unsigned_abs())
    }
}

fn tick() -> Recurring {
    Recurring::every("tick", Duration::from_secs(1)).job(script("tick", Act::Return(1)))
}

async fn serve(
    storage: &MemoryStorage,
    recurring: impl IntoIterator<Item = Recurring>,
) -> ServerHandle {
    let mut server = Server::builder(storage.clone())
        .jobs(jobs(&Shared::default()))
        .options(ServerOptions::default());
    for recurring in recurring {
        server = server.recurring(recurring);
    }
    server.build().unwrap().start().await.unwrap()
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

async fn runs(storage: &MemoryStorage, id: &str) -> Vec<RecurringRun> {
    storage.recurring_runs(id, 100).await.unwrap()
}

/// The instants that are known to have been fired, newest first.
async fn fired(storage: &MemoryStorage, id: &str) -> Vec<Timestamp> {
    let runs = runs(storage, id).await.into_iter();
    let fired = runs.filter(|run| matches!(run.outcome, RunOutcome::Fired { .. }));
    fired.map(|run| run.nominal_at).collect()
}

fn parts(server: &ServerHandle) -> Vec<&'static str> {
    server.health().problems.iter().map(|problem| problem.part).collect()
}

#[tokio::test(start_paused = true)]
async fn a_schedule_goes_on_soon_after_the_clock_was_30_days_ahead() {
    let clock = Wrong::new();
    let (storage, _ids) = clock.storage(&clock);
    let server = serve(&storage, [tick()]).await;
    pass(5).await;
    clock.set_off(30 * DAY);
    pass(40).await;
    let ahead = fired(&storage, "tick").await;
    assert!(ahead[0] > clock.start.plus(Duration::from_secs(29 * 86_400)), "it fired ahead");
    clock.set_off(0);
    let mut seen = BTreeSet::new();
    for _ in 0..35 {
        pass(1).await;
        seen.extend(parts(&server));
    }
    assert!(seen.contains("schedules"), "health says so: {seen:?}");
    let now = Clock::now(&clock);
    let after = fired(&storage, "tick").await;
    assert!(after[0] <= now && now.since(after[0]) <= Duration::from_secs(2), "{after:?} at {now}");
    pass(30).await;
    assert!(server.health().is_ok(), "{:?}", server.health());
    // When their time comes they are not fired again.
    let record = storage.recurring("tick").await.unwrap().unwrap();
    assert!(ahead.iter().all(|at| record.has_fired(*at, now)));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_starts_after_the_clock_was_set_back_sets_its_schedules_right() {
    let clock = Wrong::new();
    let (storage, _ids) = clock.storage(&clock);
    clock.set_off(30 * DAY);
    serve(&storage, [tick()]).await.shutdown().await.unwrap();
    clock.set_off(0);
    // It does not declare the schedule, so nothing saves it again.
    let server = serve(&storage, []).await;
    pass(5).await;
    assert!(fired(&storage, "tick").await.len() >= 3);
    assert_eq!(parts(&server), ["schedules"]);
}

#[tokio::test(start_paused = true)]
async fn an_operator_revives_a_schedule_by_saving_it_or_by_pause_and_resume() {
    let clock = Wrong::new();
    let (storage, _ids) = clock.storage(&clock);
    let client = Client::new(storage.clone());
    clock.set_off(30 * DAY);
    for id in ["saved", "resumed"] {
        let recurring = Recurring::every(id, Duration::from_secs(60));
        client.save_recurring(recurring.job(script(id, Act::Return(1)))).await.unwrap();
    }
    clock.set_off(0);
    let saved = Recurring::every("saved", Duration::from_secs(60));
    client.save_recurring(saved.job(script("saved", Act::Return(1)))).await.unwrap();
    client.pause_recurring("resumed", Pause::new("ann", "to revive it")).await.unwrap();
    client.resume_recurring("resumed").await.unwrap();
    for id in ["saved", "resumed"] {
        let next = client.recurring(id).await.unwrap().unwrap().next.unwrap();
        assert!(next.nominal_at.since(Clock::now(&clock)) <= Duration::from_secs(60), "{id}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_due_is_fired_once_when_a_new_server_declares_another_job() {
    let clock = Wrong::new();
    let (storage, _ids) = clock.storage(&clock);
    let nightly = |attempts| {
        let job = script("nightly", Act::Return(1)).max_attempts(attempts);
        Recurring::cron("nightly", "0 2 * * *").misfire(Misfire::RunOnce).job(job)
    };
    serve(&storage, [nightly(3)]).await.shutdown().await.unwrap();
    pass(2 * 3600).await;
    let server = serve(&storage, [nightly(5)]).await;
    pass(5).await;
    let two = clock.start.plus(Duration::from_secs(3600));
    assert_eq!(fired(&storage, "nightly").await, [two]);
    server.shutdown().await.unwrap();
    // And with another schedule it is recorded.
    pass(24 * 3600).await;
    let other = Recurring::cron("nightly", "0 5 * * *").job(script("nightly", Act::Return(1)));
    let _server = serve(&storage, [other]).await;
    pass(5).await;
    let last = runs(&storage, "nightly").await.remove(0);
    assert_eq!((last.outcome, last.count), (RunOutcome::Replaced, 1));
    assert_eq!(last.nominal_at, two.plus(Duration::from_secs(24 * 3600)));
}

#[tokio::test(start_paused = true)]
async fn a_server_whose_clock_is_off_fires_all_the_same_and_health_says_so() {
    for (off, says) in [(-2 * 3600, "7200 s behind"), (3600, "3600 s ahead of")] {
        let clock = Wrong::new();
        let ids = clock.another();
        ids.set_off(off);
        let (storage, _ids) = clock.storage(&ids);
        let server = serve(&storage, [tick()]).await;
        pass(15).await;
        let recorded = runs(&storage, "tick").await;
        assert!(recorded.len() >= 10);
        assert_eq!(fired(&storage, "tick").await.len(), recorded.len(), "{recorded:?}");
        let problems = server.health().problems;
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].part, "clock_skew");
        assert!(problems[0].message.contains(says), "{}", problems[0].message);
        let client = Client::new(storage.clone());
        client.trigger_recurring("tick").await.unwrap();
        ids.set_off(0);
        pass(15).await;
        assert!(server.health().is_ok(), "{:?}", server.health());
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_follows_a_clock_that_goes_back_and_loses_no_end() {
    let clock = Wrong::new();
    let (storage, _ids) = clock.storage(&clock);
    let _server = serve(&storage, []).await;
    let client = Client::new(storage.clone());
    let mut ends = client.subscribe().await.unwrap();
    let mut told = async |n: u64| {
        let job = client.enqueue(script(&n.to_string(), Act::Return(n))).await.unwrap();
        let end = tokio::time::timeout(Duration::from_secs(10), ends.next()).await;
        let end = end.expect("it is told soon").unwrap();
        assert_eq!((end.id, end.state()), (job.id(), StateName::Succeeded), "{n}");
    };
    told(1).await;
    for (n, days) in [(2, 30), (3, 0), (4, -30), (5, 0)] {
        clock.set_off(days * DAY);
        told(10 * n).await;
        told(10 * n + 1).await;
    }
    // What ends between the last look and the correction has the former time.
    clock.set_off(30 * DAY);
    told(60).await;
    let job = client.enqueue(script("61", Act::Return(61))).await.unwrap();
    job.wait(Duration::from_secs(10)).await.unwrap();
    clock.set_off(0);
    let last = tokio::time::timeout(Duration::from_secs(10), ends.next()).await;
    assert_eq!(last.expect("it is told soon").unwrap().id, job.id());
}
