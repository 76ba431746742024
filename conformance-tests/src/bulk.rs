//! Operations on everything that matches, driven by core on any storage.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jobkit_core::bulk::{self, NewBulk, Stepped};
use jobkit_core::search::JobFilter;
use jobkit_core::state::{Reason, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{Action, BulkPlan, BulkRecord, Settle, Storage};
use jobkit_core::testing::{Fault, FaultyStorage};
use jobkit_core::{JobId, OperationId};

use crate::fixtures::*;

/// Jobs that have failed, a moment before now.
async fn failed(env: &Env, count: usize) -> Vec<JobId> {
    let ids = env.add_many(jobs(count)).await;
    let mut server = env.claimer("s").await;
    loop {
        let claimed = server.claim(200).await;
        if claimed.is_empty() {
            return ids;
        }
        let ending = Ending::Failed(Reason::Permanent);
        let settles = claimed.into_iter().map(|job| Settle::new(job.lease, ending));
        server.settle_all(settles.collect()).await;
    }
}

fn retry(filter: &str) -> NewBulk {
    NewBulk {
        filter: filter.parse::<JobFilter>().expect("is a filter"),
        action: Action::Requeue { run_at: None },
        actor: "ada".into(),
        reason: "the provider is back".into(),
        previewed: 0,
        spread: Duration::ZERO,
        as_of: None,
    }
}

async fn begin(env: &Env, new: NewBulk) -> BulkRecord {
    bulk::begin(&*env.storage, new).await.expect("begins")
}

async fn drive(storage: &dyn Storage, id: OperationId) -> BulkRecord {
    bulk::drive(storage, id, |_| {}).await.expect("ends")
}

/// OPS-8, CHG-3, G6: everything that matched is changed once, in bounded steps, and what came later is
/// left alone; the history and the audit name who wanted it.
pub async fn a_bulk_operation_changes_all_that_matched(env: Env) {
    let ids = failed(&env, 450).await;
    let record = begin(&env, retry("state:failed queue:default")).await;
    let later = failed(&env, 0).await;
    assert!(later.is_empty());
    let mut told = Vec::new();
    let ended =
        bulk::drive(&*env.storage, record.id, |record| told.push(record.done)).await.expect("ends");
    assert_eq!((ended.done, ended.skipped, ended.refused), (450, 0, 0));
    assert!(told.len() >= 3 && told.is_sorted(), "in bounded steps: {told:?}");
    for id in &ids {
        let record = env.record(*id).await;
        assert_eq!((record.state(), record.head.run), (StateName::Enqueued, 1));
    }
    let history = env.details(ids[0]).await.history.entries;
    assert_eq!(history.last().and_then(|entry| entry.actor.as_deref()), Some("ada"));
    let audit = env.storage.audit(None, 10).await.expect("reads");
    assert_eq!(audit.len(), 1);
    assert_eq!((audit[0].action.as_str(), audit[0].count), ("retry in bulk", 450));
    assert_eq!(audit[0].reason, "the provider is back");
    assert!(audit[0].outcome.starts_with("450 changed"), "{}", audit[0].outcome);
    let again = bulk::step(&*env.storage, record.id).await.expect("answers");
    assert_eq!(again, Stepped::Ended(ended));
    let unknown = bulk::step(&*env.storage, OperationId::new()).await.expect("answers");
    assert_eq!(unknown, Stepped::Unknown);
}

/// OPS-8: jobs that came into their state after it was begun are left alone, and those that the state
/// machine refuses are counted.
pub async fn a_bulk_operation_leaves_others_alone(env: Env) {
    let early = failed(&env, 20).await;
    let mut new = retry("state:failed,succeeded");
    new.action = Action::Reschedule { run_at: env.after(600) };
    let refused = begin(&env, new).await;
    assert_eq!(drive(&*env.storage, refused.id).await.refused, 20, "they have finished");
    let record = begin(&env, retry("state:failed")).await;
    // As if they had failed later: the operation looks at the instants that the storage gave.
    let moved = BulkRecord {
        as_of: env.now().minus(Duration::from_secs(3600)),
        version: record.version + 1,
        ..record
    };
    assert!(env.storage.save_bulk(&env.call(), &moved).await.expect("saves"));
    let ended = drive(&*env.storage, moved.id).await;
    assert_eq!((ended.done, ended.skipped, ended.refused), (0, 0, 0));
    for id in early {
        assert_eq!(env.state(id).await, StateName::Failed);
    }
}

/// OPS-8: of several that drive one operation each step is done by one, and all is done once.
pub async fn many_drive_one_bulk_operation(env: Env) {
    let ids = failed(&env, 700).await;
    let record = begin(&env, retry("state:failed")).await;
    let tasks = (0..4).map(|i| {
        let env = env.clone();
        tokio::spawn(async move {
            let storage = if i % 2 == 0 { env.storage.clone() } else { env.second().await.storage };
            drive(&*storage, record.id).await
        })
    });
    for ended in join(tasks.collect()).await {
        assert_eq!((ended.done, ended.skipped, ended.refused), (700, 0, 0));
    }
    for id in ids {
        assert_eq!(env.record(id).await.head.run, 1);
    }
}

/// OPS-8, G7: killed between any two calls, also after one whose answer was lost, the next one goes on:
/// every job is changed once and counted once.
pub async fn a_bulk_operation_survives_a_crash_at_any_step(env: Env) {
    let mut crash_at = 0;
    loop {
        let ids = failed(&env, 210).await;
        let record = begin(&env, retry(&ids_filter(&ids))).await;
        let faulty = FaultyStorage::new(env.storage.clone());
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let lost = crash_at % 2 == 1;
        faulty.decide(move |_| {
            let call = counted.fetch_add(1, Ordering::Relaxed);
            match call.cmp(&(crash_at / 2)) {
                std::cmp::Ordering::Less => Fault::None,
                _ if call > crash_at / 2 || !lost => Fault::Before,
                _ => Fault::AnswerLost,
            }
        });
        // The process that drove it is gone with the call that failed.
        let crashed = loop {
            match bulk::step(&faulty, record.id).await {
                Ok(Stepped::Ended(_)) => break false,
                Ok(_) => {}
                Err(_) => break true,
            }
        };
        // Half a minute later.
        if let Some(left) = env.storage.bulk(record.id).await.expect("reads")
            && let Some(plan) = left.plan.clone()
        {
            let at = plan.at.minus(Duration::from_secs(60));
            let plan = Some(BulkPlan { at, ..plan });
            let aged = BulkRecord { plan, version: left.version + 1, ..left };
            assert!(env.storage.save_bulk(&env.call(), &aged).await.expect("saves"));
        }
        let ended = drive(&*env.storage, record.id).await;
        assert_eq!(
            (ended.done, ended.skipped, ended.refused),
            (210, 0, 0),
            "crashed at call {crash_at}"
        );
        for id in &ids {
            assert_eq!(env.record(*id).await.head.run, 1, "crashed at call {crash_at}");
        }
        if !crashed {
            assert!(crash_at > 10, "only {crash_at} calls");
            return;
        }
        let mut server = env.claimer("t").await;
        while server.run_all(Ending::Succeeded).await > 0 {}
        crash_at += 1;
    }
}

fn ids_filter(ids: &[JobId]) -> String {
    let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
    format!("id:{} state:failed", ids.join(","))
}

/// OPS-8: stopped, it ends after its step and says how far it came.
pub async fn a_bulk_operation_is_stopped(env: Env) {
    failed(&env, 450).await;
    let record = begin(&env, retry("state:failed")).await;
    let first = bulk::step(&*env.storage, record.id).await.expect("steps");
    let Stepped::Went(first) = first else { panic!("{first:?}") };
    assert!(bulk::cancel(&*env.storage, record.id).await.expect("stops"));
    assert!(bulk::cancel(&*env.storage, record.id).await.expect("stops"), "again");
    let ended = drive(&*env.storage, record.id).await;
    assert!(ended.cancelled && ended.ended_at.is_some());
    assert_eq!(ended.done, first.done);
    assert!(!bulk::cancel(&*env.storage, record.id).await.expect("answers"), "it has ended");
    assert!(!bulk::cancel(&*env.storage, OperationId::new()).await.expect("answers"));
    let snapshot = env.storage.snapshot(&env.call()).await.expect("reads");
    assert_eq!(snapshot.count(StateName::Enqueued), first.done);
}

/// OPS-8: a retry is spread evenly over the time named.
pub async fn a_bulk_retry_is_spread(env: Env) {
    let ids = failed(&env, 100).await;
    let mut new = retry("state:failed");
    (new.previewed, new.spread) = (100, Duration::from_secs(3600));
    let record = begin(&env, new).await;
    let ended = drive(&*env.storage, record.id).await;
    assert_eq!(ended.done, 100);
    let mut instants = Vec::new();
    for id in ids {
        let record = env.record(id).await;
        instants.push(record.run_at().unwrap_or(record.head.entered_at));
    }
    instants.sort_unstable();
    let (first, last) = (instants[0], instants[99]);
    assert!(last.since(first) > Duration::from_secs(3400), "{first} to {last}");
    let half = instants.iter().filter(|at| at.since(record.as_of) < Duration::from_secs(1800));
    assert!((40..=60).contains(&half.count()));
}
