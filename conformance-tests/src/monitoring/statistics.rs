//! Snapshots, counters and series.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jobkit_core::recurring::Pause;
use jobkit_core::state::{Reason, State, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::stats::{Scope, Step, Tally};
use jobkit_core::storage::{HistogramQuery, Measure, PauseTarget, SeriesQuery};
use jobkit_core::{JobId, Name};

use super::workload;
use crate::fixtures::*;

async fn counters(env: &Env, scope: Scope) -> Tally {
    env.storage.counters(&scope).await.expect("counts")
}

/// Transitions that the histories tell of, but for claims that have not ended.
async fn told_by_histories(env: &Env, ids: &[JobId]) -> ([u64; 7], BTreeMap<Reason, u64>) {
    let mut to = [0; 7];
    let mut reasons = BTreeMap::new();
    for id in ids {
        let details = env.details(*id).await;
        assert_eq!(details.history.dropped, 0);
        let mut entries = details.history.entries;
        if matches!(details.record.head.state, State::Processing(_)) {
            assert_eq!(entries.pop().map(|it| it.reason), Some(Reason::Claimed));
        }
        for entry in entries {
            to[entry.state.index()] += 1;
            *reasons.entry(entry.reason).or_default() += 1;
        }
    }
    (to, reasons)
}

/// MON-1, G18: a snapshot equals the jobs' states, by state and by queue.
pub async fn a_snapshot_equals_the_jobs_states(env: Env) {
    let ids = workload(&env).await;
    let snapshot = env.second().await.storage.snapshot(&env.call()).await.expect("reads");
    let mut by_state = [0; 7];
    let mut by_queue: HashMap<Name, [u64; 7]> = HashMap::new();
    let mut parked = 0;
    let mut oldest: HashMap<Name, _> = HashMap::new();
    for id in &ids {
        let record = env.record(*id).await;
        by_state[record.state().index()] += 1;
        by_queue.entry(record.queue.clone()).or_default()[record.state().index()] += 1;
        parked += u64::from(record.parked_at.is_some());
        if record.state() == StateName::Enqueued && record.parked_at.is_none() {
            let rank = (9 - record.priority, record.sequence, record.enqueued_at);
            let first = oldest.entry(record.queue).or_insert(rank);
            *first = rank.min(*first);
        }
    }
    assert_eq!(snapshot.by_state, by_state);
    assert_eq!(snapshot.count(StateName::Processing), by_state[StateName::Processing.index()]);
    assert!(
        by_state.iter().all(|count| *count > 0),
        "the workload fills every state: {by_state:?}"
    );
    assert_eq!((snapshot.parked, snapshot.now, snapshot.servers), (parked, env.now(), 1));
    let names: Vec<_> = snapshot.queues.iter().map(|queue| queue.name.as_str()).collect();
    assert_eq!(names, ["default", "mail"]);
    for queue in &snapshot.queues {
        let states = by_queue[&queue.name];
        assert_eq!(queue.enqueued, states[StateName::Enqueued.index()], "{}", queue.name);
        assert_eq!(queue.processing, states[StateName::Processing.index()], "{}", queue.name);
        assert_eq!(queue.scheduled, states[StateName::Scheduled.index()], "{}", queue.name);
        assert_eq!(queue.pause, None);
        assert_eq!(queue.oldest_at.is_some(), queue.enqueued > 0);
    }
}

/// MON-1, LIM-2: jobs parked at a limit are told, among the Enqueued.
pub async fn a_snapshot_tells_what_is_parked(env: Env) {
    env.add_many((0..5).map(|_| limited("l", 2)).collect()).await;
    let mut server = env.claimer("s").await;
    assert_eq!(server.claim(10).await.len(), 2);
    let snapshot = env.storage.snapshot(&env.call()).await.expect("reads");
    assert_eq!((snapshot.parked, snapshot.count(StateName::Enqueued)), (3, 3));
    assert_eq!((snapshot.queues[0].enqueued, snapshot.queues[0].processing), (3, 2));
}

/// MON-1: queues with a pause or a server alone are listed too.
pub async fn a_snapshot_lists_paused_and_served_queues(env: Env) {
    env.claimer("s").await.queues(&["served"]).announce().await;
    let pause = Pause::new("ada", "why");
    env.storage
        .pause(&env.call(), &PauseTarget::Queue(name("paused")), &pause)
        .await
        .expect("pauses");
    env.add(job_in("busy")).await;
    let snapshot = env.storage.snapshot(&env.call()).await.expect("reads");
    let queues: Vec<_> = snapshot
        .queues
        .iter()
        .map(|queue| (queue.name.as_str(), queue.enqueued, queue.pause.is_some()))
        .collect();
    assert_eq!(queues, [("busy", 1, false), ("paused", 0, true), ("served", 0, false)]);
    assert_eq!(snapshot.queues[0].oldest_at, Some(env.now()));
}

/// MON-2, MON-3, G18: counters equal the transitions that were applied, by state and by reason; series
/// and histograms add up to them.
pub async fn statistics_equal_the_transitions_applied(env: Env) {
    let from = env.now();
    let ids = workload(&env).await;
    let (to, reasons) = told_by_histories(&env, &ids).await;
    let total = counters(&env, Scope::Total).await;
    assert_eq!(total.to, to);
    assert_eq!(total.reasons, reasons);
    let mut lanes = [[0; 7]; 2];
    for (lane, scopes) in [
        [Scope::Kind(name("k")), Scope::Kind(name("x"))],
        [Scope::Queue(name("default")), Scope::Queue(name("mail"))],
    ]
    .into_iter()
    .enumerate()
    {
        for scope in scopes {
            for (sum, count) in lanes[lane].iter_mut().zip(counters(&env, scope).await.to) {
                *sum += count;
            }
        }
    }
    assert_eq!(lanes, [to, to], "kinds and queues add up to the total");
    for step in [Step::Minute, Step::Hour, Step::Day] {
        let query = SeriesQuery { scope: Scope::Total, step, from, to: env.after(1) };
        let points = env.storage.series(&query).await.expect("reads");
        assert!(points.windows(2).all(|pair| pair[0].at < pair[1].at));
        assert!(points.iter().all(|point| step.bucket(point.at) == point.at));
        let mut sum = Tally::default();
        for point in &points {
            assert!(!point.tally.is_empty(), "empty buckets are left out");
            sum.add(&point.tally);
        }
        assert_eq!((sum.to, &sum.reasons), (to, &reasons), "{step:?}");
    }
    let histogram = async |measure| {
        let query = HistogramQuery { scope: Scope::Total, measure, from, to: env.after(1) };
        env.storage.histogram(&query).await.expect("reads")
    };
    let claims = to[StateName::Processing.index()];
    assert_eq!(histogram(Measure::Wait).await.count(), claims);
    let runs = histogram(Measure::Run).await;
    assert!(runs.count() > 0 && runs.count() <= claims);
    assert!(runs.quantile(0.5).is_some_and(|median| median <= Duration::from_millis(65)));
}

/// MON-2, G18: counters never decrease, and a repeated settle is not counted twice; purging removes jobs
/// but no transitions.
pub async fn counters_never_decrease(env: Env) {
    let ids = env.add_many(jobs(3)).await;
    let mut server = env.claimer("s").await;
    let lease = server.claim_one().await.lease;
    for _ in 0..3 {
        server.settle(lease, Ending::Succeeded).await;
    }
    env.delete(ids[1]).await;
    let before = counters(&env, Scope::Total).await;
    assert_eq!(before.to, [0, 0, 3, 1, 1, 0, 1]);
    env.advance(25 * 3600);
    assert_eq!(env.purge().await, 2);
    let after = counters(&env, Scope::Total).await;
    assert_eq!((after.to, after.reasons), (before.to, before.reasons));
    let snapshot = env.storage.snapshot(&env.call()).await.expect("reads");
    assert_eq!(snapshot.by_state, [0, 0, 1, 0, 0, 0, 0]);
    assert!(counters(&env, Scope::Queue(name("none"))).await.is_empty());
}

/// MON-2, MON-3, G18: what many count at the same time adds up.
pub async fn what_many_count_at_once_adds_up(env: Env) {
    let other = env.second().await;
    let mut tasks = Vec::new();
    for i in 0..6 {
        let env = if i % 2 == 0 { env.clone() } else { other.clone() };
        tasks.push(tokio::spawn(async move {
            let queue = format!("q{i}");
            let mut server = env.claimer(&queue).await.queues(&[&queue]);
            for _ in 0..20 {
                env.add(job_in(&queue)).await;
                server.run_one(Ending::Succeeded).await;
                tokio::task::yield_now().await;
            }
        }));
    }
    join(tasks).await;
    assert_eq!(counters(&env, Scope::Total).await.to, [0, 0, 120, 120, 120, 0, 0]);
    assert_eq!(counters(&env, Scope::Kind(name("k"))).await.to, [0, 0, 120, 120, 120, 0, 0]);
    assert_eq!(counters(&env, Scope::Queue(name("q3"))).await.to, [0, 0, 20, 20, 20, 0, 0]);
}

/// MON-2, G18: beyond 200 kinds the rest is counted as one.
pub async fn kinds_beyond_the_bound_are_counted_as_one(env: Env) {
    let kinds = jobkit_core::bounds::STATISTICS_SCOPES + 30;
    env.add_many((0..kinds).map(|i| job_of(&format!("kind-{i}"))).collect()).await;
    let enqueued = StateName::Enqueued.index();
    assert_eq!(counters(&env, Scope::Total).await.to[enqueued], kinds as u64);
    let mut sum = 0;
    for i in 0..kinds {
        sum += counters(&env, Scope::Kind(name(&format!("kind-{i}")))).await.to[enqueued];
    }
    let other = counters(&env, Scope::Kind(name(jobkit_core::bounds::OTHER))).await.to[enqueued];
    assert_eq!((sum, other), (200, 30));
}
