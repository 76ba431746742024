//! The engine on a storage far away, in virtual time: how long calls take is the storage's, how many there
//! are is the engine's.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jobkit_core::batch::BatchState;
use jobkit_core::ids::IdSourceGuard;
use jobkit_core::state::{Keep, Retention, StateName};
use jobkit_core::storage::{
    Action, BatchStore, Call, ClaimHint, JobStore, Monitoring, SettleAnswer, StepRequest, Support,
    WakeUpReach,
};
use jobkit_core::testing::{Answer, Fault, FaultyStorage, ObservedCall, Observer, Pace};
use jobkit_core::{
    Batch, Client, ErrorKind, Job, Jobs, MemoryStorage, NewJob, Recurring, RetryPolicy, Server,
    ServerBuilder, ServerHandle, ServerOptions, bulk, transfer,
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::clocks::Wrong;
use crate::support::{Act, Shared, jobs, script};

#[derive(Serialize, Deserialize)]
struct Nothing {}

impl Job for Nothing {
    const KIND: &'static str = "nothing";
    type Output = ();
}

#[derive(Serialize, Deserialize)]
struct Other {
    n: u32,
}

impl Job for Other {
    const KIND: &'static str = "other";
    type Output = ();
}

/// Writes a line and goes on for a while.
#[derive(Serialize, Deserialize)]
struct Tells {}

impl Job for Tells {
    const KIND: &'static str = "tells";
    type Output = ();
}

/// A storage whose clock is that of the test.
fn virtual_time() -> (MemoryStorage, IdSourceGuard) {
    let clock = Wrong::new();
    clock.storage(&clock)
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}

fn us(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

fn far(storage: &MemoryStorage, call: Duration, item: Duration) -> FaultyStorage {
    let far = FaultyStorage::new(Arc::new(storage.clone()));
    far.pace(Pace { call, item });
    far
}

async fn serve(storage: &FaultyStorage) -> ServerHandle {
    let jobs = Jobs::new().handle(|_: Nothing, _| async { Ok::<_, jobkit_core::Failure>(()) });
    let server = Server::builder(storage.clone()).jobs(jobs).workers(20);
    server.build().unwrap().start().await.unwrap()
}

/// How a drain went, once it was under way.
struct Drained {
    per_second: f64,
    per_claim: f64,
}

async fn drain(jobs: usize, far: impl FnOnce(&MemoryStorage) -> FaultyStorage) -> Drained {
    let storage = MemoryStorage::new();
    let near = Client::new(storage.clone());
    near.enqueue_many((0..jobs).map(|_| NewJob::new(Nothing {}))).await.unwrap();
    let far = far(&storage);
    let server = serve(&far).await;
    // A server that has run nothing yet does not know how much to claim.
    let measured = jobs - jobs / 10;
    until_succeeded(&storage, jobs - measured).await;
    let claims = || far.calls("claim") + far.calls("settle_and_claim");
    let (began, before) = (Instant::now(), claims());
    until_succeeded(&storage, jobs).await;
    let (took, claims) = (began.elapsed().as_secs_f64(), claims() - before);
    server.shutdown().await.unwrap();
    let (jobs, claims) = (number(measured), number(claims));
    Drained { per_second: jobs / took, per_claim: jobs / claims }
}

async fn until_succeeded(storage: &MemoryStorage, jobs: usize) {
    loop {
        let counts = storage.snapshot(&Call::default()).await.unwrap();
        if counts.count(StateName::Succeeded) >= jobs as u64 {
            return;
        }
        tokio::time::sleep(ms(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn flights_are_full_however_far_the_storage_is() {
    let none = Duration::ZERO;
    for (call, item) in [(us(100), us(15)), (ms(1), none), (ms(4), none), (ms(8), none)] {
        let drained = drain(20_000, |storage| far(storage, call, item)).await;
        let mean = drained.per_claim;
        assert!(mean >= 250.0, "{call:?} a call, {item:?} an item: {mean:.0} jobs a claim");
    }
}

#[tokio::test(start_paused = true)]
async fn a_storage_far_away_is_kept_busy() {
    let drained = drain(40_000, |storage| far(storage, ms(8), us(60))).await;
    // Full flights of 300 would be 11,538.
    assert!(drained.per_second >= 11_500.0, "{:.0} jobs/s", drained.per_second);
}

#[tokio::test(start_paused = true)]
async fn a_storage_with_two_calls_for_both_is_as_fast() {
    let mut calls = None;
    let drained = drain(40_000, |storage| {
        let far = far(storage, ms(8), us(60));
        let far = far.with_capabilities(|it| it.settle_and_claim = Support::No);
        calls = Some(far.clone());
        far
    })
    .await;
    // One after the other they would be half as many.
    assert!(drained.per_second >= 11_300.0, "{:.0} jobs/s", drained.per_second);
    let calls = calls.unwrap();
    assert_eq!(calls.calls("settle_and_claim"), 0);
    assert!(calls.calls("settle") >= 130 && calls.calls("claim") >= 130);
}

#[tokio::test(start_paused = true)]
async fn what_a_settle_releases_is_claimed_at_once_though_the_claim_flew_beside_it() {
    let (storage, _ids) = virtual_time();
    let far = far(&storage, ms(5), Duration::ZERO).with_capabilities(|it| {
        it.settle_and_claim = Support::No;
        it.wake_ups = WakeUpReach::None;
    });
    let client = Client::new(storage.clone());
    // Each is released by the end of the one before it.
    let mut chain = vec![NewJob::new(Nothing {})];
    for _ in 0..20 {
        let next = NewJob::new(Nothing {}).after(&chain[chain.len() - 1]);
        chain.push(next);
    }
    let (began, jobs) = (Instant::now(), chain.len());
    client.enqueue(chain).await.unwrap();
    let server = serve(&far).await;
    until_succeeded(&storage, jobs).await;
    assert!(began.elapsed() < ms(jobs as u64 * 20), "{:?}", began.elapsed());
    server.shutdown().await.unwrap();
}

/// Before there were calls beside each other it took 100 ms: a hundred calls, one after the other.
#[tokio::test(start_paused = true)]
async fn many_jobs_are_enqueued_by_calls_beside_each_other() {
    let storage = MemoryStorage::new();
    let far = far(&storage, ms(1), Duration::ZERO);
    let client = Client::new(far.clone());
    let began = Instant::now();
    let report = client.enqueue_many((0..100_000).map(|_| NewJob::new(Nothing {}))).await.unwrap();
    assert_eq!((report.stored, report.refused.len()), (100_000, 0));
    assert_eq!(far.calls("submit"), 200);
    assert!(began.elapsed() <= ms(50), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn one_refused_job_of_a_thousand_costs_one_item() {
    let storage = MemoryStorage::new();
    let far = far(&storage, ms(1), Duration::ZERO);
    let client = Client::new(far.clone());
    // Another job has its id.
    client.enqueue(NewJob::new(Other { n: 0 }).idempotency_key("taken")).await.unwrap();
    let before = far.calls("submit");
    let jobs = (0..1_000).map(|n| match n {
        700 => NewJob::new(Other { n }).idempotency_key("taken"),
        _ => NewJob::new(Other { n }),
    });
    let report = client.enqueue_many(jobs).await.unwrap();
    assert_eq!(report.stored, 999);
    let [(700, error)] = &report.refused[..] else { panic!("{:?}", report.refused) };
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(far.calls("submit") - before, 2, "of 500 each");
}

#[tokio::test(start_paused = true)]
async fn a_job_that_a_call_fails_for_is_found_by_halves() {
    let storage = MemoryStorage::new();
    let far = far(&storage, ms(1), Duration::ZERO);
    let client = Client::new(far.clone());
    far.fail_next("submit", Fault::Broken);
    far.fail_next("submit", Fault::AnswerLost);
    let report = client.enqueue_many((0..500).map(|_| NewJob::new(Nothing {}))).await.unwrap();
    assert_eq!((report.stored, report.refused.len()), (500, 0));
    // All, one half twice since its answer was lost, and the other.
    assert_eq!(far.calls("submit"), 4);
    assert_eq!(storage.snapshot(&Call::default()).await.unwrap().count(StateName::Enqueued), 500);
}

#[tokio::test(start_paused = true)]
async fn many_jobs_may_wait_for_those_before_them() {
    let storage = MemoryStorage::new();
    let far = far(&storage, ms(1), Duration::ZERO);
    let client = Client::new(far.clone());
    let parents: Vec<_> = (0..1_000).map(|_| NewJob::new(Nothing {})).collect();
    // In another call, which is still on its way when theirs is ready; and in their own.
    let mut jobs = parents.clone();
    jobs.extend(parents.iter().skip(600).map(|parent| NewJob::new(Nothing {}).after(parent)));
    let last = NewJob::new(Nothing {}).after(&jobs[jobs.len() - 1]);
    jobs.push(last);
    let report = client.enqueue_many(jobs).await.unwrap();
    assert_eq!((report.stored, report.refused.len()), (1_401, 0));
    assert_eq!(storage.snapshot(&Call::default()).await.unwrap().count(StateName::Awaiting), 401);
}

#[tokio::test(start_paused = true)]
async fn a_large_batch_is_filled_by_calls_beside_each_other() {
    let storage = MemoryStorage::new();
    let far = far(&storage, ms(10), Duration::ZERO);
    let client = Client::new(far.clone());
    let first = NewJob::new(Nothing {});
    let members: Vec<_> = (0..12_000).map(|_| NewJob::new(Nothing {})).collect();
    // A member may wait for one that is named after it.
    let batch = Batch::new("large").job(NewJob::new(Nothing {}).after(&first)).jobs(members);
    let began = Instant::now();
    let batch = client.enqueue(batch.job(first)).await.unwrap();
    // One to open it, 24 calls of 500 and one more by sixes, one with whom the others wait for, a start.
    assert!(began.elapsed() <= ms(80), "{:?}", began.elapsed());
    let record = batch.status().await.unwrap().unwrap();
    assert_eq!(record.counts.total, 12_002);
    // What a start does not reach in its step is left to sweeps.
    while storage.sweep(&Call::default(), StepRequest::default()).await.unwrap().more {}
    let snapshot = storage.snapshot(&Call::default()).await.unwrap();
    let counts = (snapshot.count(StateName::Enqueued), snapshot.count(StateName::Awaiting));
    assert_eq!(counts, (12_001, 1));
}

#[tokio::test(start_paused = true)]
async fn a_batch_with_a_member_that_is_refused_is_cancelled() {
    let storage = MemoryStorage::new();
    let far = far(&storage, ms(10), Duration::ZERO);
    let client = Client::new(far.clone());
    client.enqueue(NewJob::new(Other { n: 0 }).idempotency_key("taken")).await.unwrap();
    let members = (1..5_000).map(|n| match n {
        900 => NewJob::new(Other { n }).idempotency_key("taken"),
        _ => NewJob::new(Other { n }),
    });
    let batch = Batch::new("half").jobs(members);
    let id = batch.id();
    let error = client.enqueue(batch).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    let record = storage.batch(id).await.unwrap().unwrap();
    assert_eq!(record.state(), BatchState::Cancelled);
    while storage.sweep(&Call::default(), StepRequest::default()).await.unwrap().more {}
    assert_eq!(storage.snapshot(&Call::default()).await.unwrap().count(StateName::Awaiting), 0);
}

#[tokio::test(start_paused = true)]
async fn arguments_that_the_storage_cannot_keep_are_refused_early() {
    let storage = MemoryStorage::new();
    let far = FaultyStorage::new(Arc::new(storage.clone()));
    let far = far.with_capabilities(|it| it.max_payload_bytes = 100);
    let client = Client::new(far.clone());
    let large = || script("x".repeat(100).as_str(), Act::Return(1));
    let small = || script("x", Act::Return(1));
    let check = |error: jobkit_core::Error| {
        assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidInput, Some("args")));
        assert!(error.to_string().contains("where this storage keeps at most 100"), "{error}");
    };
    check(client.enqueue(large()).await.unwrap_err());
    check(client.enqueue((small(), large())).await.unwrap_err());
    check(client.enqueue(Batch::new("b").job(large())).await.unwrap_err());
    let every = Recurring::every("r", Duration::from_secs(60)).job(large());
    check(client.save_recurring(every).await.unwrap_err());
    assert_eq!((far.calls("submit"), far.calls("save_recurring")), (0, 0));
    let report = client.enqueue_many([small(), large(), small()]).await.unwrap();
    assert_eq!((report.stored, report.refused.len(), report.refused[0].0), (2, 1, 1));
}

/// Whatever is done, no call carries more than the storage takes well.
#[tokio::test(start_paused = true)]
async fn every_path_keeps_the_items_of_a_step() {
    let (storage, _ids) = virtual_time();
    let far = far(&storage, ms(1), Duration::ZERO).with_capabilities(|it| it.step_items = 100);
    let client = Client::new(far.clone());
    // In calls of many callers, in one call of many jobs, in a batch, and due later.
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..350 {
        let client = client.clone();
        callers.spawn(async move {
            client.enqueue(script(&n.to_string(), Act::Return(1))).await.unwrap().id()
        });
    }
    let ids: Vec<_> = callers.join_all().await;
    client.enqueue_many((0..350).map(|_| NewJob::new(Tells {}))).await.unwrap();
    client
        .enqueue_many((0..350).map(|_| script("late", Act::Permanent).delay(ms(500))))
        .await
        .unwrap();
    let batch = Batch::new("many").jobs((0..1_200).map(|_| script("member", Act::Return(1))));
    client.enqueue(batch).await.unwrap();
    let schedules = (0..250).map(|n| {
        let every = Recurring::every(format!("r{n}"), Duration::from_secs(40));
        every.job(script("due", Act::Return(1)))
    });
    let handlers = jobs(&Shared::default()).handle(|_: Tells, context| async move {
        context.info("a line");
        tokio::time::sleep(Duration::from_secs(3)).await;
        Ok::<_, jobkit_core::Failure>(())
    });
    let options = ServerOptions::default().workers(800).lease(Duration::from_secs(3));
    let server =
        schedules.fold(Server::builder(far.clone()).jobs(handlers), ServerBuilder::recurring);
    let server = server.options(
        options.retention(Retention { succeeded: Keep::For(ms(100)), ..Retention::default() }),
    );
    let server = server.build().unwrap().start().await.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(storage.snapshot(&Call::default()).await.unwrap().count(StateName::Failed) >= 350);
    let operator = client.operator("op");
    let retried = bulk::drive(
        &far,
        operator
            .begin_bulk(
                "state:failed".parse().unwrap(),
                Action::Requeue { run_at: None },
                350,
                Duration::ZERO,
            )
            .await
            .unwrap()
            .id,
        |_| {},
    );
    assert_eq!(retried.await.unwrap().done, 350);
    operator.change(&ids[..250], Action::Requeue { run_at: None }).await.unwrap();
    tokio::time::sleep(Duration::from_secs(50)).await;
    server.shutdown().await.unwrap();
    let copy = FaultyStorage::new(Arc::new(MemoryStorage::new()));
    let options = transfer::Options::default().force(true);
    transfer::copy(&far, &copy, options, |_| {}).await.unwrap();
    let all = far.all_largest();
    assert!(all.values().all(|items| *items <= 100), "{all:?}");
    assert!(copy.all_largest().values().all(|items| *items <= 100), "{:?}", copy.all_largest());
    let full = [
        "change_state",
        "claim",
        "export",
        "promote_due",
        "purge_expired",
        "renew",
        "rescue_expired",
        "save_recurring",
        "settle_and_claim",
        "submit",
        "sweep",
        "write_log",
    ];
    for method in full {
        assert_eq!(all.get(method), Some(&100), "{method}: {all:?}");
    }
}

/// Looks at which notes claims carry beside what was settled before.
#[derive(Default)]
struct Notes {
    enqueued: bool,
    carried: usize,
    dropped: usize,
}

struct Watch(Arc<Mutex<Notes>>);

impl Observer for Watch {
    fn applied(&self, call: &ObservedCall<'_>) {
        let (answers, claim) = match call {
            ObservedCall::Claim(claim, _) => (&[][..], claim),
            ObservedCall::SettleAndClaim(_, answers, claim, _) => (*answers, claim),
            _ => return,
        };
        let mut notes = self.0.lock().unwrap();
        let enqueues = answers.contains(&SettleAnswer::Settled(StateName::Enqueued));
        match claim.hint.is_some() {
            true => {
                notes.carried += 1;
                assert!(!enqueues, "its place may lie before what the note skips");
                assert!(!notes.enqueued, "the note is older than what was settled");
            }
            false => notes.dropped += 1,
        }
        notes.enqueued = enqueues;
    }
}

#[tokio::test(start_paused = true)]
async fn a_note_is_dropped_when_a_settle_puts_a_job_back() {
    let storage = MemoryStorage::new();
    let far = far(&storage, ms(1), Duration::ZERO);
    far.alter(|answer| {
        if let Answer::Claim(claimed) = answer {
            claimed.hint = Some(ClaimHint(vec![1]));
        }
    });
    let notes = Arc::new(Mutex::new(Notes::default()));
    far.observe(Arc::new(Watch(Arc::clone(&notes))));
    let client = Client::new(storage.clone());
    let once = RetryPolicy::fixed(Duration::ZERO).max_attempts(3);
    let job = |n| match n % 997 {
        500 => script("fails", Act::FailTimes(1)).retry(once.clone()),
        _ => script("works", Act::Return(1)),
    };
    client.enqueue_many((0..10_000).map(job)).await.unwrap();
    let server = Server::builder(far.clone()).jobs(jobs(&Shared::default())).workers(20);
    let server = server.build().unwrap().start().await.unwrap();
    until_succeeded(&storage, 10_000).await;
    server.shutdown().await.unwrap();
    let notes = notes.lock().unwrap();
    assert!(notes.carried > 10, "{} carried one", notes.carried);
    assert!(notes.dropped >= 10, "{} carried none", notes.dropped);
}

fn claims(storage: &FaultyStorage) -> usize {
    storage.calls("claim") + storage.calls("settle_and_claim")
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_made_again_when_the_storage_says() {
    let (storage, _ids) = virtual_time();
    let far = far(&storage, ms(1), Duration::ZERO)
        .with_capabilities(|it| it.wake_ups = WakeUpReach::None);
    // Others hold something, for the first three claims.
    let mut left = 3;
    far.alter(move |answer| {
        if let Answer::Claim(claimed) = answer
            && claimed.jobs.is_empty()
        {
            claimed.again_in = (left > 0).then_some(ms(50));
            left = std::cmp::max(left, 1) - 1;
        }
    });
    let hour = Duration::from_secs(3600);
    let jobs = jobs(&Shared::default());
    let options = ServerOptions::default().poll_interval(hour, hour);
    let server = Server::builder(far.clone()).jobs(jobs).options(options);
    let server = server.build().unwrap().start().await.unwrap();
    tokio::time::sleep(ms(40)).await;
    assert_eq!(claims(&far), 1, "not before");
    Client::new(storage.clone()).enqueue(script("held", Act::Return(1))).await.unwrap();
    tokio::time::sleep(ms(60)).await;
    assert_eq!(storage.snapshot(&Call::default()).await.unwrap().count(StateName::Succeeded), 1);
    tokio::time::sleep(Duration::from_secs(60)).await;
    // Each in vain is followed by a longer pause, and what says nothing by the usual one.
    assert!((3..=6).contains(&claims(&far)), "{} claims", claims(&far));
    server.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_due_and_cannot_be_promoted_makes_nobody_spin() {
    let (storage, _ids) = virtual_time();
    let far = far(&storage, ms(1), Duration::ZERO)
        .with_capabilities(|it| it.wake_ups = WakeUpReach::None);
    far.decide(|method| if method == "promote_due" { Fault::Before } else { Fault::None });
    let server = serve(&far).await;
    let client = Client::new(storage.clone());
    client.enqueue(NewJob::new(Nothing {}).delay(ms(500))).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = claims(&far);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let made = claims(&far) - before;
    assert!(made <= 60, "{made} claims a minute");
    far.heal();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(storage.snapshot(&Call::default()).await.unwrap().count(StateName::Succeeded), 1);
    server.shutdown().await.unwrap();
}

/// Calls a second of a server that has nothing to do, each method's.
async fn idle(reach: WakeUpReach) -> (f64, BTreeMap<&'static str, f64>) {
    const LENGTH: u32 = 1_200;
    let (storage, _ids) = virtual_time();
    let far = far(&storage, ms(1), Duration::ZERO).with_capabilities(|it| it.wake_ups = reach);
    let server = serve(&far).await;
    Client::new(far.clone()).enqueue(NewJob::new(Nothing {})).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let before = far.each_calls();
    tokio::time::sleep(Duration::from_secs(LENGTH.into())).await;
    let after = far.each_calls();
    let calls = |(method, calls): (&&'static str, &usize)| {
        let calls = calls - before.get(method).unwrap_or(&0);
        (*method, number(calls) / f64::from(LENGTH))
    };
    let each: BTreeMap<_, _> = after.iter().map(calls).collect();
    server.shutdown().await.unwrap();
    (each.values().sum(), each)
}

#[tokio::test(start_paused = true)]
async fn an_idle_server_makes_few_calls() {
    let (told, each) = idle(WakeUpReach::All).await;
    assert!(told <= 0.6, "{told:.3} calls/s: {each:?}");
    // 0.86 where the scheduler asked what is due as often as the dispatcher claims.
    let (polls, each) = idle(WakeUpReach::None).await;
    assert!(polls <= 0.7, "{polls:.3} calls/s: {each:?}");
    assert!(each["promote_due"] <= 0.02, "{each:?}");
}

#[tokio::test(start_paused = true)]
async fn what_another_process_schedules_is_found_by_claims() {
    let (storage, _ids) = virtual_time();
    let far = far(&storage, ms(1), Duration::ZERO)
        .with_capabilities(|it| it.wake_ups = WakeUpReach::None);
    let server = serve(&far).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let client = Client::new(storage.clone());
    for delay in [20, 8, 1] {
        let began = Instant::now();
        client.enqueue(NewJob::new(Nothing {}).delay(Duration::from_secs(delay))).await.unwrap();
        let before = storage.snapshot(&Call::default()).await.unwrap().count(StateName::Succeeded);
        until_succeeded(&storage, usize::try_from(before).unwrap() + 1).await;
        // At its instant, where a poll came before it; else at the next poll.
        let late = began.elapsed().saturating_sub(Duration::from_secs(delay));
        let most = if delay > 6 { ms(50) } else { Duration::from_secs(6) };
        assert!(late <= most, "{delay} s: {late:?} late");
    }
    server.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_sweep_that_finds_only_what_others_hold_does_not_spin() {
    let (storage, _ids) = virtual_time();
    let far = far(&storage, ms(1), Duration::ZERO);
    let held = Arc::new(AtomicBool::new(true));
    let still = Arc::clone(&held);
    far.alter(move |answer| {
        if let Answer::Sweep(step) = answer
            && still.load(Ordering::SeqCst)
        {
            (step.done, step.more) = (0, true);
        }
    });
    let server = serve(&far).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = far.calls("sweep");
    tokio::time::sleep(Duration::from_secs(60)).await;
    let swept = far.calls("sweep") - before;
    assert!((60..=300).contains(&swept), "{swept} sweeps a minute");
    held.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = far.calls("sweep");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(far.calls("sweep") - before <= 3, "it is as idle as before");
    server.shutdown().await.unwrap();
}
