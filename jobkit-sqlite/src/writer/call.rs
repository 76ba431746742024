//! The way to the writer: a call, its answer, and how its caller waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use jobkit_core::{Error, ErrorKind, Result};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use crate::error::Done;
use crate::txn::Txn;

/// A call on its way to the writer.
pub(crate) trait Call: Send {
    /// May run twice: the second time alone, after what it shared a transaction with was rolled back.
    fn run(&mut self, txn: &mut Txn<'_, '_>) -> Done;
    /// Whether it changes running jobs in no other way than by [`transition::apply`].
    fn keeps_claimed(&self) -> bool;
    fn answer(self: Box<Self>, failed: Option<Error>);
}

pub(crate) enum Request {
    Call(Box<dyn Call>),
    /// Somebody fell asleep: watch for other processes.
    Watch,
}

struct Calling<F, T> {
    run: F,
    keeps_claimed: bool,
    answer: Option<T>,
    to: oneshot::Sender<Result<T>>,
}

impl<F, T> Call for Calling<F, T>
where
    F: FnMut(&mut Txn<'_, '_>) -> Done<T> + Send,
    T: Send,
{
    fn run(&mut self, txn: &mut Txn<'_, '_>) -> Done {
        self.answer = Some((self.run)(txn)?);
        Ok(())
    }

    fn keeps_claimed(&self) -> bool {
        self.keeps_claimed
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
    requests: Sender<Request>,
    patience: Arc<Patience>,
}

/// Whether a lone caller does well to look for its answer instead of going to sleep. A sleep costs more
/// than a small transaction takes: 10,000 to 12,000 enqueues a second where each is slept for, 18,000 to
/// 21,000 where none is. But where answers do not come so soon, as when each is synced or another process
/// writes too, nobody looks for a while.
#[derive(Debug, Default)]
struct Patience {
    /// Looks in a row that were in vain.
    in_vain: AtomicUsize,
    /// Lone calls that do not look.
    left_out: AtomicUsize,
}

impl Patience {
    /// So long an answer is looked for. Meanwhile the thread does nothing else, as if it had done the
    /// work itself, which takes 30 to 60 µs where the log is not synced, by the hour of the machine.
    const LOOK: Duration = Duration::from_micros(120);
    /// After so many in vain. A few may be: after a pause the writer has to be woken first, and now and
    /// then it copies the log back.
    const IN_VAIN: usize = 4;
    const LEFT_OUT: usize = 256;

    fn look<T>(&self, answer: &mut oneshot::Receiver<T>) -> std::result::Result<T, TryRecvError> {
        let one_less = |left: usize| left.checked_sub(1);
        if self.left_out.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
            return Err(TryRecvError::Empty);
        }
        let since = Instant::now();
        while since.elapsed() < Self::LOOK {
            match answer.try_recv() {
                Ok(answer) => {
                    self.in_vain.store(0, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(TryRecvError::Empty) => std::hint::spin_loop(),
                Err(TryRecvError::Closed) => return Err(TryRecvError::Closed),
            }
        }
        if self.in_vain.fetch_add(1, Ordering::Relaxed) + 1 >= Self::IN_VAIN {
            self.in_vain.store(0, Ordering::Relaxed);
            self.left_out.store(Self::LEFT_OUT, Ordering::Relaxed);
        }
        Err(TryRecvError::Empty)
    }
}

impl Writer {
    pub(crate) fn new(requests: Sender<Request>) -> Self {
        Self { requests, patience: Arc::default() }
    }

    /// Runs `work` in a transaction and answers after its commit.
    pub(crate) async fn call<T, F>(&self, operation: &'static str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Txn<'_, '_>) -> Done<T> + Send + 'static,
    {
        self.call_as(operation, Sort::default(), work).await
    }

    /// The same for claims, settles and plain submissions, whose changes of running jobs all go through
    /// [`transition::apply`].
    pub(crate) async fn call_hot<T, F>(&self, operation: &'static str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Txn<'_, '_>) -> Done<T> + Send + 'static,
    {
        self.call_as(operation, Sort { keeps_claimed: true, is_lone: false }, work).await
    }

    /// The same for a job on its own, whose caller is answered the sooner.
    pub(crate) async fn call_lone<T, F>(&self, operation: &'static str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Txn<'_, '_>) -> Done<T> + Send + 'static,
    {
        self.call_as(operation, Sort { keeps_claimed: true, is_lone: true }, work).await
    }

    async fn call_as<T, F>(&self, operation: &'static str, sort: Sort, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Txn<'_, '_>) -> Done<T> + Send + 'static,
    {
        let (to, mut answer) = oneshot::channel();
        let call = Calling { run: work, keeps_claimed: sort.keeps_claimed, answer: None, to };
        let closed = || Error::closed("the storage").during(operation);
        self.requests.send(Request::Call(Box::new(call))).map_err(|_| closed())?;
        let soon = match sort.is_lone {
            true => self.patience.look(&mut answer),
            false => Err(TryRecvError::Empty),
        };
        let answer = match soon {
            Ok(answer) => Ok(answer),
            Err(TryRecvError::Empty) => answer.await.map_err(|_| ()),
            // What told of its end must not be asked again.
            Err(TryRecvError::Closed) => Err(()),
        };
        let answer = answer.map_err(|()| closed().maybe_applied())?;
        answer.map_err(|error| error.during(operation))
    }

    pub(crate) fn watch(&self) {
        // An error means that the storage is being closed.
        let _ = self.requests.send(Request::Watch);
    }
}

/// How a call is treated.
#[derive(Clone, Copy, Debug, Default)]
struct Sort {
    /// See [`Call::keeps_claimed`].
    keeps_claimed: bool,
    /// Its caller looks for the answer before it sleeps.
    is_lone: bool,
}

#[cfg(test)]
mod tests {
    use super::{Request, Writer};
    use jobkit_core::{Applied, ErrorKind};

    /// Whether the caller still looks for its answer then or sleeps already.
    #[tokio::test]
    async fn a_writer_that_ends_without_an_answer_is_told_as_closed() {
        let (sender, requests) = std::sync::mpsc::channel::<Request>();
        let ending = std::thread::spawn(move || requests.iter().for_each(drop));
        let writer = Writer::new(sender);
        for _ in 0..100 {
            let error = writer.call_lone("submit", |_| Ok(())).await.expect_err("no answer");
            assert_eq!((error.kind(), error.applied()), (ErrorKind::Closed, Applied::Unknown));
        }
        drop(writer);
        ending.join().expect("no panic");
    }
}
