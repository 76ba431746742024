//! Natural batching: one round trip for everything that waits.
//!
//! When nothing is in flight a request goes out at once; requests that arrive meanwhile leave together
//! when it lands, or beside it as soon as they are as many. So the storage has the next flight before it
//! has answered the last one. No timers: an idle system adds no latency, a busy one needs one round trip
//! for hundreds of requests.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use futures_util::FutureExt;
use tokio::sync::oneshot;

use crate::error::{Applied, Error, ErrorKind, Result};

/// How requests of one sort are sent.
#[async_trait]
pub(crate) trait Flight: Send + Sync + 'static {
    /// What one caller wants.
    type Request: Send + Sync + 'static;
    /// What one caller gets.
    type Answer: Send + 'static;

    /// Sends requests in one round trip; one answer each, in order.
    async fn fly(&self, requests: &[Self::Request]) -> Result<Vec<Self::Answer>>;

    /// How large a request is.
    fn size(&self, request: &Self::Request) -> Size;

    /// How large a flight may be.
    fn most(&self) -> Size;
}

/// The size of a request, or of a flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) requests: usize,
    pub(crate) items: usize,
    pub(crate) bytes: usize,
}

impl Size {
    fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            items: self.items + other.items,
            bytes: self.bytes + other.bytes,
        }
    }

    fn fits(self, most: Self) -> bool {
        self.requests <= most.requests && self.items <= most.items && self.bytes <= most.bytes
    }
}

struct Waiting<F: Flight> {
    request: F::Request,
    answer: Answer<F>,
}

/// Where the answer of one caller goes.
type Answer<F> = oneshot::Sender<Result<<F as Flight>::Answer>>;

struct Queue<F: Flight> {
    waiting: VecDeque<Waiting<F>>,
    out: Out,
    /// The flight that is out, as long as it is in its caller's task.
    own: Option<Arc<Own<F>>>,
}

/// The flights that are out.
#[derive(Debug, Default)]
struct Out {
    flights: usize,
    /// The requests of the one that left last.
    last: usize,
    /// Those of the one that landed last.
    landed: usize,
}

impl Out {
    /// Whether so many who wait leave now. With nothing out they always do, and a third flight never
    /// leaves. A second one is to be as large as the first. Where that one is smaller than is usual here,
    /// as the first after a pause is, it is no measure: two flights of half the callers each keep a storage
    /// busy, a large and a small one do not.
    fn lets_go(&self, waiting: usize) -> bool {
        match self.flights {
            0 => waiting > 0,
            1 => waiting >= self.last.max(self.landed / 2).max(1),
            _ => false,
        }
    }

    fn leaves(&mut self, requests: usize) {
        self.flights += 1;
        self.last = requests;
    }

    fn lands(&mut self, requests: usize) {
        self.flights = self.flights.saturating_sub(1);
        // None, where somebody else took them all.
        if requests > 0 {
            self.landed = requests;
        }
    }
}

/// Lets concurrent callers share round trips.
pub(crate) struct Coalescer<F: Flight> {
    flight: Arc<F>,
    queue: Arc<Mutex<Queue<F>>>,
}

impl<F: Flight> Coalescer<F> {
    pub(crate) fn new(flight: F) -> Self {
        let queue = Queue { waiting: VecDeque::new(), out: Out::default(), own: None };
        Self { flight: Arc::new(flight), queue: Arc::new(Mutex::new(queue)) }
    }

    /// Sends a request and waits for its own answer.
    ///
    /// When nothing is in flight, the caller's own task flies it, which spares two changes of task. As
    /// soon as anybody else comes, the flight moves to a task of its own: a caller that holds its future
    /// without polling it must not hold up others.
    ///
    /// # Cancel safety
    /// A dropped future leaves it open whether the request was sent. A flight that is out goes on in a
    /// task of its own, so that the storage never sees it torn off, and nobody else is disturbed.
    pub(crate) async fn request(&self, request: F::Request) -> Result<F::Answer> {
        match self.begin(request) {
            Begun::Own(flight) => flight.await,
            Begun::Waiting(answered) => answered.await.unwrap_or_else(|_| Err(shut_down())),
        }
    }

