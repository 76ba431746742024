//! Opening the database, its threads, and `Storage`.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use jobkit_core::name::check_label;
use jobkit_core::storage::{
    Call, Capabilities, Durability, Finding, Level, Migrated, Severity, Storage, Support,
    TextSearch, WakeUpHub, WakeUpReach,
};
use jobkit_core::{Error, ErrorKind, Result, Timestamp};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{oneshot, watch};

use crate::connection::Db;
use crate::error::{Fault, SqlResult, is_busy, sqlite};
use crate::file::{DatabaseFile, Seen, log_bytes, place_of};
use crate::options::{SqliteDurability, SqliteOptions};
use crate::schema;
use crate::secret::secret;
use crate::writer::{Shared, Writer, WriterThread};

/// The write-ahead log is copied back when it has this many pages: 32 MiB.
const CHECKPOINT_PAGES: u32 = 8_192;
/// A larger log is cut to this size.
const LOG_BYTES: u64 = 64 << 20;
/// How often opening is repeated when the file was created or replaced meanwhile.
const OPENINGS: usize = 5;
/// SQLite before this release can in rare cases damage a database that several connections write to:
/// <https://www.sqlite.org/wal.html#walresetbug>. Two older lines have the fix, too.
const SOUND_LIBRARY: i32 = 3_051_003;
const SOUND_OLDER: [std::ops::Range<i32>; 2] = [3_044_006..3_045_000, 3_050_007..3_051_000];

/// Jobs in a SQLite file.
///
/// A handle: clones share the connections. When the last one is dropped, the file is closed.
///
/// # Example: the simplest way to open one
/// ```no_run
/// # async fn example() -> jobkit_core::Result<()> {
/// let storage = jobkit_sqlite::SqliteStorage::open("jobs.db").await?;
/// # drop(storage);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SqliteStorage {
    pub(crate) inner: Arc<Inner>,
}

impl fmt::Debug for SqliteStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStorage").field("options", &self.inner.options).finish()
    }
}

impl SqliteOptions {
    /// Opens the database.
    ///
    /// # Errors
    /// [`Configuration`](ErrorKind::Configuration) for an option out of range, and for a file that has
    /// several names (hard links); [`Corrupt`](ErrorKind::Corrupt) if the file is no database;
    /// [`NotWritable`](ErrorKind::NotWritable) if it cannot be written;
    /// [`Schema`](ErrorKind::Schema) if it was written by a newer release that this one cannot follow,
    /// or if it is missing or older and may not be migrated.
    pub async fn open(self) -> Result<SqliteStorage> {
        self.check()?;
        SqliteStorage::connect(self).await
    }
}

