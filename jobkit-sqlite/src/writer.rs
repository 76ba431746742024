//! The one thread that writes.
//!
//! SQLite has one writer at a time, so there is one here: what waits when it becomes free shares a
//! transaction, and everybody is answered after its commit. It does nothing by itself; while somebody
//! sleeps it looks whether another process has written.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use jobkit_core::edge::Finish;
use jobkit_core::error_group::ErrorGroup;
use jobkit_core::failure::Fingerprint;
use jobkit_core::stats::{Delta, Step};
use jobkit_core::storage::WakeUpHub;
use jobkit_core::{BatchId, Clock, Error, ErrorKind, Incarnation, JobId, Name, Result, Timestamp};
use rusqlite::{Connection, params};
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{oneshot, watch};

use crate::batches::Touched;
use crate::codec::{int, uint};
use crate::connection::Db;
use crate::error::{Done, is_busy, sqlite};
use crate::jobs::alike::Alike;

/// The most calls that share a transaction.
const GROUP: usize = 256;
/// How often it is looked whether another process has written, while somebody sleeps.
const WATCH_INTERVAL: Duration = Duration::from_millis(15);
/// Deltas are folded at most so often.
const FOLD_INTERVAL: Duration = Duration::from_secs(1);
/// A row of deltas with more lanes than this is left as it is.
const TAIL_LANES: usize = 16;
/// A transaction takes no further call once it has taken so long, so that nobody waits for a crowd.
const LONG: Duration = Duration::from_millis(20);
/// So long the thread looks for the next request before it sleeps: whoever enqueues one job after the
/// other gets 14,000 a second so, and 9,500 when the thread has to be woken for each.
const LINGER: Duration = Duration::from_micros(40);
/// The first wait for another process that writes, and the longest. SQLite's own busy handler waits
/// up to 100 ms at once, which made the 99th percentile 54 ms where this makes it 3.
const BUSY_WAIT: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(4));

