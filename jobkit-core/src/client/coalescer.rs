//! Natural batching: one round trip for everything that waits.
//!
//! When nothing is in flight a request is sent at once. Requests that arrive meanwhile leave together
//! when the answer is there, or beside it as soon as they are as many. So the storage has the next call
//! before it has answered the last one. No timers set the pace: an idle system adds no latency, a busy
//! one needs one round trip for hundreds of requests.
//!
//! One client may serve several runtimes, and a runtime may end, or stand still outside `block_on`. So
//! no caller depends on another one's runtime: a round trip is polled on the runtime of one of its own
//! callers; whoever has waited for [`PATIENCE`] polls it as well; and the callers of one that was
//! dropped learn so, and repeat their requests.

mod round_trip;
#[cfg(test)]
mod tests;
mod window;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::time::Instant;

use self::round_trip::{Driver, RoundTrip};
use self::window::Window;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::sync::lock;

/// How long a caller waits before it polls the round trip itself. Longer than most calls take, and short
/// enough that a runtime which stands still delays nobody for long.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long one call may take. Its outcome is unknown then, and those behind it go on.
const CALL_LIMIT: Duration = Duration::from_secs(15);

/// How requests of one sort are sent.
#[async_trait]
pub(crate) trait BatchCall: Send + Sync + 'static {
    /// What one caller wants.
    type Request: Send + Sync + 'static;
    /// What one caller gets.
    type Answer: Send + 'static;

    /// Sends requests in one round trip; one answer each, in order.
    async fn send(&self, requests: &[Self::Request]) -> Result<Vec<Self::Answer>>;

    /// How large a request is.
    fn size(&self, request: &Self::Request) -> Size;

    /// How large a round trip may be.
    fn max(&self) -> Size;
}

/// The size of a request, or of a round trip.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) requests: usize,
    pub(crate) items: usize,
    pub(crate) bytes: usize,
}

impl Size {
    const ZERO: Self = Self { requests: 0, items: 0, bytes: 0 };

    fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            items: self.items + other.items,
            bytes: self.bytes + other.bytes,
        }
    }

    fn fits(self, max: Self) -> bool {
        self.requests <= max.requests && self.items <= max.items && self.bytes <= max.bytes
    }
}

/// Lets concurrent callers share round trips.
pub(crate) struct Coalescer<C: BatchCall>(Arc<Shared<C>>);

/// What callers and drivers share.
struct Shared<C: BatchCall> {
    call: Arc<C>,
    queue: Mutex<Queue<C>>,
}

struct Queue<C: BatchCall> {
    waiting: VecDeque<Arc<Ticket<C>>>,
    in_flight: Vec<Arc<RoundTrip<C>>>,
    window: Window,
    /// The round trip in flight that its caller polls in its own task.
    inline: Option<Arc<RoundTrip<C>>>,
}

/// One caller's request, and its answer.
struct Ticket<C: BatchCall> {
    /// The caller's runtime.
    runtime: Handle,
    state: Mutex<TicketState<C>>,
}

struct TicketState<C: BatchCall> {
    /// Until it is sent.
    request: Option<C::Request>,
    answer: Answer<C::Answer>,
    waker: Option<Waker>,
    /// The caller is gone.
    abandoned: bool,
}

enum Answer<T> {
    Awaited,
    Here(Result<T>),
    Taken,
}

