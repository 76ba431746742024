//! One call in flight, and those who poll it.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, TryLockError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::{BatchCall, PATIENCE, Shared, Ticket, interrupted, lock};
use crate::model::error::{Error, ErrorKind, Result};
use crate::storage::caught;

type Answers<C> = Vec<Result<<C as BatchCall>::Answer>>;
type Call<C> = Pin<Box<dyn Future<Output = Answers<C>> + Send>>;

/// One call in flight. Any number of tasks may poll it, on any runtime.
pub(super) struct RoundTrip<C: BatchCall> {
    /// Its callers, from the first poll on: whoever comes before that leaves with it.
    tickets: OnceLock<Vec<Arc<Ticket<C>>>>,
    /// The runtime of one who waited when it was made.
    runtime: Handle,
    begun_at: Instant,
    call: Mutex<Stage<C>>,
    wakers: Arc<Wakers>,
    /// How many poll it.
    drivers: AtomicUsize,
    /// It is polled by a task, not by its caller.
    moved: AtomicBool,
    /// How often somebody who waited began to poll it, too.
    rescues: AtomicU32,
}

enum Stage<C: BatchCall> {
    Boarding,
    Sent(Call<C>),
    Ended,
}

impl<C: BatchCall> RoundTrip<C> {
    pub(super) fn new(runtime: Handle) -> Arc<Self> {
        Arc::new(Self {
            tickets: OnceLock::new(),
            runtime,
            begun_at: Instant::now(),
            call: Mutex::new(Stage::Boarding),
            wakers: Arc::default(),
            drivers: AtomicUsize::new(0),
            moved: AtomicBool::new(false),
            rescues: AtomicU32::new(0),
        })
    }

    pub(super) fn tickets(&self) -> &[Arc<Ticket<C>>] {
        self.tickets.get().map_or(&[], Vec::as_slice)
    }

    pub(super) fn age(&self) -> Duration {
        self.begun_at.elapsed()
    }

    pub(super) fn is_moved(&self) -> bool {
        self.moved.load(Ordering::Acquire)
    }

    /// Whether one who waits should poll it as well: after [`PATIENCE`], then after twice as long, and so
    /// on. A slow storage is no reason for more and more tasks.
    pub(super) fn wants_rescue(&self) -> bool {
        let rescues = self.rescues.load(Ordering::Relaxed);
        let due = self.age() >= PATIENCE * 2u32.saturating_pow(rescues.min(16));
        let next = rescues.saturating_add(1);
        let (success, failure) = (Ordering::Relaxed, Ordering::Relaxed);
        due && self.rescues.compare_exchange(rescues, next, success, failure).is_ok()
    }

    /// Polls the call; all its answers, to the one who sees it end.
    fn poll(&self, shared: &Shared<C>, context: &Context<'_>) -> Poll<Option<Answers<C>>> {
        self.wakers.add(context.waker());
        let mut stage = match self.call.try_lock() {
            Ok(stage) => stage,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Another task polls it, and whatever comes wakes this one too.
            Err(TryLockError::WouldBlock) => return Poll::Pending,
        };
        if matches!(*stage, Stage::Boarding) {
            let (requests, tickets) = shared.board();
            let _ = self.tickets.set(tickets);
            *stage = Stage::Sent(Box::pin(send(Arc::clone(&shared.call), requests)));
        }
        let Stage::Sent(call) = &mut *stage else { return Poll::Ready(None) };
        let waker = Waker::from(Arc::clone(&self.wakers));
        let answers = std::task::ready!(call.as_mut().poll(&mut Context::from_waker(&waker)));
        *stage = Stage::Ended;
        Poll::Ready(Some(answers))
    }

    fn has_ended(&self) -> bool {
        // While another task polls it, it has not.
        self.call.try_lock().is_ok_and(|stage| matches!(*stage, Stage::Ended))
    }

    /// Ends it with an error for every caller, and for those who would have left with it.
    pub(super) fn end(&self, shared: &Shared<C>, error: &Error) {
        // Where it is being polled at this moment, whoever polls it drops it.
        if let Ok(mut stage) = self.call.try_lock() {
            if matches!(*stage, Stage::Boarding) {
                let _ = self.tickets.set(shared.board().1);
            }
            *stage = Stage::Ended;
        }
        self.answer(std::iter::repeat_with(|| Err(error.duplicate())));
        self.wakers.wake_all();
    }

    fn answer(&self, answers: impl IntoIterator<Item = Result<C::Answer>>) {
        for (ticket, answer) in self.tickets().iter().zip(answers) {
            ticket.answer(answer);
        }
    }
}

/// Wakes everybody who polls a round trip.
#[derive(Default)]
struct Wakers(Mutex<Polling>);

/// Those who poll: nearly always one, who costs no list.
#[derive(Default)]
struct Polling {
    first: Option<Waker>,
    others: Vec<Waker>,
}