    fn begin(&self, request: F::Request) -> Begun<F> {
        let mut queue = lock(&self.queue);
        if queue.out.flights > 0 {
            let (answer, answered) = oneshot::channel();
            queue.waiting.push_back(Waiting { request, answer });
            let own = queue.own.take();
            let second = self.second(&mut queue);
            drop(queue);
            if let Some(own) = own {
                own.move_to_task();
            }
            if let Some((leader, runtime)) = second {
                runtime.spawn(leader.lead());
            }
            return Begun::Waiting(answered);
        }
        queue.out.leaves(1);
        let flight = Arc::clone(&self.flight);
        let fly = async move {
            let answers = caught(flight.fly(std::slice::from_ref(&request))).await;
            answers.and_then(one)
        };
        let leader = self.leader(1);
        let flying = Flying::Here { flight: Box::pin(fly), leader, waker: None };
        let own = Arc::new(Own(Mutex::new(flying)));
        queue.own = Some(Arc::clone(&own));
        Begun::Own(OwnFlight(own))
    }

    fn leader(&self, out: usize) -> Leader<F> {
        let queue = Some(Arc::clone(&self.queue));
        Leader { flight: Arc::clone(&self.flight), queue, out }
    }

    /// Who leads those who wait beside the flight that is out, if they are enough.
    fn second(&self, queue: &mut Queue<F>) -> Option<(Leader<F>, tokio::runtime::Handle)> {
        if !queue.out.lets_go(queue.waiting.len()) {
            return None;
        }
        // Without a runtime they wait for the first.
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        // Those who come before the task runs leave with it.
        queue.out.leaves(queue.waiting.len());
        Some((self.leader(queue.waiting.len()), runtime))
    }
}

/// What a caller waits for.
enum Begun<F: Flight> {
    Own(OwnFlight<F>),
    Waiting(oneshot::Receiver<Result<F::Answer>>),
}

fn lock<F: Flight>(queue: &Mutex<Queue<F>>) -> std::sync::MutexGuard<'_, Queue<F>> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The task of a flight was dropped with its runtime.
fn shut_down() -> Error {
    Error::new(ErrorKind::Closed, "the runtime was shut down").maybe_applied()
}

type BoxedFlight<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// A flight of one request that its caller began.
struct Own<F: Flight>(Mutex<Flying<F>>);

enum Flying<F: Flight> {
    /// In its caller's task.
    Here {
        flight: BoxedFlight<F::Answer>,
        leader: Leader<F>,
        waker: Option<Waker>,
    },
    /// In a task of its own.
    Moved(oneshot::Receiver<Result<F::Answer>>),
    Over,
}

impl<F: Flight> Own<F> {
    fn state(&self) -> std::sync::MutexGuard<'_, Flying<F>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the flight go on whatever its caller does, and then flies those who wait.
    fn move_to_task(&self) {
        let mut state = self.state();
        let Flying::Here { flight, leader, waker } = std::mem::replace(&mut *state, Flying::Over)
        else {
            return;
        };
        // Without a runtime the leader tells those who wait.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (answer, answered) = oneshot::channel();
        *state = Flying::Moved(answered);
        drop(state);
        runtime.spawn(async move {
            let _ = answer.send(flight.await);
            if let Some(waker) = waker {
                waker.wake();
            }
            leader.go_on().await;
        });
    }
}

struct OwnFlight<F: Flight>(Arc<Own<F>>);

