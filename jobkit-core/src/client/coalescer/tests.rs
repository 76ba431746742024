//! How callers share round trips, also across runtimes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use super::*;

struct Doubling {
    gate: Semaphore,
    begun: AtomicUsize,
    ended: AtomicUsize,
}

#[async_trait]
impl BatchCall for Doubling {
    type Request = u32;
    type Answer = u32;

    async fn send(&self, requests: &[u32]) -> Result<Vec<u32>> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.gate.acquire().await.expect("open").forget();
        self.ended.fetch_add(1, Ordering::SeqCst);
        if requests.contains(&13) {
            return Err(Error::invalid("number", "is unlucky"));
        }
        assert!(!requests.contains(&666), "the storage panics at this one");
        Ok(requests.iter().map(|n| n * 2).collect())
    }

    fn size(&self, _: &u32) -> Size {
        Size { requests: 1, items: 1, bytes: 4 }
    }

    fn max(&self) -> Size {
        Size { requests: 100, items: 100, bytes: 400 }
    }
}

fn doubling(permits: usize) -> Arc<Coalescer<Doubling>> {
    Arc::new(Coalescer::new(Doubling {
        gate: Semaphore::new(permits),
        begun: AtomicUsize::new(0),
        ended: AtomicUsize::new(0),
    }))
}

/// When a caller gives up: not in these tests.
fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

type Called = tokio::task::JoinHandle<Result<u32>>;

fn call(coalescer: &Arc<Coalescer<Doubling>>, n: u32) -> Called {
    let coalescer = Arc::clone(coalescer);
    tokio::spawn(async move { coalescer.request(n, later()).await })
}

/// Lets every other task run until it waits, and gives how many calls have begun.
async fn begun(coalescer: &Coalescer<Doubling>) -> usize {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    coalescer.0.call.begun.load(Ordering::SeqCst)
}

async fn answered(callers: Vec<Called>) {
    for (n, caller) in callers.into_iter().enumerate() {
        let answer = caller.await.expect("joins").expect("answers");
        assert_eq!(answer as usize, (n + 100) * 2);
    }
}