impl<C: BatchCall> Ticket<C> {
    fn new(request: C::Request, runtime: Handle) -> Arc<Self> {
        let state = TicketState {
            request: Some(request),
            answer: Answer::Awaited,
            waker: None,
            abandoned: false,
        };
        Arc::new(Self { runtime, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, TicketState<C>> {
        lock(&self.state)
    }

    /// Answers the caller; what came first stays.
    fn answer(&self, answer: Result<C::Answer>) {
        let waker = {
            let mut state = self.state();
            if !matches!(state.answer, Answer::Awaited) {
                return;
            }
            state.answer = Answer::Here(answer);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<C: BatchCall> Coalescer<C> {
    pub(crate) fn new(call: C) -> Self {
        let queue = Queue {
            waiting: VecDeque::new(),
            in_flight: Vec::new(),
            window: Window::default(),
            inline: None,
        };
        Self(Arc::new(Shared { call: Arc::new(call), queue: Mutex::new(queue) }))
    }

    /// Sends a request and waits for its own answer, until `give_up_at` at the latest.
    ///
    /// When nothing is in flight, the caller's own task polls the round trip, which spares two changes
    /// of task. As soon as anybody else comes, it moves to a task of its own: a caller that holds its
    /// future without polling it must not hold up others.
    ///
    /// # Errors
    /// Those of the call; [`Timeout`](ErrorKind::Timeout) when it took too long, which says whether the
    /// request was sent; [`Unavailable`](ErrorKind::Unavailable) when the round trip was dropped with its
    /// runtime.
    ///
    /// # Cancel safety
    /// A dropped future leaves it open whether the request was sent. A round trip in flight goes on in a
    /// task of its own, so that the storage never sees it torn off, and no other caller is disturbed.
    pub(crate) async fn request(
        &self,
        request: C::Request,
        give_up_at: Instant,
    ) -> Result<C::Answer> {
        let runtime = Handle::try_current().map_err(|_| {
            Error::new(
                ErrorKind::Configuration,
                "a Tokio runtime is needed, and there is none here",
            )
        })?;
        let mut caller = self.begin(request, runtime.clone());
        loop {
            let until = (Instant::now() + PATIENCE).min(give_up_at);
            match tokio::time::timeout_at(until, &mut caller).await {
                Ok(answer) => return answer,
                Err(_) if Instant::now() >= give_up_at => return Err(caller.timed_out()),
                Err(_) => self.0.rescue(&runtime),
            }
        }
    }

    fn begin(&self, request: C::Request, runtime: Handle) -> Caller<C> {
        let ticket = Ticket::new(request, runtime);
        let mut queue = self.0.queue();
        queue.waiting.push_back(Arc::clone(&ticket));
        if queue.in_flight.is_empty() {
            let first = queue.next();
            queue.inline.clone_from(&first);
            let inline = first.map(|round_trip| Driver::new(&self.0, round_trip));
            return Caller { ticket, inline };
        }
        let inline = queue.inline.take();
        let second = queue.next();
        drop(queue);
        if let Some(inline) = inline {
            Driver::new(&self.0, inline).spawn();
        }
        if let Some(second) = second {
            Driver::new(&self.0, second).spawn();
        }
        Caller { ticket, inline: None }
    }
}

impl<C: BatchCall> Queue<C> {
    /// The next round trip, if those who wait may leave now.
    fn next(&mut self) -> Option<Arc<RoundTrip<C>>> {
        if !self.window.may_send(self.in_flight.len(), self.waiting.len()) {
            return None;
        }
        // A runtime with threads of its own does not stand still between two `block_on`.
        let has_threads =
            |runtime: &&Handle| runtime.runtime_flavor() != RuntimeFlavor::CurrentThread;
        let mut runtimes = self.waiting.iter().map(|ticket| &ticket.runtime);
        let runtime = runtimes.clone().find(has_threads).or_else(|| runtimes.next())?.clone();
        // Those who come before its first poll leave with it.
        self.window.sent(self.waiting.len());
        let round_trip = RoundTrip::new(runtime);
        self.in_flight.push(Arc::clone(&round_trip));
        Some(round_trip)
    }
}

impl<C: BatchCall> Shared<C> {
    fn queue(&self) -> MutexGuard<'_, Queue<C>> {
        lock(&self.queue)
    }

    /// Takes as many of those who wait as fit into a round trip.
    fn board(&self) -> (Vec<C::Request>, Vec<Arc<Ticket<C>>>) {
        let mut queue = self.queue();
        let max = self.call.max();
        let expected = queue.waiting.len().min(max.requests);
        let mut requests = Vec::with_capacity(expected);
        let mut tickets = Vec::with_capacity(expected);
        let mut size = Size::ZERO;
        while let Some(ticket) = queue.waiting.front() {
            let mut state = ticket.state();
            // The caller is gone. Its request was not sent, so it need not be.
            let Some(request) = state.request.as_ref().filter(|_| !state.abandoned) else {
                drop(state);
                queue.waiting.pop_front();
                continue;
            };
            size = size.plus(self.call.size(request));
            if !requests.is_empty() && !size.fits(max) {
                break;
            }
            requests.extend(state.request.take());
            drop(state);
            tickets.extend(queue.waiting.pop_front());
        }
        queue.window.sent(tickets.len());
        (requests, tickets)
    }

    /// Counts a round trip as back; the next one, if somebody waits.
    fn completed(&self, round_trip: &Arc<RoundTrip<C>>) -> Option<Arc<RoundTrip<C>>> {
        let mut queue = self.queue();
        let before = queue.in_flight.len();
        queue.in_flight.retain(|one| !Arc::ptr_eq(one, round_trip));
        if queue.in_flight.len() == before {
            return None;
        }
        if queue.inline.as_ref().is_some_and(|inline| Arc::ptr_eq(inline, round_trip)) {
            queue.inline = None;
        }
        queue.window.completed(round_trip.tickets().len());
        queue.next()
    }

    /// Polls what has been in flight for long, on the runtime of one who waits; ends what takes too long.
    fn rescue(self: &Arc<Self>, runtime: &Handle) {
        let in_flight = self.queue().in_flight.clone();
        for round_trip in in_flight {
            if round_trip.age() >= CALL_LIMIT {
                let text = format!("the storage has not answered for {CALL_LIMIT:?}");
                self.give_up(&round_trip, &Error::new(ErrorKind::Timeout, text).maybe_applied());
            } else if round_trip.wants_rescue() {
                Driver::new(self, round_trip).spawn_on(runtime);
            }
        }
    }

    /// Answers the callers of a round trip that nobody polls any more, or that takes too long. By the
    /// storage contract they may repeat their requests.
    fn give_up(self: &Arc<Self>, round_trip: &Arc<RoundTrip<C>>, error: &Error) {
        round_trip.end(self, error);
        if let Some(next) = self.completed(round_trip) {
            Driver::new(self, next).spawn();
        }
    }
}

/// A request on its way. Dropping it leaves the round trip, if it was sent, to a task.
struct Caller<C: BatchCall> {
    ticket: Arc<Ticket<C>>,
    /// The round trip that this caller polls.
    inline: Option<Driver<C>>,
}

impl<C: BatchCall> Caller<C> {
    fn timed_out(&self) -> Error {
        if self.ticket.state().request.is_some() {
            let text = "other calls to the storage were not answered in time";
            return Error::new(ErrorKind::Timeout, text);
        }
        Error::new(ErrorKind::Timeout, "the storage has not answered in time").maybe_applied()
    }
}

impl<C: BatchCall> Future for Caller<C> {
    type Output = Result<C::Answer>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(driver) = self.inline.take() {
            // Once moved it is polled by a task.
            if !driver.round_trip().is_moved() {
                // The answer is taken below. To be woken for it as well would cost a turn of the task, and
                // often another thread its sleep.
                self.ticket.state().waker = None;
                match driver.advance(context) {
                    Poll::Ready(next) => drop(next.map(Driver::spawn)),
                    Poll::Pending => self.inline = Some(driver),
                }
            }
        }
        let mut state = self.ticket.state();
        match std::mem::replace(&mut state.answer, Answer::Taken) {
            Answer::Here(answer) => Poll::Ready(answer),
            Answer::Awaited => {
                state.answer = Answer::Awaited;
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
            Answer::Taken => Poll::Ready(Err(interrupted())),
        }
    }
}

impl<C: BatchCall> Drop for Caller<C> {
    fn drop(&mut self) {
        self.ticket.state().abandoned = true;
        if let Some(driver) = self.inline.take() {
            driver.leave();
        }
    }
}

/// The runtime that polled a round trip has ended.
fn interrupted() -> Error {
    let text = "the runtime that sent the call has ended, so its outcome is unknown";
    Error::new(ErrorKind::Unavailable, text).maybe_applied()
}