type Read = Box<dyn FnOnce(&Db<'_>) + Send>;

pub(crate) struct Inner {
    pub(crate) options: SqliteOptions,
    pub(crate) shared: Arc<Shared>,
    pub(crate) file: Arc<DatabaseFile>,
    capabilities: Capabilities,
    threads: Threads,
}

/// The threads that hold connections. Dropping it ends them and closes the file, also where the storage
/// could not be opened to the end.
struct Threads {
    /// `None` only while it is dropped.
    channels: Option<Channels>,
    writer: Option<JoinHandle<()>>,
    readers: Vec<JoinHandle<()>>,
}

struct Channels {
    writer: Writer,
    reads: Sender<Read>,
}

impl Inner {
    pub(crate) fn writer(&self) -> &Writer {
        &self.threads.channels.as_ref().expect("taken only by drop").writer
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let here = std::thread::current().id();
        // Waits, so that the next process or storage to open the file finds it closed.
        let wait_for = |threads: &mut dyn Iterator<Item = JoinHandle<()>>| {
            for thread in threads.filter(|it| it.thread().id() != here) {
                let _ = thread.join();
            }
        };
        let Some(Channels { writer, reads }) = self.channels.take() else { return };
        // Readers first. The last connection to close removes the log, and of two that close at the
        // same time each takes the other for one that stays. A reader that drops this itself is not waited
        // for, and may leave the log behind, which does no harm.
        drop(reads);
        wait_for(&mut self.readers.drain(..));
        drop(writer);
        wait_for(&mut self.writer.take().into_iter());
    }
}

impl SqliteStorage {
    /// Opens or creates the database at `path` with the default options.
    ///
    /// # Errors
    /// As [`SqliteOptions::open`].
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        SqliteOptions::new(path).open().await
    }

    /// Opens what a URL names, such as `sqlite://jobs.db`; see [`SqliteOptions::from_url`].
    ///
    /// # Errors
    /// As [`SqliteOptions::from_url`] and [`SqliteOptions::open`].
    pub async fn from_url(url: &str) -> Result<Self> {
        SqliteOptions::from_url(url)?.open().await
    }

    /// Verifies the pages and indexes of the whole file by SQLite's `quick_check`; what it finds, if
    /// anything. It reads everything: minutes where the file is large.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) when the file cannot even be read.
    pub async fn verify(&self) -> Result<Vec<String>> {
        self.read("verify", |db| {
            let lines = db.all("PRAGMA quick_check(20)", [], |row| row.get::<_, String>(0))?;
            Ok(lines.into_iter().filter(|line| line != "ok").collect())
        })
        .await
    }

    /// What every table's name begins with.
    pub(crate) fn prefix(&self) -> Arc<str> {
        format!("{}_", self.inner.options.namespace).into()
    }

    pub(crate) fn clock(&self) -> &dyn jobkit_core::Clock {
        &*self.inner.shared.clock
    }

    pub(crate) async fn connect(mut options: SqliteOptions) -> Result<Self> {
        // The path is absolute, so that it names the same file if the working directory changes.
        options.path = std::path::absolute(&options.path).map_err(|error| {
            Error::new(ErrorKind::Unavailable, "the working directory cannot be found")
                .caused_by(error)
                .with("path", options.path.display())
        })?;
        let prefix: Arc<str> = format!("{}_", options.namespace).into();
        let shared = Arc::new(Shared {
            hub: WakeUpHub::default(),
            sleepers: Arc::new(AtomicUsize::new(0)),
            foreign_work: watch::Sender::new(()),
            foreign_others: watch::Sender::new(()),
            clock: Arc::clone(&options.clock),
        });
        let (requests, received) = channel();
        let (opened, open) = oneshot::channel();
        let thread_of = {
            let (options, prefix, shared) =
                (options.clone(), Arc::clone(&prefix), Arc::clone(&shared));
            move || match open_to_write(&options, &prefix) {
                Ok((conn, file)) => {
                    let thread = WriterThread::new(
                        &conn,
                        prefix,
                        shared,
                        options.busy_timeout,
                        Arc::clone(&file),
                    );
                    if opened.send(Ok(file)).is_ok() {
                        thread.serve(&received);
                    }
                }
                Err(error) => {
                    let _ = opened.send(Err(error));
                }
            }
        };
        let thread = spawn("writer", thread_of)?;
        let lost = || Error::new(ErrorKind::Internal, "a thread of the storage ended");
        let during = |error: Error| error.during("open").with("path", options.path.display());
        // Until here nobody waits for the thread: it may have to wait for another process.
        let file: Arc<DatabaseFile> = open.await.map_err(|_| lost())?.map_err(during)?;
        let (reads, read) = channel::<Read>();
        let mut threads = Threads {
            channels: Some(Channels { writer: Writer::new(requests), reads }),
            writer: Some(thread),
            readers: Vec::new(),
        };

        let received = Arc::new(Mutex::new(read));
        for _ in 0..options.readers {
            let conn = open_to_read(&options)?;
            let (prefix, received) = (Arc::clone(&prefix), Arc::clone(&received));
            let serve = move || serve_reads(&conn, prefix, &received);
            threads.readers.push(spawn("reader", serve)?);
        }
        // The readers opened what the path named at that moment.
        file.check_all().map_err(during)?;

        let mut capabilities = Capabilities::new(Level::Full);
        capabilities.wake_ups = WakeUpReach::All;
        capabilities.durability = match options.durability {
            SqliteDurability::Normal => Durability::ProcessCrash,
            SqliteDurability::Full => Durability::PowerLoss,
        };
        capabilities.transactions = Support::Yes;
        capabilities.text_search = TextSearch::Window;
        capabilities.settle_and_claim = Support::Yes;
        capabilities.max_finished = options.max_finished;
        Ok(Self { inner: Arc::new(Inner { options, shared, file, capabilities, threads }) })
    }

    pub(crate) fn writer(&self) -> &Writer {
        self.inner.writer()
    }

    /// Runs `read` on a reader, on one snapshot of the file that the path names.
    pub(crate) async fn read<T, F>(&self, operation: &'static str, read: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Db<'_>) -> SqlResult<T> + Send + 'static,
    {
        let file = Arc::clone(&self.inner.file);
        self.read_what_is_open(operation, move |db| {
            file.check()?;
            read(db)
        })
        .await
    }

    /// Runs `read` on a reader, also when the path does not name the open file any more.
    async fn read_what_is_open<T, F>(&self, operation: &'static str, read: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Db<'_>) -> SqlResult<T> + Send + 'static,
    {
        let (to, answer) = oneshot::channel();
        let run: Read = Box::new(move |db| {
            let answer = in_snapshot(db, read).map_err(Error::from);
            // An error means that the caller has gone.
            let _ = to.send(answer);
        });
        let closed = || Error::closed("the storage").during(operation);
        let channels = self.inner.threads.channels.as_ref().ok_or_else(closed)?;
        channels.reads.send(run).map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?.map_err(|error| error.during(operation))
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new().name(format!("jobkit-sqlite-{name}")).spawn(run).map_err(|error| {
        Error::new(ErrorKind::Unavailable, "a thread cannot be started").caused_by(error)
    })
}

fn in_snapshot<T>(db: &Db<'_>, read: impl FnOnce(&Db<'_>) -> SqlResult<T>) -> SqlResult<T> {
    db.run("BEGIN", [])?;
    let answer = read(db);
    // Nothing was written, so it does not matter how the transaction ends. But it must end: a reader
    // that stays open keeps the log from being copied back.
    db.run("COMMIT", []).or_else(|_| db.run("ROLLBACK", []))?;
    answer
}