#[tokio::test]
async fn what_arrives_during_a_call_leaves_together() {
    let coalescer = doubling(0);
    let mut callers = vec![call(&coalescer, 100)];
    assert_eq!(begun(&coalescer).await, 1);
    callers.extend((101..150).map(|n| call(&coalescer, n)));
    assert_eq!(begun(&coalescer).await, 2);
    coalescer.0.call.gate.add_permits(2);
    answered(callers).await;
    assert_eq!(coalescer.0.call.ended.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn as_many_as_are_out_leave_beside_them_but_no_third_call() {
    let coalescer = doubling(0);
    let mut callers = vec![call(&coalescer, 100)];
    assert_eq!(begun(&coalescer).await, 1);
    callers.push(call(&coalescer, 101));
    assert_eq!(begun(&coalescer).await, 2, "one is out, one leaves beside it");
    callers.extend((102..112).map(|n| call(&coalescer, n)));
    assert_eq!(begun(&coalescer).await, 2, "two are out");
    coalescer.0.call.gate.add_permits(1);
    assert_eq!(begun(&coalescer).await, 3, "ten leave when one has landed");
    callers.extend((112..121).map(|n| call(&coalescer, n)));
    coalescer.0.call.gate.add_permits(1);
    assert_eq!(begun(&coalescer).await, 3, "ten are out, nine wait");
    callers.push(call(&coalescer, 121));
    assert_eq!(begun(&coalescer).await, 4, "ten leave beside ten");
    coalescer.0.call.gate.add_permits(2);
    answered(callers).await;
    assert_eq!(coalescer.0.call.ended.load(Ordering::SeqCst), 4);
    assert_eq!(coalescer.0.queue().in_flight.len(), 0);
}

fn one_thread() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
}

#[test]
fn a_runtime_that_ends_leaves_the_way_free() {
    let coalescer = doubling(0);
    let first = one_thread();
    // Two calls are in flight and wait at the gate, and a third caller waits for one of them.
    first.block_on(async {
        for (n, begun_by_now) in [(100, 1), (101, 2), (102, 2)] {
            drop(call(&coalescer, n));
            assert_eq!(begun(&coalescer).await, begun_by_now);
        }
    });
    assert_eq!(coalescer.0.queue().waiting.len(), 1);
    drop(first);
    coalescer.0.call.gate.add_permits(1);
    let answer = one_thread().block_on(coalescer.request(101, later()));
    assert_eq!(answer.expect("answers"), 202);
    assert_eq!(coalescer.0.queue().in_flight.len(), 0);
}

/// Calls from a thread and a runtime of its own.
fn call_elsewhere(coalescer: &Arc<Coalescer<Doubling>>, n: u32) -> mpsc::Receiver<Result<u32>> {
    let (answer, answered) = mpsc::channel();
    let coalescer = Arc::clone(coalescer);
    std::thread::spawn(move || {
        drop(answer.send(one_thread().block_on(coalescer.request(n, later()))));
    });
    answered
}

fn await_begun(coalescer: &Coalescer<Doubling>, wanted: usize) {
    let give_up_at = Instant::now() + Duration::from_secs(30);
    while coalescer.0.call.begun.load(Ordering::SeqCst) < wanted {
        assert!(Instant::now() < give_up_at, "{wanted} calls do not begin");
        std::thread::yield_now();
    }
}

fn in_time(answered: &mpsc::Receiver<Result<u32>>) -> Result<u32> {
    answered.recv_timeout(Duration::from_secs(10)).expect("an answer in time")
}

#[test]
fn a_runtime_that_ends_first_takes_no_answer_with_it() {
    let coalescer = doubling(0);
    let lone = call_elsewhere(&coalescer, 100);
    await_begun(&coalescer, 1);
    let guest = one_thread();
    guest.block_on(async {
        drop(call(&coalescer, 101));
        assert_eq!(begun(&coalescer).await, 2);
    });
    drop(guest);
    coalescer.0.call.gate.add_permits(2);
    assert_eq!(in_time(&lone).expect("answers"), 200);
    assert_eq!(in_time(&call_elsewhere(&coalescer, 102)).expect("answers"), 204);
}

#[test]
#[allow(clippy::async_yields_async, reason = "the handle is awaited on another runtime")]
fn callers_of_a_call_that_was_dropped_may_repeat_it() {
    let coalescer = doubling(0);
    let (dying, living) = (one_thread(), one_thread());
    // Two callers of two runtimes share the second call; it is polled on the runtime of the first.
    dying.block_on(async {
        drop(call(&coalescer, 100));
        assert_eq!(begun(&coalescer).await, 1);
        drop(call(&coalescer, 101));
        assert_eq!(begun(&coalescer).await, 2);
        drop(call(&coalescer, 102));
        assert_eq!(begun(&coalescer).await, 2);
    });
    let shared = living.block_on(async {
        let shared = call(&coalescer, 103);
        assert_eq!(begun(&coalescer).await, 2);
        coalescer.0.call.gate.add_permits(1);
        shared
    });
    // The first call ends, and the next one leaves with both.
    dying.block_on(async { assert_eq!(begun(&coalescer).await, 3) });
    drop(dying);
    let error = living.block_on(shared).expect("joins").expect_err("it was dropped");
    assert!(
        error.is_retryable() && error.applied() == crate::model::error::Applied::Unknown,
        "{error:?}"
    );
    coalescer.0.call.gate.add_permits(1);
    let again = living.block_on(coalescer.request(103, later()));
    assert_eq!(again.expect("answers"), 206);
}

#[test]
#[allow(clippy::async_yields_async, reason = "the handle is awaited on another runtime")]
fn a_runtime_that_stands_still_holds_up_nobody() {
    let coalescer = doubling(0);
    let still = one_thread();
    // Its tasks have begun two calls, and are polled no more.
    let left = still.block_on(async {
        let left = call(&coalescer, 100);
        assert_eq!(begun(&coalescer).await, 1);
        drop(call(&coalescer, 101));
        assert_eq!(begun(&coalescer).await, 2);
        left
    });
    let others: Vec<_> = (102..110).map(|n| call_elsewhere(&coalescer, n)).collect();
    coalescer.0.call.gate.add_permits(1000);
    for (n, other) in (102..).zip(&others) {
        assert_eq!(in_time(other).expect("answers"), n * 2);
    }
    assert_eq!(still.block_on(left).expect("joins").expect("answers"), 200);
}

#[tokio::test]
async fn whoever_polls_a_slow_call_as_well_ends_with_it() {
    for _ in 0..20 {
        let coalescer = doubling(0);
        let mut callers = vec![call(&coalescer, 100)];
        assert_eq!(begun(&coalescer).await, 1);
        let in_flight = coalescer.0.queue().in_flight.clone();
        let runtime = Handle::current();
        for _ in 0..3 {
            Driver::new(&coalescer.0, Arc::clone(&in_flight[0])).spawn_on(&runtime);
        }
        callers.push(call(&coalescer, 101));
        begun(&coalescer).await;
        coalescer.0.call.gate.add_permits(2);
        answered(callers).await;
        begun(&coalescer).await;
        assert_eq!(Arc::strong_count(&in_flight[0]), 1, "no task holds it any more");
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_gives_up_in_time_and_says_whether_it_was_sent() {
    let coalescer = doubling(0);
    let soon = Instant::now() + Duration::from_secs(2);
    let mut callers: Vec<_> = Vec::new();
    for (n, begun_by_now) in [(100, 1), (101, 2), (102, 2)] {
        let mut caller = Box::pin(coalescer.request(n, soon));
        assert!(futures_util::poll!(caller.as_mut()).is_pending());
        callers.push(caller);
        assert_eq!(begun(&coalescer).await, begun_by_now);
    }
    let answers = futures_util::future::join_all(callers).await;
    assert!(soon.elapsed() < Duration::from_millis(100));
    let sent = answers.into_iter().map(|answer| {
        let error = answer.expect_err("no answer");
        assert_eq!(error.kind(), ErrorKind::Timeout);
        error.applied() == crate::model::error::Applied::Unknown
    });
    assert_eq!(sent.collect::<Vec<_>>(), [true, true, false]);
}

#[tokio::test(start_paused = true)]
async fn a_call_without_an_answer_holds_up_those_behind_it_for_a_while_only() {
    let coalescer = doubling(0);
    let first = call(&coalescer, 100);
    assert_eq!(begun(&coalescer).await, 1);
    let second = call(&coalescer, 101);
    assert_eq!(begun(&coalescer).await, 2);
    let third = call(&coalescer, 102);
    let error = first.await.expect("joins").expect_err("no answer");
    assert!(error.is_retryable(), "{error:?}");
    second.await.expect("joins").expect_err("no answer");
    coalescer.0.call.gate.add_permits(1);
    assert_eq!(third.await.expect("joins").expect("answers"), 204);
}

#[test]
fn without_a_runtime_the_error_says_what_is_missing() {
    let coalescer = doubling(1);
    let answer = futures_util::FutureExt::now_or_never(coalescer.request(100, later()));
    let error = answer.expect("at once").expect_err("no runtime");
    assert_eq!(error.kind(), ErrorKind::Configuration);
}

#[tokio::test]
async fn a_call_goes_on_when_its_caller_is_gone() {
    let coalescer = doubling(0);
    let first = call(&coalescer, 100);
    assert_eq!(begun(&coalescer).await, 1);
    let second = call(&coalescer, 101);
    assert_eq!(begun(&coalescer).await, 2);
    first.abort();
    assert!(first.await.expect_err("aborted").is_cancelled());
    coalescer.0.call.gate.add_permits(2);
    assert_eq!(second.await.expect("joins").expect("answers"), 202);
    assert_eq!(coalescer.0.call.ended.load(Ordering::SeqCst), 2, "the first one ended too");
    assert_eq!(coalescer.0.queue().in_flight.len(), 0);
}

/// Counts how often a task is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_lone_caller_is_woken_once_for_its_answer() {
    let coalescer = doubling(0);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    let mut lone = Box::pin(coalescer.request(100, later()));
    assert!(lone.as_mut().poll(&mut context).is_pending());
    coalescer.0.call.gate.add_permits(1);
    assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    let Poll::Ready(answer) = lone.as_mut().poll(&mut context) else { panic!("no answer") };
    assert_eq!(answer.expect("answers"), 200);
    assert_eq!(woken.0.load(Ordering::SeqCst), 1, "not for what it has found itself");
}

#[tokio::test]
async fn a_caller_that_does_not_poll_holds_up_nobody() {
    let coalescer = doubling(0);
    let held = coalescer.request(100, later());
    tokio::pin!(held);
    assert!(futures_util::poll!(held.as_mut()).is_pending());
    let other = tokio::spawn({
        let coalescer = Arc::clone(&coalescer);
        async move { coalescer.request(101, later()).await }
    });
    coalescer.0.call.gate.add_permits(2);
    let answer = tokio::time::timeout(std::time::Duration::from_secs(10), other).await;
    assert_eq!(answer.expect("in time").expect("joins").expect("answers"), 202);
    assert_eq!(held.await.expect("answers"), 200);
    assert_eq!(coalescer.0.queue().in_flight.len(), 0);
}

#[tokio::test]
async fn a_poisoned_request_fails_alone() {
    let coalescer = doubling(100);
    let all = futures_util::future::join_all((12..15).map(|n| coalescer.request(n, later()))).await;
    let answers: Vec<_> = all.into_iter().map(|answer| answer.ok()).collect();
    assert_eq!(answers, [Some(24), None, Some(28)]);
}

#[tokio::test]
async fn a_request_at_which_the_storage_panics_fails_alone() {
    let coalescer = doubling(100);
    let callers = [1, 2, 666, 4].map(|n| coalescer.request(n, later()));
    let answers = futures_util::future::join_all(callers).await;
    let errors = answers.iter().map(|answer| answer.as_ref().err().map(Error::kind));
    let internal = Some(ErrorKind::Internal);
    assert_eq!(errors.collect::<Vec<_>>(), [None, None, internal, None]);
}
