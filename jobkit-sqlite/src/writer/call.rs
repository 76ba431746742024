//! The way to the writer: a request, its answer, and how its caller waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use jobkit_core::storage::Call;
use jobkit_core::{Error, ErrorKind, Result, Timestamp};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use crate::error::SqlResult;
use crate::txn::Txn;

/// A call on its way to the writer.
pub(crate) trait PendingCall: Send {
    /// May run twice: the second time alone, after the transaction that it shared was rolled back.
    fn run(&mut self, txn: &mut Txn<'_, '_>) -> SqlResult;
    fn options(&self) -> CallOptions;
    fn answer(self: Box<Self>, failed: Option<Error>);
}

/// How a call is run, and how its caller waits.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CallOptions {
    /// The call changes running jobs only by a transition, so the rows of claimed jobs that the writer
    /// remembers stay right.
    pub(crate) keeps_claimed_rows: bool,
    /// The caller spins for a moment before it sleeps, so that its answer comes sooner.
    pub(crate) spins: bool,
}

impl CallOptions {
    /// Of claims and settles.
    pub(crate) const KEEPS_CLAIMED_ROWS: Self = Self { keeps_claimed_rows: true, spins: false };
}

/// What the writer receives.
pub(crate) enum Message {
    Call(Box<dyn PendingCall>),
    /// A listener went to sleep: watch for other processes.
    Watch,
}

struct Request<F, T> {
    run: F,
    options: CallOptions,
    answer: Option<T>,
    to: oneshot::Sender<Result<T>>,
}

impl<F, T> PendingCall for Request<F, T>
where
    F: FnMut(&mut Txn<'_, '_>) -> SqlResult<T> + Send,
    T: Send,
{
    fn run(&mut self, txn: &mut Txn<'_, '_>) -> SqlResult {
        self.answer = Some((self.run)(txn)?);
        Ok(())
    }

    fn options(&self) -> CallOptions {
        self.options
    }

    fn answer(self: Box<Self>, failed: Option<Error>) {
        let answer = match (failed, self.answer) {
            (None, Some(answer)) => Ok(answer),
            (Some(error), _) => Err(error),
            (None, None) => Err(Error::new(ErrorKind::Internal, "a call ended without an answer")),
        };
        // An error means that the caller has gone.
        let _ = self.to.send(answer);
    }
}

/// The way to the writer.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    messages: Sender<Message>,
    spin_wait: Arc<SpinWait>,
}

/// Decides whether a caller spins for its answer instead of going to sleep. A sleep costs more than a
/// small transaction takes: 10,000 to 12,000 enqueues a second where each caller sleeps, 18,000 to
/// 21,000 where none does. Where answers take longer, because each commit is synced or another process
/// writes too, no caller spins for a while.
#[derive(Debug, Default)]
struct SpinWait {
    /// Spins in a row that ended without an answer.
    misses: AtomicUsize,
    /// Calls that still do not spin.
    skip: AtomicUsize,
}

impl SpinWait {
    /// How long a caller spins. Meanwhile its thread does nothing else, as if it had done the work
    /// itself. That takes 30 to 60 µs where the log is not synced, and twice as long when the machine is
    /// busy. A limit near that time turns into sleeps just then: with 120 µs, six runs by turns on a busy
    /// machine made 9,600 enqueues a second (median), with 200 and 300 µs 11,500.
    const SPIN: Duration = Duration::from_micros(250);
    /// After this many misses in a row callers stop spinning. A few misses are normal: after a pause the
    /// writer has to be woken first, and now and then it copies the log back.
    const MISSES: usize = 4;
    /// For this many calls they do not spin.
    const SKIP: usize = 256;

    fn spin<T>(&self, answer: &mut oneshot::Receiver<T>) -> std::result::Result<T, TryRecvError> {
        let one_less = |left: usize| left.checked_sub(1);
        if self.skip.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
            return Err(TryRecvError::Empty);
        }
        let since = Instant::now();
        while since.elapsed() < Self::SPIN {
            match answer.try_recv() {
                Ok(answer) => {
                    self.misses.store(0, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(TryRecvError::Empty) => std::hint::spin_loop(),
                Err(TryRecvError::Closed) => return Err(TryRecvError::Closed),
            }
        }
        if self.misses.fetch_add(1, Ordering::Relaxed) + 1 >= Self::MISSES {
            self.misses.store(0, Ordering::Relaxed);
            self.skip.store(Self::SKIP, Ordering::Relaxed);
        }
        Err(TryRecvError::Empty)
    }
}

impl Writer {
    pub(crate) fn new(messages: Sender<Message>) -> Self {
        Self { messages, spin_wait: Arc::default() }
    }

    /// Runs `work` in a transaction and answers after its commit.
    pub(crate) async fn call<T, F>(&self, operation: &'static str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Txn<'_, '_>) -> SqlResult<T> + Send + 'static,
    {
        self.call_with(operation, CallOptions::default(), work).await
    }

    /// The same for work that depends on the time of the call.
    pub(crate) async fn call_at<T, F>(
        &self,
        operation: &'static str,
        call: &Call,
        mut work: F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Txn<'_, '_>, Timestamp) -> SqlResult<T> + Send + 'static,
    {
        let call = call.clone();
        let work = move |txn: &mut Txn<'_, '_>| {
            let now = txn.now(&call);
            work(txn, now)
        };
        self.call(operation, work).await
    }

    /// The same with options.
    pub(crate) async fn call_with<T, F>(
        &self,
        operation: &'static str,
        options: CallOptions,
        work: F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Txn<'_, '_>) -> SqlResult<T> + Send + 'static,
    {
        let (to, mut answer) = oneshot::channel();
        let request = Request { run: work, options, answer: None, to };
        let closed = || Error::closed("the storage").during(operation);
        self.messages.send(Message::Call(Box::new(request))).map_err(|_| closed())?;
        let soon = match options.spins {
            true => self.spin_wait.spin(&mut answer),
            false => Err(TryRecvError::Empty),
        };
        let answer = match soon {
            Ok(answer) => Ok(answer),
            Err(TryRecvError::Empty) => answer.await.map_err(|_| ()),
            // A receiver that has reported its end must not be polled again.
            Err(TryRecvError::Closed) => Err(()),
        };
        let answer = answer.map_err(|()| closed().maybe_applied())?;
        answer.map_err(|error| error.during(operation))
    }

    pub(crate) fn watch(&self) {
        // An error means that the storage is being closed.
        let _ = self.messages.send(Message::Watch);
    }
}

#[cfg(test)]
mod tests {
    use super::{CallOptions, Message, Writer};
    use jobkit_core::{Applied, ErrorKind};

    /// Whether the caller still spins then or sleeps already.
    #[tokio::test]
    async fn a_writer_that_ends_without_an_answer_is_reported_as_closed() {
        let (sender, messages) = std::sync::mpsc::channel::<Message>();
        let ending = std::thread::spawn(move || messages.iter().for_each(drop));
        let writer = Writer::new(sender);
        let options = CallOptions { keeps_claimed_rows: true, spins: true };
        for _ in 0..100 {
            let call = writer.call_with("submit", options, |_| Ok(()));
            let error = call.await.expect_err("no answer");
            assert_eq!((error.kind(), error.applied()), (ErrorKind::Closed, Applied::Unknown));
        }
        drop(writer);
        ending.join().expect("no panic");
    }
}