fn serve_reads(conn: &Connection, prefix: Arc<str>, reads: &Mutex<Receiver<Read>>) {
    let db = Db::new(conn, prefix);
    loop {
        let next = match reads.lock() {
            Ok(reads) => reads.recv(),
            Err(_) => return,
        };
        match next {
            // A panic is a bug, and must not stop the reader. The caller gets an error.
            Ok(read) => {
                let ran = catch_unwind(AssertUnwindSafe(|| read(&db)));
                if ran.is_err() && !db.conn.is_autocommit() {
                    // Nothing was written. If this fails, the next reads report it.
                    let _ = db.run("ROLLBACK", []);
                }
            }
            Err(_) => return,
        }
    }
}

/// Repeats `run` while another process blocks it.
fn retry_while_busy<T>(
    timeout: Duration,
    mut run: impl FnMut() -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let started = Instant::now();
    loop {
        match run() {
            Err(error) if is_busy(&error) && started.elapsed() < timeout => {
                std::thread::sleep(Duration::from_millis(1));
            }
            other => return other,
        }
    }
}

/// Opens the file, and returns which one it is: the one that the path named before and after.
fn open_to_write(
    options: &SqliteOptions,
    prefix: &Arc<str>,
) -> Result<(Connection, Arc<DatabaseFile>)> {
    for _ in 0..OPENINGS {
        let before = Seen::at(&options.path)?;
        let conn = connect_to_write(options, prefix)?;
        // A file that was created just now is opened once more.
        if Seen::at(&options.path)? == before {
            return Ok((conn, Arc::new(DatabaseFile::opened(&options.path))));
        }
    }
    Err(Error::new(ErrorKind::Unavailable, "the file was replaced while it was opened"))
}