impl<F: Flight> Future for OwnFlight<F> {
    type Output = Result<F::Answer>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.state();
        match &mut *state {
            Flying::Here { flight, waker, .. } => {
                let Poll::Ready(answer) = flight.as_mut().poll(context) else {
                    *waker = Some(context.waker().clone());
                    return Poll::Pending;
                };
                if let Flying::Here { leader, .. } = std::mem::replace(&mut *state, Flying::Over) {
                    drop(state);
                    leader.hand_over();
                }
                Poll::Ready(answer)
            }
            Flying::Moved(answered) => {
                let answer = std::task::ready!(Pin::new(answered).poll(context));
                *state = Flying::Over;
                Poll::Ready(answer.unwrap_or_else(|_| Err(shut_down())))
            }
            Flying::Over => Poll::Ready(Err(shut_down())),
        }
    }
}

impl<F: Flight> Drop for OwnFlight<F> {
    fn drop(&mut self) {
        // The caller is gone, its flight is not.
        self.0.move_to_task();
    }
}

/// Leads flights until nobody waits, or somebody else leads those who do. Should the last one be dropped
/// with its runtime, or panic, those who wait are told, and the next request leads again.
struct Leader<F: Flight> {
    flight: Arc<F>,
    queue: Option<Arc<Mutex<Queue<F>>>>,
    /// The requests of the flight that it counts as out.
    out: usize,
}

impl<F: Flight> Drop for Leader<F> {
    fn drop(&mut self) {
        if let Some(queue) = &self.queue {
            let mut queue = lock(queue);
            queue.own = None;
            queue.out.lands(self.out);
            if queue.out.flights == 0 {
                // Dropped senders tell.
                queue.waiting.clear();
            }
        }
    }
}

impl<F: Flight> Leader<F> {
    /// Its flight has landed: leaves the way free, or lets a task lead those who wait.
    fn hand_over(mut self) {
        if self.goes_on() {
            tokio::spawn(self.lead());
        }
    }

    /// Its flight has landed: leads those who wait until there is nobody, or somebody else does it.
    async fn go_on(mut self) {
        if self.goes_on() {
            self.lead().await;
        }
    }

    /// Flies those who wait, who are counted as out already.
    async fn lead(mut self) {
        loop {
            let (requests, answers) = self.take();
            if !requests.is_empty() {
                send(&*self.flight, &requests, answers).await;
            }
            if !self.goes_on() {
                return;
            }
        }
    }

    /// Counts its flight as landed, and those who wait as out if they are to leave now.
    fn goes_on(&mut self) -> bool {
        let Some(queue) = self.queue.take() else { return false };
        let mut held = lock(&queue);
        held.own = None;
        held.out.lands(self.out);
        let waiting = held.waiting.len();
        if !held.out.lets_go(waiting) {
            return false;
        }
        held.out.leaves(waiting);
        drop(held);
        (self.queue, self.out) = (Some(queue), waiting);
        true
    }

    /// Those who wait, as many as fit into a flight.
    fn take(&mut self) -> (Vec<F::Request>, Vec<Answer<F>>) {
        let (mut requests, mut answers) = (Vec::new(), Vec::new());
        let Some(queue) = &self.queue else { return (requests, answers) };
        let mut queue = lock(queue);
        let mut size = Size { requests: 0, items: 0, bytes: 0 };
        while let Some(next) = queue.waiting.front() {
            size = size.plus(self.flight.size(&next.request));
            if !requests.is_empty() && !size.fits(self.flight.most()) {
                break;
            }
            if let Some(next) = queue.waiting.pop_front() {
                // Nobody waits for it any more; it was not sent, so it need not be.
                if next.answer.is_closed() {
                    continue;
                }
                requests.push(next.request);
                answers.push(next.answer);
            }
        }
        queue.out.last = requests.len();
        self.out = requests.len();
        (requests, answers)
    }
}

/// A storage that panics has failed.
async fn caught<T>(flight: impl Future<Output = Result<T>>) -> Result<T> {
    let flown = std::panic::AssertUnwindSafe(flight).catch_unwind().await;
    flown.unwrap_or_else(|_| {
        let text = "the storage panicked, which is a bug in it";
        Err(Error::new(ErrorKind::Internal, text).maybe_applied())
    })
}

