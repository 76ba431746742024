//! The one thread that writes.
//!
//! SQLite has one writer at a time, so there is one thread that writes. Calls that wait share a
//! transaction and are answered after its commit. Without calls the thread sleeps; while a listener
//! waits it polls for writes of other processes.

mod call;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use jobkit_core::storage::WakeUpHub;
use jobkit_core::{Clock, Error, ErrorKind, Result};
use rusqlite::Connection;
use tokio::sync::watch;

use self::call::PendingCall;
pub(crate) use self::call::{CallOptions, Message, Writer};
use crate::connection::Db;
use crate::error::{SqlResult, is_busy, sqlite};
use crate::file::DatabaseFile;
use crate::txn::counters::Tail;
use crate::txn::{Carried, Committed, Push, Txn};

/// How often the thread checks before a write that the path still names the open file. After each
/// commit it checks in any case: that costs a microsecond or two, and the answers rest on it.
const FILE_CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// The most calls that share a transaction.
const CALLS: usize = 256;
/// How often the thread polls for writes of other processes while a listener waits.
const POLL_INTERVAL: Duration = Duration::from_millis(15);
/// Deltas are folded at most this often.
const FOLD_INTERVAL: Duration = Duration::from_secs(1);
/// A transaction that has taken this long takes no further call, so that its callers need not wait for
/// a crowd.
const LONGEST: Duration = Duration::from_millis(20);
/// How long the thread spins for the next request before it sleeps. A caller that enqueues one job
/// after the other gets 14,000 a second with it, and 9,500 when the thread has to be woken for each.
const SPIN: Duration = Duration::from_micros(40);
/// The first wait for another process that writes, and the longest. SQLite's own busy handler waits
/// up to 100 ms at once, which made the 99th percentile 54 ms where this makes it 3.
const BUSY_WAIT: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(4));
/// What several threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) hub: WakeUpHub,
    /// How many listeners wait at this moment.
    pub(crate) sleepers: Arc<AtomicUsize>,
    /// Signalled when another process made jobs claimable.
    pub(crate) foreign_work: watch::Sender<()>,
    /// Signalled when another process did anything else that listeners want to know.
    pub(crate) foreign_others: watch::Sender<()>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// The thread's state.
pub(crate) struct WriterThread<'c> {
    db: Db<'c>,
    shared: Arc<Shared>,
    busy_timeout: Duration,
    file: Arc<DatabaseFile>,
    /// When the path was last seen to name the open file; `None` if it does not.
    file_seen_at: Option<Instant>,
    folded: Option<Instant>,
    tail: Option<Tail>,
    carried: Carried,
    /// `data_version` when the schema was checked last.
    checked: Option<i64>,
    /// `data_version` and the signal at the last poll.
    seen: Option<(i64, (i64, i64))>,
    watched: Instant,
}

impl<'c> WriterThread<'c> {
    pub(crate) fn new(
        conn: &'c Connection,
        prefix: Arc<str>,
        shared: Arc<Shared>,
        busy_timeout: Duration,
        file: Arc<DatabaseFile>,
    ) -> Self {
        Self {
            db: Db::new(conn, prefix),
            shared,
            busy_timeout,
            file,
            file_seen_at: None,
            folded: None,
            tail: None,
            carried: Carried::default(),
            checked: None,
            seen: None,
            watched: Instant::now(),
        }
    }