fn connect_to_write(options: &SqliteOptions, prefix: &Arc<str>) -> Result<Connection> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, options.migrate);
    // Checked before opening: afterwards another process may have created it.
    if !options.migrate && matches!(options.path.try_exists(), Ok(false)) {
        return Err(Error::new(
            ErrorKind::Schema,
            "there is no such file, and looking makes none: check the path, or migrate it first",
        ));
    }
    let conn = Connection::open_with_flags(&options.path, flags).map_err(sqlite)?;
    stabilize_plans(&conn)?;
    if !options.migrate {
        check_before_writing(&conn, options, prefix)?;
    }
    // SQLite opens a read-only file without an error; the lock below refuses it.
    conn.busy_timeout(Duration::ZERO).map_err(sqlite)?;
    let synchronous = match options.durability {
        SqliteDurability::Normal => "NORMAL",
        SqliteDurability::Full => "FULL",
    };
    retry_while_busy(options.busy_timeout, || {
        conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
        conn.execute_batch(&format!(
            "PRAGMA synchronous = {synchronous}; PRAGMA foreign_keys = OFF; \
             PRAGMA temp_store = MEMORY; PRAGMA cache_size = -8192; \
             PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}; \
             PRAGMA journal_size_limit = {LOG_BYTES};"
        ))
    })
    .map_err(sqlite)?;
    {
        let db = Db::new(&conn, Arc::clone(prefix));
        retry_while_busy(options.busy_timeout, || db.conn.execute_batch("BEGIN IMMEDIATE"))
            .map_err(sqlite)?;
        let ready = if options.migrate {
            schema::migrate(&db).map(|_| ())
        } else {
            check_schema(&db, options)
        };
        match ready {
            Ok(()) => db.conn.execute_batch("COMMIT").map_err(sqlite)?,
            Err(fault) => {
                // The error matters; the connection is closed anyway.
                let _ = db.conn.execute_batch("ROLLBACK");
                return Err(fault.into());
            }
        }
    }
    Ok(conn)
}

/// Without this, SQLite prepares a statement again whenever a value changes that it compares with a
/// column. No plan here depends on values: partial indexes are named by literals.
fn stabilize_plans(conn: &Connection) -> Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(|_| ()).map_err(sqlite)
}

/// Refuses a file that does not fit before any setting changes it. A foreign file stays the same to the
/// byte, and the journal mode is part of the file.
fn check_before_writing(
    conn: &Connection,
    options: &SqliteOptions,
    prefix: &Arc<str>,
) -> Result<()> {
    // A log that another program left is not copied back either. An empty one is removed as always.
    let keep_log = log_bytes(&place_of(&options.path)) > 0;
    keep_log_on_close(conn, keep_log)?;
    let db = Db::new(conn, Arc::clone(prefix));
    let fits = retry_while_busy(options.busy_timeout, || match check_schema(&db, options) {
        Err(Fault::Sql(error)) => Err(error),
        other => Ok(other),
    });
    fits.map_err(sqlite)??;
    keep_log_on_close(conn, false)
}

fn keep_log_on_close(conn: &Connection, keep: bool) -> Result<()> {
    let set = conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, keep);
    set.map(|_| ()).map_err(sqlite)
}

fn check_schema(db: &Db<'_>, options: &SqliteOptions) -> SqlResult {
    let version = schema::check(db)?;
    if version >= schema::VERSION {
        return Ok(());
    }
    let words = match version {
        0 => format!(
            "the database has no tables of namespace {}: migrate it first, if it is the right one",
            options.namespace
        ),
        _ => format!(
            "the database has schema {version} and this release needs {}: migrate it first",
            schema::VERSION
        ),
    };
    Err(Error::new(ErrorKind::Schema, words).into())
}