async fn send<F: Flight>(flight: &F, requests: &[F::Request], answers: Vec<Answer<F>>) {
    match caught(flight.fly(requests)).await {
        Ok(results) => {
            for (answer, result) in answers.into_iter().zip(results) {
                let _ = answer.send(Ok(result));
            }
        }
        // One poisoned request must not fail its neighbours: each goes again alone, which by the
        // storage contract applies nothing twice.
        Err(error) if requests.len() > 1 && !error.is_retryable() => {
            for (request, answer) in requests.iter().zip(answers) {
                let result = flight.fly(std::slice::from_ref(request)).await;
                let _ = answer.send(result.and_then(one));
            }
        }
        Err(error) => {
            // Everyone learns the same; the native error goes to the first.
            let copies: Vec<_> = answers.iter().skip(1).map(|_| copy(&error)).collect();
            for (answer, error) in answers.into_iter().zip(std::iter::once(error).chain(copies)) {
                let _ = answer.send(Err(error));
            }
        }
    }
}

fn one<T>(answers: Vec<T>) -> Result<T> {
    answers
        .into_iter()
        .next()
        .ok_or_else(|| Error::new(ErrorKind::Internal, "the storage answered nothing for an item"))
}

fn copy(error: &Error) -> Error {
    let copy = Error::new(error.kind(), error.to_string());
    match error.applied() {
        Applied::Unknown => copy.maybe_applied(),
        Applied::NotApplied => copy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Semaphore;

    struct Doubling {
        gate: Semaphore,
        begun: AtomicUsize,
        flights: AtomicUsize,
    }

    #[async_trait]
    impl Flight for Doubling {
        type Request = u32;
        type Answer = u32;

        async fn fly(&self, requests: &[u32]) -> Result<Vec<u32>> {
            self.begun.fetch_add(1, Ordering::SeqCst);
            self.gate.acquire().await.expect("open").forget();
            self.flights.fetch_add(1, Ordering::SeqCst);
            if requests.contains(&13) {
                return Err(Error::invalid("number", "is unlucky"));
            }
            Ok(requests.iter().map(|n| n * 2).collect())
        }

        fn size(&self, _: &u32) -> Size {
            Size { requests: 1, items: 1, bytes: 4 }
        }

        fn most(&self) -> Size {
            Size { requests: 100, items: 100, bytes: 400 }
        }
    }

    fn doubling(permits: usize) -> Arc<Coalescer<Doubling>> {
        Arc::new(Coalescer::new(Doubling {
            gate: Semaphore::new(permits),
            begun: AtomicUsize::new(0),
            flights: AtomicUsize::new(0),
        }))
    }

    type Caller = tokio::task::JoinHandle<Result<u32>>;

    fn call(coalescer: &Arc<Coalescer<Doubling>>, n: u32) -> Caller {
        let coalescer = Arc::clone(coalescer);
        tokio::spawn(async move { coalescer.request(n).await })
    }

    /// Lets every other task run until it waits, and tells how many flights have begun.
    async fn begun(coalescer: &Coalescer<Doubling>) -> usize {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        coalescer.flight.begun.load(Ordering::SeqCst)
    }

    async fn answered(callers: Vec<Caller>) {
        for (n, caller) in callers.into_iter().enumerate() {
            let answer = caller.await.expect("joins").expect("answers");
            assert_eq!(answer as usize, (n + 100) * 2);
        }
    }

    #[tokio::test]
    async fn what_arrives_during_a_flight_leaves_together() {
        let coalescer = doubling(0);
        let mut callers = vec![call(&coalescer, 100)];
        assert_eq!(begun(&coalescer).await, 1);
        callers.extend((101..150).map(|n| call(&coalescer, n)));
        assert_eq!(begun(&coalescer).await, 2);
        coalescer.flight.gate.add_permits(2);
        answered(callers).await;
        assert_eq!(coalescer.flight.flights.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn as_many_as_are_out_leave_beside_them_but_no_third_flight() {
        let coalescer = doubling(0);
        let mut callers = vec![call(&coalescer, 100)];
        assert_eq!(begun(&coalescer).await, 1);
        callers.push(call(&coalescer, 101));
        assert_eq!(begun(&coalescer).await, 2, "one is out, one leaves beside it");
        callers.extend((102..112).map(|n| call(&coalescer, n)));
        assert_eq!(begun(&coalescer).await, 2, "two are out");
        coalescer.flight.gate.add_permits(1);
        assert_eq!(begun(&coalescer).await, 3, "ten leave when one has landed");
        callers.extend((112..121).map(|n| call(&coalescer, n)));
        coalescer.flight.gate.add_permits(1);
        assert_eq!(begun(&coalescer).await, 3, "ten are out, nine wait");
        callers.push(call(&coalescer, 121));
        assert_eq!(begun(&coalescer).await, 4, "ten leave beside ten");
        coalescer.flight.gate.add_permits(2);
        answered(callers).await;
        assert_eq!(coalescer.flight.flights.load(Ordering::SeqCst), 4);
        assert_eq!(lock(&coalescer.queue).out.flights, 0);
    }

    #[test]
    fn a_small_flight_is_no_measure_where_large_ones_are_usual() {
        let mut out = Out::default();
        out.leaves(40);
        out.lands(40);
        assert!(out.lets_go(1), "nothing is out");
        out.leaves(2);
        assert!(!out.lets_go(19) && out.lets_go(20));
    }

    #[test]
    fn a_leader_that_goes_with_its_runtime_leaves_the_way_free() {
        let coalescer = doubling(0);
        let runtime = || tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let first = runtime();
        // Two flights are out and wait at the gate, and a third caller waits for one of them.
        first.block_on(async {
            for (n, flights) in [(100, 1), (101, 2), (102, 2)] {
                drop(call(&coalescer, n));
                assert_eq!(begun(&coalescer).await, flights);
            }
        });
        assert_eq!(lock(&coalescer.queue).waiting.len(), 1);
        drop(first);
        assert_eq!(lock(&coalescer.queue).waiting.len(), 0, "its caller was told");
        coalescer.flight.gate.add_permits(1);
        let answer = runtime().block_on(coalescer.request(101));
        assert_eq!(answer.expect("answers"), 202);
    }

    #[tokio::test]
    async fn a_flight_goes_on_when_its_caller_is_gone() {
        let coalescer = doubling(0);
        let first = call(&coalescer, 100);
        assert_eq!(begun(&coalescer).await, 1);
        let second = call(&coalescer, 101);
        assert_eq!(begun(&coalescer).await, 2);
        first.abort();
        assert!(first.await.expect_err("aborted").is_cancelled());
        coalescer.flight.gate.add_permits(2);
        assert_eq!(second.await.expect("joins").expect("answers"), 202);
        assert_eq!(coalescer.flight.flights.load(Ordering::SeqCst), 2, "the first one ended too");
        assert_eq!(lock(&coalescer.queue).out.flights, 0);
    }

    #[tokio::test]
    async fn a_caller_that_does_not_poll_holds_up_nobody() {
        let coalescer = doubling(0);
        let held = coalescer.request(100);
        tokio::pin!(held);
        assert!(futures_util::poll!(held.as_mut()).is_pending());
        let other = tokio::spawn({
            let coalescer = Arc::clone(&coalescer);
            async move { coalescer.request(101).await }
        });
        coalescer.flight.gate.add_permits(2);
        let answer = tokio::time::timeout(std::time::Duration::from_secs(10), other).await;
        assert_eq!(answer.expect("in time").expect("joins").expect("answers"), 202);
        assert_eq!(held.await.expect("answers"), 200);
        assert_eq!(lock(&coalescer.queue).out.flights, 0);
    }

    #[tokio::test]
    async fn a_poisoned_request_fails_alone() {
        let coalescer = doubling(100);
        let all = futures_util::future::join_all((12..15).map(|n| coalescer.request(n))).await;
        let told: Vec<_> = all.into_iter().map(|answer| answer.ok()).collect();
        assert_eq!(told, [Some(24), None, Some(28)]);
    }
}