/// A call on its way to the writer.
pub(crate) trait Call: Send {
    /// May run twice: the second time alone, after what it shared a transaction with was rolled back.
    fn run(&mut self, flight: &mut Flight<'_, '_>) -> Done;
    /// Whether it changes running jobs in no other way than by [`Flight::enact`].
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
    F: FnMut(&mut Flight<'_, '_>) -> Done<T> + Send,
    T: Send,
{
    fn run(&mut self, flight: &mut Flight<'_, '_>) -> Done {
        self.answer = Some((self.run)(flight)?);
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
    /// work itself.
    const LOOK: Duration = Duration::from_micros(60);
    /// After so many in vain. A few may be: after a pause the writer has to be woken first, and now and
    /// then it copies the log back.
    const IN_VAIN: usize = 4;
    const LEFT_OUT: usize = 256;

    fn look<T>(&self, answer: &mut oneshot::Receiver<T>) -> Option<T> {
        let one_less = |left: usize| left.checked_sub(1);
        if self.left_out.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
            return None;
        }
        let since = Instant::now();
        while since.elapsed() < Self::LOOK {
            match answer.try_recv() {
                Ok(answer) => {
                    self.in_vain.store(0, Ordering::Relaxed);
                    return Some(answer);
                }
                Err(TryRecvError::Empty) => std::hint::spin_loop(),
                Err(TryRecvError::Closed) => return None,
            }
        }
        if self.in_vain.fetch_add(1, Ordering::Relaxed) + 1 >= Self::IN_VAIN {
            self.in_vain.store(0, Ordering::Relaxed);
            self.left_out.store(Self::LEFT_OUT, Ordering::Relaxed);
        }
        None
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
        F: FnMut(&mut Flight<'_, '_>) -> Done<T> + Send + 'static,
    {
        self.call_as(operation, Sort::default(), work).await
    }

    /// The same for claims, settles and plain submissions, whose changes of running jobs all go through
    /// [`Flight::enact`].
    pub(crate) async fn call_hot<T, F>(&self, operation: &'static str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Flight<'_, '_>) -> Done<T> + Send + 'static,
    {
        self.call_as(operation, Sort { keeps_claimed: true, is_lone: false }, work).await
    }

    /// The same for a job on its own, whose caller is answered the sooner.
    pub(crate) async fn call_lone<T, F>(&self, operation: &'static str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Flight<'_, '_>) -> Done<T> + Send + 'static,
    {
        self.call_as(operation, Sort { keeps_claimed: true, is_lone: true }, work).await
    }

    async fn call_as<T, F>(&self, operation: &'static str, sort: Sort, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Flight<'_, '_>) -> Done<T> + Send + 'static,
    {
        let (to, mut answer) = oneshot::channel();
        let call = Calling { run: work, keeps_claimed: sort.keeps_claimed, answer: None, to };
        let closed = || Error::closed("the storage").during(operation);
        self.requests.send(Request::Call(Box::new(call))).map_err(|_| closed())?;
        let soon = if sort.is_lone { self.patience.look(&mut answer) } else { None };
        let answer = match soon {
            Some(answer) => answer,
            None => answer.await.map_err(|_| closed().maybe_applied())?,
        };
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

/// What several threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) hub: WakeUpHub,
    /// Listeners that wait at this moment.
    pub(crate) sleepers: Arc<AtomicUsize>,
    /// Told when another process made work claimable.
    pub(crate) foreign_work: watch::Sender<()>,
    /// Told when another process did something else that is pushed.
    pub(crate) foreign_others: watch::Sender<()>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// What is pushed to listeners after the commit.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Push {
    Due(Timestamp),
    Finished(JobId),
    Cancel(JobId),
}

/// One transaction, and what is known in it.
pub(crate) struct Flight<'d, 'c> {
    pub(crate) db: &'d Db<'c>,
    clock: &'d dyn Clock,
    deltas: Vec<Delta>,
    pub(crate) work: bool,
    pub(crate) pushes: Vec<Push>,
    /// Parents that finished and whose children are to be decided.
    pub(crate) finished: VecDeque<(JobId, Finish)>,
    /// Batches that were looked at since the last [`settle_batches`](Self::settle_batches).
    pub(crate) batches: HashMap<BatchId, Touched>,
    /// Limits that may have room for those who wait at them.
    pub(crate) refills: BTreeSet<i64>,
    /// When sweeps are to look at limits again, since room that was given will not have been used.
    pub(crate) look_again: Option<Timestamp>,
    /// Failures of this flight, by fingerprint.
    failures: BTreeMap<Fingerprint, ErrorGroup>,
    next_seq: Option<i64>,
    /// Rows that change alike and are written together.
    pub(crate) alike: Alike,
}

/// The row of what this process has counted since the last fold.
#[derive(Clone, Debug)]
struct Tail {
    id: i64,
    delta: Delta,
}

impl Tail {
    /// Whether another delta may be added: of the same minute, and while the row is small.
    fn takes(&self, delta: &Delta) -> bool {
        self.delta.at == delta.at && self.delta.lanes.len() <= TAIL_LANES
    }
}

/// What [`Flight::restore`] goes back to.
pub(crate) struct Saved {
    deltas: Vec<Delta>,
    work: bool,
    pushes: usize,
    failures: BTreeMap<Fingerprint, ErrorGroup>,
    next_seq: Option<i64>,
}

impl<'d, 'c> Flight<'d, 'c> {
    pub(crate) fn new(db: &'d Db<'c>, clock: &'d dyn Clock) -> Self {
        Self {
            db,
            clock,
            deltas: Vec::new(),
            work: false,
            pushes: Vec::new(),
            finished: VecDeque::new(),
            batches: HashMap::new(),
            refills: BTreeSet::new(),
            look_again: None,
            failures: BTreeMap::new(),
            next_seq: None,
            alike: Alike::default(),
        }
    }

    /// The storage's clock, or what a test puts in its place.
    pub(crate) fn now(&self, instead: Option<Timestamp>) -> Timestamp {
        instead.unwrap_or_else(|| self.clock.now())
    }

    /// Where this call's transitions are counted. Calls of one minute share a delta: no bucket is
    /// shorter.
    pub(crate) fn delta(&mut self, now: Timestamp) -> &mut Delta {
        let bucket = Step::Minute.bucket(now);
        let found = self.deltas.iter().position(|delta| delta.at == bucket.as_micros());
        let index = found.unwrap_or_else(|| {
            self.deltas.push(Delta::at(bucket));
            self.deltas.len() - 1
        });
        &mut self.deltas[index]
    }

    /// The next place in line. Places are never given twice, also when the last jobs were purged.
    pub(crate) fn next_seq(&mut self) -> Done<i64> {
        let next = match self.next_seq {
            Some(next) => next,
            None => self.last_seq()?.saturating_add(1),
        };
        let after = next.checked_add(1);
        self.next_seq =
            Some(after.ok_or_else(|| Error::corrupt("the last place in line is taken"))?);
        Ok(next)
    }

    /// The highest place that was ever given.
    pub(crate) fn last_seq(&self) -> Done<i64> {
        if let Some(next) = self.next_seq {
            return Ok(next - 1);
        }
        let read = || -> Done<i64> {
            let last = self.db.one("SELECT max(seq) FROM jk_job", [], |row| row.get(0))?.flatten();
            let floor =
                self.db
                    .one("SELECT value FROM jk_meta WHERE key = 'floor'", [], |row| row.get(0))?;
            Ok(last.unwrap_or(0).max(floor.unwrap_or(0)))
        };
        match self.db.last_seq() {
            Some(last) => {
                #[cfg(test)]
                assert!(!matches!(read(), Ok(stored) if stored > last), "{last} is not the last");
                Ok(last)
            }
            None => read(),
        }
    }

    /// Begins a part that may be undone alone.
    pub(crate) fn save(&mut self) -> Done<Saved> {
        self.db.run("SAVEPOINT part", [])?;
        Ok(Saved {
            deltas: self.deltas.clone(),
            work: self.work,
            pushes: self.pushes.len(),
            failures: self.failures.clone(),
            next_seq: self.next_seq,
        })
    }

    /// Undoes what was done since.
    pub(crate) fn restore(&mut self, saved: Saved) -> Done {
        self.db.run("ROLLBACK TO part", [])?;
        self.deltas = saved.deltas;
        self.work = saved.work;
        self.pushes.truncate(saved.pushes);
        self.failures = saved.failures;
        self.next_seq = saved.next_seq;
        self.finished.clear();
        self.batches.clear();
        self.refills.clear();
        self.release()
    }

    /// Keeps what was done since.
    pub(crate) fn release(&mut self) -> Done {
        self.db.run("RELEASE part", [])?;
        Ok(())
    }

    /// What a commit of the writer would add, inside a transaction that another commits.
    pub(crate) fn end_inside(&mut self) -> Done {
        self.write_deltas(None)?;
        self.write_failures()?;
        self.signal()
    }

    /// Counts a failed attempt, once for each in a flight.
    pub(crate) fn count_failure(&mut self, failed: ErrorGroup) {
        match self.failures.get_mut(&failed.fingerprint) {
            Some(group) => group.add(&failed),
            None => {
                self.failures.insert(failed.fingerprint, failed);
            }
        }
    }

    fn write_failures(&mut self) -> Done {
        for (_, group) in std::mem::take(&mut self.failures) {
            crate::operations::failures::add(self.db, group)?;
        }
        Ok(())
    }

    /// Writes what was counted, together with what this process has counted since the last fold: one
    /// row is written again and again, so that there are few to read. Answers what it holds then.
    fn write_deltas(&mut self, tail: Option<&Tail>) -> Done<Option<Tail>> {
        let mut tail = tail.cloned();
        for delta in self.deltas.drain(..).filter(|delta| !delta.is_empty()) {
            if let Some(tail) = tail.as_mut().filter(|tail| tail.takes(&delta)) {
                let mut sum = tail.delta.clone();
                for (queue, kind, tally) in &delta.lanes {
                    sum.lane(queue, kind).add(tally);
                }
                let body = serde_json::to_string(&sum)?;
                let written = self
                    .db
                    .run("UPDATE jk_delta SET body = ?2 WHERE id = ?1", params![tail.id, body])?;
                // Otherwise another process has folded it.
                if written > 0 {
                    tail.delta = sum;
                    continue;
                }
            }
            // A number that no other process has: theirs must not be overwritten.
            let id = Incarnation::new().as_i64();
            let body = serde_json::to_string(&delta)?;
            self.db.run("INSERT INTO jk_delta (id, body) VALUES (?1, ?2)", params![id, body])?;
            tail = Some(Tail { id, delta });
        }
        Ok(tail)
    }

    /// Tells other processes, who read it when they see that something was written.
    fn signal(&self) -> Done {
        if self.work || !self.pushes.is_empty() {
            self.db.run(
                "UPDATE jk_delta SET work = work + ?1, others = others + ?2 WHERE id = 0",
                [i64::from(self.work), i64::from(!self.pushes.is_empty())],
            )?;
        }
        Ok(())
    }
}

/// The thread's state.
pub(crate) struct WriterThread<'c> {
    db: Db<'c>,
    shared: Arc<Shared>,
    busy_timeout: Duration,
    folded: Option<Instant>,
    tail: Option<Tail>,
    /// `data_version` when the schema was checked last.
    checked: Option<i64>,
    /// `data_version` and the signal as they were seen last.
    seen: Option<(i64, (i64, i64))>,
    watched: Instant,
}

impl<'c> WriterThread<'c> {
    pub(crate) fn new(
        conn: &'c Connection,
        prefix: Arc<str>,
        shared: Arc<Shared>,
        busy_timeout: Duration,
    ) -> Self {
        Self {
            db: Db::new(conn, prefix),
            shared,
            busy_timeout,
            folded: None,
            tail: None,
            checked: None,
            seen: None,
            watched: Instant::now(),
        }
    }

    /// Serves until the last sender is gone.
    pub(crate) fn serve(mut self, requests: &Receiver<Request>) {
        self.look_for_others();
        loop {
            let first = if let Some(request) = soon(requests) {
                request
            } else if self.shared.sleepers.load(Ordering::SeqCst) > 0 {
                match requests.recv_timeout(WATCH_INTERVAL) {
                    Err(RecvTimeoutError::Timeout) => {
                        self.look_for_others();
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => break,
                    Ok(request) => request,
                }
            } else {
                match requests.recv() {
                    Ok(request) => request,
                    Err(_) => break,
                }
            };
            let mut group = Vec::new();
            let mut next = Some(first);
            while let Some(request) = next {
                match request {
                    Request::Call(call) => group.push(call),
                    Request::Watch => {}
                }
                next = match requests.try_recv() {
                    Ok(request) if group.len() < GROUP => Some(request),
                    Ok(Request::Call(call)) => {
                        group.push(call);
                        None
                    }
                    Ok(Request::Watch) | Err(_) => None,
                };
            }
            if !group.is_empty() {
                self.commit_group(group);
            }
            if self.watched.elapsed() >= WATCH_INTERVAL {
                self.look_for_others();
            }
        }
    }

    /// Runs all in one transaction; if one of them fails, each in its own.
    fn commit_group(&mut self, mut group: Vec<Box<dyn Call>>) {
        if let Err(error) = self.begin() {
            for call in group {
                call.answer(Some(error.duplicate()));
            }
            return;
        }
        let started = Instant::now();
        let mut flight = Flight::new(&self.db, &*self.shared.clock);
        let mut failed = None;
        let mut ran = 0;
        for call in &mut group {
            ran += 1;
            if !call.keeps_claimed() {
                self.db.forget_all_claimed();
            }
            // A panic is a bug, and must not take the storage with it.
            let run = catch_unwind(AssertUnwindSafe(|| call.run(&mut flight)));
            if let Err(fault) = run.unwrap_or_else(|_| Err(bug().into())) {
                failed = Some(fault);
                break;
            }
            if started.elapsed() > LONG {
                break;
            }
        }
        let failed = match failed {
            None => {
                let fold = self.folded.is_none_or(|at| at.elapsed() >= FOLD_INTERVAL);
                match finish(flight, self.tail.as_ref(), fold) {
                    Ok(after) => {
                        let later = group.split_off(ran);
                        self.committed(after);
                        for call in group {
                            call.answer(None);
                        }
                        if !later.is_empty() {
                            self.commit_group(later);
                        }
                        return;
                    }
                    Err(error) => error,
                }
            }
            Some(fault) => fault.into(),
        };
        let failed = self.roll_back(failed);
        if group.len() == 1 || failed.applied() == jobkit_core::Applied::Unknown {
            // Those that did not run are told the same, and repeat it.
            for call in group {
                call.answer(Some(failed.duplicate()));
            }
        } else {
            // One of them is poisoned, and the others must not suffer.
            for call in group {
                self.commit_group(vec![call]);
            }
        }
    }

    fn committed(&mut self, after: After) {
        if after.folded {
            self.folded = Some(Instant::now());
        }
        if let Some((_, signal)) = &mut self.seen {
            signal.0 = signal.0.wrapping_add(i64::from(after.work));
            signal.1 = signal.1.wrapping_add(i64::from(!after.pushes.is_empty()));
        }
        self.tail = after.tail;
        if let Some(next) = after.next_seq {
            self.db.remember_last_seq(Some(next - 1));
        }
        if after.work {
            self.shared.hub.work();
        }
        for push in after.pushes {
            match push {
                Push::Due(at) => self.shared.hub.due(at),
                Push::Finished(job) => self.shared.hub.finished(job),
                Push::Cancel(job) => self.shared.hub.cancel(job),
            }
        }
    }

    /// Begins a transaction, if this release may still write.
    fn begin(&mut self) -> Result<()> {
        self.begin_any()?;
        let checked = self.check_schema().map_err(Error::from);
        checked.map_err(|error| self.roll_back(error))
    }

    /// Refuses what another process has migrated to a schema that this release must not write. One
    /// number is compared for each transaction, and no table read while nobody else writes.
    fn check_schema(&mut self) -> Done {
        let version = self.db.one("PRAGMA data_version", [], |row| row.get::<_, i64>(0))?;
        if version != self.checked {
            self.db.forget_all_claimed();
            self.db.remember_last_seq(None);
            crate::schema::check_again(&self.db)?;
            self.checked = version;
        }
        Ok(())
    }

    fn begin_any(&self) -> Result<()> {
        let started = Instant::now();
        let mut wait = BUSY_WAIT.0;
        loop {
            match self.db.run("BEGIN IMMEDIATE", []) {
                Ok(_) => return Ok(()),
                Err(error) if is_busy(&error) && started.elapsed() < self.busy_timeout => {
                    std::thread::sleep(wait);
                    wait = (wait * 2).min(BUSY_WAIT.1);
                }
                Err(error) => return Err(sqlite(error)),
            }
        }
    }

    fn roll_back(&self, mut failed: Error) -> Error {
        self.db.forget_names();
        self.db.forget_all_claimed();
        self.db.remember_last_seq(None);
        // SQLite rolls back by itself after some errors; then this fails, and nothing is open.
        let rolled_back = self.db.conn.is_autocommit() || self.db.run("ROLLBACK", []).is_ok();
        if !rolled_back {
            failed = failed.maybe_applied();
        }
        failed
    }

    /// Whether another process has written, and what of it is pushed.
    fn look_for_others(&mut self) {
        self.watched = Instant::now();
        let version =
            self.db.one("PRAGMA data_version", [], |row| row.get::<_, i64>(0)).ok().flatten();
        let Some(version) = version else { return };
        if self.seen.is_some_and(|(seen, _)| seen == version) {
            return;
        }
        let signal = self.db.one("SELECT work, others FROM jk_delta WHERE id = 0", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        });
        // Without tables there is nothing to be told yet.
        let Ok(Some(signal)) = signal else { return };
        if let Some((_, seen)) = self.seen {
            if seen.0 != signal.0 {
                self.shared.foreign_work.send_replace(());
            }
            if seen.1 != signal.1 {
                self.shared.foreign_others.send_replace(());
            }
        }
        self.seen = Some((version, signal));
    }
}

/// A request that comes within a moment.
fn soon(requests: &Receiver<Request>) -> Option<Request> {
    let since = Instant::now();
    while since.elapsed() < LINGER {
        if let Ok(request) = requests.try_recv() {
            return Some(request);
        }
        std::hint::spin_loop();
    }
    None
}

/// What follows a commit.
struct After {
    work: bool,
    pushes: Vec<Push>,
    folded: bool,
    tail: Option<Tail>,
    next_seq: Option<i64>,
}

fn bug() -> Error {
    Error::new(ErrorKind::Internal, "a call panicked, which is a bug in jobkit-sqlite")
}

fn finish(mut flight: Flight<'_, '_>, tail: Option<&Tail>, fold: bool) -> Result<After> {
    let mut tail = flight.write_deltas(tail)?;
    flight.write_failures()?;
    if fold && fold_apart(flight.db)? {
        tail = None;
    }
    flight.signal()?;
    match flight.db.run("COMMIT", []) {
        Ok(_) => Ok(After {
            work: flight.work,
            pushes: flight.pushes,
            folded: fold,
            tail,
            next_seq: flight.next_seq,
        }),
        Err(error) => {
            let failed = sqlite(error);
            // When the log could not be written or synced, it may yet hold the commit.
            Err(match failed.kind() {
                ErrorKind::NotWritable => failed,
                _ => failed.maybe_applied(),
            })
        }
    }
}

/// Folds as a part of its own: statistics that cannot be read must stop nobody's jobs. What was counted
/// waits until they can.
fn fold_apart(db: &Db<'_>) -> Done<bool> {
    db.run("SAVEPOINT fold", [])?;
    match fold_deltas(db) {
        Ok(folded) => {
            db.run("RELEASE fold", [])?;
            Ok(folded)
        }
        Err(fault) => {
            db.run("ROLLBACK TO fold", [])?;
            db.run("RELEASE fold", [])?;
            let error = Error::from(fault);
            tracing::warn!(%error, "statistics cannot be added up for now");
            Ok(false)
        }
    }
}

/// Adds up what was counted; whether there was anything.
fn fold_deltas(db: &Db<'_>) -> Done<bool> {
    let deltas = db.all("SELECT body FROM jk_delta WHERE body IS NOT NULL", [], |row| {
        row.get::<_, String>(0)
    })?;
    if deltas.is_empty() {
        return Ok(false);
    }
    crate::monitoring::fold(db, deltas.iter().map(String::as_str))?;
    db.run("DELETE FROM jk_delta WHERE body IS NOT NULL", [])?;
    Ok(true)
}

impl Flight<'_, '_> {
    /// The names of a lane.
    pub(crate) fn lane(&self, queue: i64, kind: i64) -> Done<(Name, Name)> {
        Ok((self.db.name(queue)?, self.db.name(kind)?))
    }

    /// Reads a number of `jk_meta`.
    pub(crate) fn meta(&self, key: &str) -> Done<u64> {
        let value =
            self.db.one("SELECT value FROM jk_meta WHERE key = ?1", [key], |row| row.get(0))?;
        Ok(uint(value.unwrap_or(0)))
    }

    /// Sets a number of `jk_meta`.
    pub(crate) fn set_meta(&self, key: &str, value: u64) -> Done {
        self.db.run(
            "INSERT INTO jk_meta (key, value) VALUES (?1, ?2) \
             ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (key, int(value)),
        )?;
        Ok(())
    }
}