impl Wakers {
    fn add(&self, waker: &Waker) {
        let mut polling = lock(&self.0);
        let Polling { first, others } = &mut *polling;
        if first.iter().chain(&*others).any(|one| one.will_wake(waker)) {
            return;
        }
        match first {
            None => *first = Some(waker.clone()),
            Some(_) => others.push(waker.clone()),
        }
    }

    fn wake_all(&self) {
        let Polling { first, others } = std::mem::take(&mut *lock(&self.0));
        first.into_iter().chain(others).for_each(Waker::wake);
    }
}

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }
}

/// The right to poll a round trip. When the last one is dropped before the end, as with a runtime that
/// ends, the callers learn it.
pub(super) struct Driver<C: BatchCall> {
    shared: Arc<Shared<C>>,
    round_trip: Arc<RoundTrip<C>>,
}

impl<C: BatchCall> Driver<C> {
    pub(super) fn new(shared: &Arc<Shared<C>>, round_trip: Arc<RoundTrip<C>>) -> Self {
        round_trip.drivers.fetch_add(1, Ordering::AcqRel);
        Self { shared: Arc::clone(shared), round_trip }
    }

    pub(super) fn round_trip(&self) -> &RoundTrip<C> {
        &self.round_trip
    }

    /// Polls the round trip; at its end the callers are answered, and the next one may leave.
    pub(super) fn advance(&self, context: &Context<'_>) -> Poll<Option<Self>> {
        let answers = std::task::ready!(self.round_trip.poll(&self.shared, context));
        let Some(answers) = answers else { return Poll::Ready(None) };
        // First the answers: whoever comes again at once leaves with the next round trip.
        self.round_trip.answer(answers);
        let next = self.shared.completed(&self.round_trip);
        let next = next.map(|next| Self::new(&self.shared, next));
        if self.round_trip.drivers.load(Ordering::Acquire) > 1 {
            // Others that poll it have nothing left to wait for.
            self.round_trip.wakers.wake_all();
        }
        Poll::Ready(next)
    }

    /// Polls it in a task on the runtime of one of its callers.
    pub(super) fn spawn(self) {
        let runtime = self.round_trip.runtime.clone();
        self.spawn_on(&runtime);
    }

    /// Polls it in a task on this runtime. A caller that polled it leaves it to that task.
    pub(super) fn spawn_on(self, runtime: &Handle) {
        self.round_trip.moved.store(true, Ordering::Release);
        // Its join handle is of no use: the driver itself notices that it is dropped.
        drop(runtime.spawn(drive(self)));
    }

    /// The caller that polled it goes: a task goes on, unless another one does already or it has ended.
    pub(super) fn leave(self) {
        let others = self.round_trip.drivers.load(Ordering::Acquire) > 1;
        if !others && !self.round_trip.has_ended() {
            self.spawn();
        }
    }
}

impl<C: BatchCall> Drop for Driver<C> {
    fn drop(&mut self) {
        if self.round_trip.drivers.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        if !self.round_trip.has_ended() {
            self.shared.give_up(&self.round_trip, &interrupted());
        }
    }
}

/// Polls a round trip, and those that follow it as long as they belong on this runtime.
async fn drive<C: BatchCall>(mut driver: Driver<C>) {
    let here = Handle::current().id();
    loop {
        let next = std::future::poll_fn(|context| driver.advance(context)).await;
        let Some(next) = next else { return };
        if next.round_trip.runtime.id() != here {
            return next.spawn();
        }
        driver = next;
    }
}

async fn send<C: BatchCall>(call: Arc<C>, requests: Vec<C::Request>) -> Answers<C> {
    if requests.is_empty() {
        return Vec::new();
    }
    let error = match caught(call.send(&requests)).await {
        Ok(answers) if answers.len() == requests.len() => {
            return answers.into_iter().map(Ok).collect();
        }
        Ok(answers) => {
            let (given, asked) = (answers.len(), requests.len());
            let text = format!("the storage gave {given} answers for {asked} requests");
            Error::new(ErrorKind::Internal, text).maybe_applied()
        }
        Err(error) => error,
    };
    if requests.len() > 1 && !error.is_retryable() {
        // One poisoned request must not fail its neighbours: each goes again alone, which by the
        // storage contract applies nothing twice.
        let mut answers = Vec::with_capacity(requests.len());
        for request in &requests {
            let answer = caught(call.send(std::slice::from_ref(request))).await;
            answers.push(answer.and_then(one));
        }
        return answers;
    }
    // Everyone learns the same; the native error goes to the first.
    let copies: Vec<_> = requests.iter().skip(1).map(|_| error.duplicate()).collect();
    std::iter::once(error).chain(copies).map(Err).collect()
}

fn one<T>(answers: Vec<T>) -> Result<T> {
    answers
        .into_iter()
        .next()
        .ok_or_else(|| Error::new(ErrorKind::Internal, "the storage answered nothing for an item"))
}