    /// Serves until the last sender is gone.
    pub(crate) fn serve(mut self, messages: &Receiver<Message>) {
        self.check_other_processes();
        loop {
            let first = if let Some(message) = spin(messages) {
                message
            } else if self.shared.sleepers.load(Ordering::SeqCst) > 0 {
                match messages.recv_timeout(POLL_INTERVAL) {
                    Err(RecvTimeoutError::Timeout) => {
                        self.check_other_processes();
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => break,
                    Ok(message) => message,
                }
            } else {
                match messages.recv() {
                    Ok(message) => message,
                    Err(_) => break,
                }
            };
            let mut group = Vec::new();
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Call(call) => group.push(call),
                    Message::Watch => {}
                }
                next = match messages.try_recv() {
                    Ok(message) if group.len() < CALLS => Some(message),
                    Ok(Message::Call(call)) => {
                        group.push(call);
                        None
                    }
                    Ok(Message::Watch) | Err(_) => None,
                };
            }
            if !group.is_empty() {
                self.commit_group(group);
            }
            if self.watched.elapsed() >= POLL_INTERVAL {
                self.check_other_processes();
            }
        }
    }

    /// Runs all calls in one transaction. If one fails, each runs in a transaction of its own.
    fn commit_group(&mut self, mut group: Vec<Box<dyn PendingCall>>) {
        if let Err(error) = self.begin() {
            for call in group {
                call.answer(Some(error.duplicate()));
            }
            return;
        }
        let started = Instant::now();
        let carried = std::mem::take(&mut self.carried);
        let mut txn = Txn::new(&self.db, &*self.shared.clock, carried);
        let mut failed = None;
        let mut ran = 0;
        for call in &mut group {
            ran += 1;
            if !call.options().keeps_claimed_rows {
                txn.carried.claimed.clear();
            }
            // A panic is a bug, and must not stop the storage.
            let run = catch_unwind(AssertUnwindSafe(|| call.run(&mut txn)));
            if let Err(fault) = run.unwrap_or_else(|_| Err(bug().into())) {
                failed = Some(fault);
                break;
            }
            if started.elapsed() > LONGEST {
                break;
            }
        }
        let failed = match failed {
            None => {
                let fold = self.folded.is_none_or(|at| at.elapsed() >= FOLD_INTERVAL);
                match txn.commit(self.tail.as_ref(), fold) {
                    Ok(committed) => {
                        let later = group.split_off(ran);
                        self.committed(committed);
                        // The commit went to the open file, and an answer promises that the path names
                        // it.
                        let lost = self.file.check().err().map(Error::maybe_applied);
                        if lost.is_some() {
                            self.file_seen_at = None;
                        }
                        for call in group {
                            call.answer(lost.as_ref().map(Error::duplicate));
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
            // Calls that did not run get the same error, and their callers repeat them.
            for call in group {
                call.answer(Some(failed.duplicate()));
            }
        } else {
            // One call is poisoned, and the others must not suffer from it.
            for call in group {
                self.commit_group(vec![call]);
            }
        }
    }

    fn committed(&mut self, committed: Committed) {
        if committed.folded {
            self.folded = Some(Instant::now());
        }
        if let Some((_, signal)) = &mut self.seen {
            signal.0 = signal.0.wrapping_add(i64::from(committed.work));
            let others = !committed.pushes.is_empty() || committed.marks;
            signal.1 = signal.1.wrapping_add(i64::from(others));
        }
        self.tail = committed.tail;
        self.carried = committed.carried;
        if committed.work {
            self.shared.hub.work();
        }
        if committed.marks {
            self.shared.hub.marks();
        }
        for push in committed.pushes {
            match push {
                Push::Due(at) => self.shared.hub.due(at),
                Push::Finished(job) => self.shared.hub.finished(job),
                Push::Cancel(job) => self.shared.hub.cancel(job),
            }
        }
    }

    /// Begins a transaction, if this release may still write and the path names the open file.
    fn begin(&mut self) -> Result<()> {
        if self.file_seen_at.is_none_or(|at| at.elapsed() >= FILE_CHECK_INTERVAL) {
            self.file_seen_at = None;
            self.file.check_all()?;
            self.file_seen_at = Some(Instant::now());
        }
        self.begin_any()?;
        let checked = self.check_schema().map_err(Error::from);
        checked.map_err(|error| self.roll_back(error))
    }

    /// Refuses a file that another process has migrated to a schema that this release must not write.
    /// While nobody else writes, this compares one number for each transaction and reads no table.
    fn check_schema(&mut self) -> SqlResult {
        let version = self.db.one("PRAGMA data_version", [], |row| row.get::<_, i64>(0))?;
        if version != self.checked {
            self.carried = Carried::default();
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
        // After some errors SQLite has rolled back by itself. Then this fails, and nothing is open.
        let rolled_back = self.db.conn.is_autocommit() || self.db.run("ROLLBACK", []).is_ok();
        if !rolled_back {
            failed = failed.maybe_applied();
        }
        failed
    }

    /// Polls whether another process has written, and signals what listeners want to know.
    fn check_other_processes(&mut self) {
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
        // Without tables there is nothing to signal yet.
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
fn spin(messages: &Receiver<Message>) -> Option<Message> {
    let since = Instant::now();
    while since.elapsed() < SPIN {
        if let Ok(message) = messages.try_recv() {
            return Some(message);
        }
        std::hint::spin_loop();
    }
    None
}

fn bug() -> Error {
    Error::new(ErrorKind::Internal, "a call panicked, which is a bug in jobkit-sqlite")
}