fn open_to_read(options: &SqliteOptions) -> Result<Connection> {
    // Not read-only: a reader takes part in the recovery of the log.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(&options.path, flags).map_err(sqlite)?;
    stabilize_plans(&conn)?;
    conn.busy_timeout(options.busy_timeout).map_err(sqlite)?;
    conn.execute_batch(
        "PRAGMA query_only = ON; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -8192;",
    )
    .map_err(sqlite)?;
    Ok(conn)
}

#[async_trait]
impl Storage for SqliteStorage {
    fn capabilities(&self) -> &Capabilities {
        &self.inner.capabilities
    }

    fn backend(&self) -> &'static str {
        "sqlite"
    }

    fn namespace(&self) -> &str {
        &self.inner.options.namespace
    }

    fn location(&self) -> Option<String> {
        Some(self.inner.options.path.display().to_string())
    }

    async fn migrate(&self) -> Result<Migrated> {
        self.writer().call("migrate", |txn| schema::migrate(txn.db)).await
    }

    async fn check(&self) -> Result<Vec<Finding>> {
        let durability = self.inner.options.durability;
        let file = Arc::clone(&self.inner.file);
        self.read_what_is_open("check", move |db| {
            let mode = db.one("PRAGMA journal_mode", [], |row| row.get::<_, String>(0))?;
            let mut findings = of_the_file(&file);
            findings.extend(findings_of(durability, &mode.unwrap_or_default(), file.log_bytes()));
            Ok(findings)
        })
        .await
    }

    async fn now(&self) -> Result<Timestamp> {
        Ok(self.inner.shared.clock.now())
    }

    async fn secret(&self, _: &Call, name: &str) -> Result<[u8; 32]> {
        check_label("secret", name)?;
        let name = name.to_owned();
        self.writer().call("secret", move |txn| secret(txn.db, &name)).await
    }
}

/// What is wrong with the file as a whole.
fn of_the_file(file: &DatabaseFile) -> Vec<Finding> {
    let lost = file.what_is_wrong(true).map(|message| ("file-gone", message));
    let found = lost.into_iter().chain(file.hazards());
    let finding = |(code, message)| Finding { severity: Severity::Error, code, message };
    found.map(finding).collect()
}

fn findings_of(durability: SqliteDurability, journal_mode: &str, log_bytes: u64) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |severity, code, message: String| {
        findings.push(Finding { severity, code, message });
    };
    if durability == SqliteDurability::Normal {
        find(
            Severity::Info,
            "synchronous-normal",
            "the last commits before a power loss can be missing afterwards; where that matters, open \
             with SqliteDurability::Full, which waits for the disk at every commit"
                .into(),
        );
    }
    if journal_mode != "wal" {
        find(
            Severity::Error,
            "no-wal",
            format!(
                "the journal mode is {journal_mode}, since the file system cannot share memory (a \
                 network file system?); then several processes must not use the file: put it on a \
                 local disk"
            ),
        );
    }
    let library = rusqlite::version_number();
    if library < SOUND_LIBRARY && !SOUND_OLDER.iter().any(|sound| sound.contains(&library)) {
        find(
            Severity::Warning,
            "old-library",
            format!(
                "SQLite {} is linked, which can in rare cases damage a database that several processes \
                 write to; use 3.51.3 or later, or the feature bundled with a recent rusqlite",
                rusqlite::version()
            ),
        );
    }
    if log_bytes > 4 * LOG_BYTES {
        find(
            Severity::Warning,
            "log-too-large",
            format!(
                "the write-ahead log has {} MiB: some process reads for very long, or none has closed \
                 the file in order; look for a transaction that stays open",
                log_bytes >> 20
            ),
        );
    }
    findings
}

impl Inner {
    /// Begins to poll for writes of other processes.
    pub(crate) fn watch(&self) {
        if self.shared.sleepers.load(Ordering::SeqCst) > 0
            && let Some(channels) = &self.threads.channels
        {
            channels.writer.watch();
        }
    }
}

#[cfg(test)]
mod tests;
