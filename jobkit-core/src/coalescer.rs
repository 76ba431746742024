//! Natural batching: one round trip for everything that waits.
//!
//! When nothing is in flight a request goes out at once; requests that arrive meanwhile leave together
//! with the next flight. No timers: an idle system adds no latency, a busy one needs one round trip for
//! hundreds of requests.

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
    answer: oneshot::Sender<Result<F::Answer>>,
}

struct Queue<F: Flight> {
    waiting: VecDeque<Waiting<F>>,
    in_flight: bool,
    /// The flight that is out, as long as it is in its caller's task.
    own: Option<Arc<Own<F>>>,
}

/// Lets concurrent callers share round trips.
pub(crate) struct Coalescer<F: Flight> {
    flight: Arc<F>,
    queue: Arc<Mutex<Queue<F>>>,
}

impl<F: Flight> Coalescer<F> {
    pub(crate) fn new(flight: F) -> Self {
        let queue = Queue { waiting: VecDeque::new(), in_flight: false, own: None };
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
        if queue.in_flight {
            let (answer, answered) = oneshot::channel();
            queue.waiting.push_back(Waiting { request, answer });
            let own = queue.own.take();
            drop(queue);
            if let Some(own) = own {
                own.move_to_task();
            }
            return Begun::Waiting(answered);
        }
        queue.in_flight = true;
        let flight = Arc::clone(&self.flight);
        let fly = async move {
            let answers = caught(flight.fly(std::slice::from_ref(&request))).await;
            answers.and_then(one)
        };
        let leader =
            Leader { flight: Arc::clone(&self.flight), queue: Some(Arc::clone(&self.queue)) };
        let flying = Flying::Here { flight: Box::pin(fly), leader, waker: None };
        let own = Arc::new(Own(Mutex::new(flying)));
        queue.own = Some(Arc::clone(&own));
        Begun::Own(OwnFlight(own))
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
            leader.lead().await;
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

/// Leads flights until nobody waits. Should it be dropped with its runtime, or panic, those who wait are
/// told, and the next request leads again.
struct Leader<F: Flight> {
    flight: Arc<F>,
    queue: Option<Arc<Mutex<Queue<F>>>>,
}

impl<F: Flight> Drop for Leader<F> {
    fn drop(&mut self) {
        if let Some(queue) = &self.queue {
            let mut queue = lock(queue);
            queue.in_flight = false;
            queue.own = None;
            // Dropped senders tell.
            queue.waiting.clear();
        }
    }
}

impl<F: Flight> Leader<F> {
    /// Leaves the way free, or lets a task lead those who wait.
    fn hand_over(mut self) {
        if let Some(queue) = &self.queue {
            let mut queue = lock(queue);
            queue.own = None;
            if !queue.waiting.is_empty() {
                drop(queue);
                tokio::spawn(self.lead());
                return;
            }
            queue.in_flight = false;
        }
        self.queue = None;
    }

    async fn lead(mut self) {
        let Some(queue) = self.queue.clone() else { return };
        loop {
            let mut requests = Vec::new();
            let mut answers = Vec::new();
            {
                let mut queue = lock(&queue);
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
                if requests.is_empty() {
                    queue.in_flight = false;
                    self.queue = None;
                    return;
                }
            }
            send(&*self.flight, &requests, answers).await;
        }
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

async fn send<F: Flight>(
    flight: &F,
    requests: &[F::Request],
    answers: Vec<oneshot::Sender<Result<F::Answer>>>,
) {
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
        flights: AtomicUsize,
    }

    #[async_trait]
    impl Flight for Doubling {
        type Request = u32;
        type Answer = u32;

        async fn fly(&self, requests: &[u32]) -> Result<Vec<u32>> {
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
            flights: AtomicUsize::new(0),
        }))
    }

    #[tokio::test]
    async fn what_arrives_during_a_flight_leaves_together() {
        let coalescer = doubling(0);
        let call = |n| {
            let coalescer = Arc::clone(&coalescer);
            tokio::spawn(async move { coalescer.request(n).await })
        };
        let waiting = || lock(&coalescer.queue).waiting.len();
        let mut callers = vec![call(100)];
        let in_flight = || lock(&coalescer.queue).in_flight;
        while !in_flight() || waiting() > 0 {
            tokio::task::yield_now().await;
        }
        callers.extend((101..150).map(call));
        while waiting() < 49 {
            tokio::task::yield_now().await;
        }
        coalescer.flight.gate.add_permits(2);
        for (n, caller) in callers.into_iter().enumerate() {
            let answer = caller.await.expect("joins").expect("answers");
            assert_eq!(answer as usize, (n + 100) * 2);
        }
        assert_eq!(coalescer.flight.flights.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_leader_that_goes_with_its_runtime_leaves_the_way_free() {
        let coalescer = doubling(0);
        let runtime = || tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let first = runtime();
        let abandoned = Arc::clone(&coalescer);
        first.spawn(async move { abandoned.request(100).await });
        // Far enough that the flight is out and waits at the gate.
        first.block_on(async {
            while !lock(&coalescer.queue).in_flight {
                tokio::task::yield_now().await;
            }
            tokio::task::yield_now().await;
        });
        drop(first);
        coalescer.flight.gate.add_permits(1);
        let answer = runtime().block_on(coalescer.request(101));
        assert_eq!(answer.expect("answers"), 202);
    }

    #[tokio::test]
    async fn a_flight_goes_on_when_its_caller_is_gone() {
        let coalescer = doubling(0);
        let call = |n| {
            let coalescer = Arc::clone(&coalescer);
            tokio::spawn(async move { coalescer.request(n).await })
        };
        let first = call(100);
        while !lock(&coalescer.queue).in_flight {
            tokio::task::yield_now().await;
        }
        let second = call(101);
        while lock(&coalescer.queue).waiting.is_empty() {
            tokio::task::yield_now().await;
        }
        first.abort();
        assert!(first.await.expect_err("aborted").is_cancelled());
        coalescer.flight.gate.add_permits(2);
        assert_eq!(second.await.expect("joins").expect("answers"), 202);
        assert_eq!(coalescer.flight.flights.load(Ordering::SeqCst), 2, "the first one ended too");
        assert!(!lock(&coalescer.queue).in_flight);
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
        assert!(!lock(&coalescer.queue).in_flight);
    }

    #[tokio::test]
    async fn a_poisoned_request_fails_alone() {
        let coalescer = doubling(100);
        let all = futures_util::future::join_all((12..15).map(|n| coalescer.request(n))).await;
        let told: Vec<_> = all.into_iter().map(|answer| answer.ok()).collect();
        assert_eq!(told, [Some(24), None, Some(28)]);
    }
}
