//! Enqueueing, and completing a job, inside the caller's transaction on the same file.

use jobkit_core::client::{InTransaction, IntoSubmission, check_stands_alone, ids_of};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{Call, Settle, SettleAnswer, SettleRequest, Submitted};
use jobkit_core::{Client, Error, ErrorKind, JobContext, Name, Result};
use rusqlite::{Connection, Transaction};
use serde::Serialize;

use crate::connection::Db;
use crate::error::{SqlResult, sqlite};
use crate::jobs::submit::{self, prepared::PreparedSubmission};
use crate::queue::settle::settle_all;
use crate::storage::SqliteStorage;
use crate::txn::{Carried, Txn};

/// Enqueues inside a transaction of the application, made by `client.within(&transaction)`.
///
/// Synchronous, as `rusqlite` is: a transaction must not be held across an await. Nothing is sent until
/// the application commits, and everything is gone if it rolls back. Begin the transaction with
/// [`Immediate`](rusqlite::TransactionBehavior::Immediate), since a deferred one may be refused when it
/// begins to write.
///
/// # Example: an order and its job, together or not at all
/// ```
/// # use jobkit_core::{Client, Job, NewJob};
/// # use jobkit_sqlite::SqliteStorage;
/// # use rusqlite::TransactionBehavior::Immediate;
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # struct Charge { order: i64 }
/// # impl Job for Charge { const KIND: &'static str = "charge"; type Output = (); }
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("app.db");
/// let client = Client::new(SqliteStorage::open(&path).await?);
/// let mut db = rusqlite::Connection::open(&path)?;
/// db.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)", [])?;
///
/// let tx = db.transaction_with_behavior(Immediate)?;
/// tx.execute("INSERT INTO orders (id) VALUES (17)", [])?;
/// let job = client.within(&tx).enqueue(NewJob::new(Charge { order: 17 }))?;
/// tx.commit()?;
/// assert!(client.job(job).await?.is_some());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SqliteScope<'t> {
    connection: &'t Connection,
    client: Client,
}

impl<'t> InTransaction<SqliteStorage> for &'t Transaction<'_> {
    type Scope = SqliteScope<'t>;

    fn scope(self, client: &Client) -> SqliteScope<'t> {
        SqliteScope { connection: self, client: client.clone() }
    }
}

impl SqliteScope<'_> {
    /// Enqueues a job, a flow or a batch; answers the ids in the same shape.
    ///
    /// # Errors
    /// Invalid input names the field: also for parents and batches that exist already. A conflict says
    /// with what. [`Schema`](ErrorKind::Schema) when the transaction's file holds no such storage, and
    /// [`Configuration`](ErrorKind::Configuration) when the client's storage is not SQLite. In every case
    /// nothing of it is in the transaction, and the transaction goes on.
    pub fn enqueue<J: IntoSubmission>(&self, jobs: J) -> Result<J::Ids> {
        let during = |error: Error| error.during("enqueue");
        let (mut submission, ids) = jobs.into_submission().map_err(during)?;
        self.client.prepare(&mut submission)?;
        submission.check().and_then(|()| check_stands_alone(&submission)).map_err(during)?;
        let prepared = PreparedSubmission::new(&submission);
        let stored = self.write(|txn| {
            let now = txn.now(&Call::default());
            submit::submit(txn, &prepared, now)
        });
        match stored.map_err(during)? {
            Submitted::Created(jobs) => Ok(ids(ids_of(&submission, &jobs))),
            Submitted::Refused(refusal) => Err(during(refusal.into())),
            Submitted::Busy => Err(during(Error::new(
                ErrorKind::Unavailable,
                "blocked by another transaction's lock",
            ))),
        }
    }

    /// Completes the job that runs: it is Succeeded exactly if the caller's rows are committed, and its
    /// work is done exactly once.
    ///
    /// Call it last before the commit. What the handler returns afterwards has no effect, and filters have
    /// no say any more; the result is sealed by the codecs of the server's client.
    ///
    /// # Errors
    /// A conflict when the lease is lost or the attempt was settled before: roll back, since another
    /// attempt may run. Invalid input when JSON cannot hold the output, or it is larger than a result may be.
    /// [`Schema`](ErrorKind::Schema) and [`Configuration`](ErrorKind::Configuration) as for `enqueue`.
    pub fn succeed<T: Serialize>(&self, context: &JobContext, output: &T) -> Result<()> {
        let during = |error: Error| error.during("succeed");
        let mut settle = Settle::new(context.lease(), Ending::Succeeded);
        settle.result = context.client().seal_output(context.id(), output).map_err(during)?;
        settle.retention = context.retention();
        settle.duration = Some(context.running_for());
        // What the server sends with its own settle comes too late.
        (settle.log, settle.log_dropped, settle.progress) = context.told_so_far();
        let request =
            SettleRequest { server: Name::from_stored("in a transaction"), settles: vec![settle] };
        let answers = self
            .write(|txn| settle_all(txn, &request, txn.now(&Call::default())))
            .map_err(during)?;
        match answers.into_iter().next() {
            Some(SettleAnswer::Settled(_)) => Ok(()),
            Some(SettleAnswer::Refused(refusal)) => Err(during(refusal.into())),
            // It was settled before, by an earlier transaction or by the server, so these rows are not
            // the ones that were settled.
            _ => {
                let text = "the attempt is settled already, or its lease is lost; roll back";
                Err(during(Error::new(ErrorKind::Conflict, text).with("job", context.id())))
            }
        }
    }

    fn storage(&self) -> Result<&SqliteStorage> {
        self.client.storage_as::<SqliteStorage>().ok_or_else(|| {
            let text = format!(
                "a transaction of SQLite was given to a client whose storage is {}; make the client of the \
                 `SqliteStorage` on the transaction's file",
                self.client.storage().backend()
            );
            Error::new(ErrorKind::Configuration, text)
        })
    }

    /// Runs `work` as a part of the transaction that is undone alone when it fails.
    fn write<T>(&self, work: impl FnOnce(&mut Txn<'_, '_>) -> SqlResult<T>) -> Result<T> {
        if self.connection.is_autocommit() {
            let text = "the transaction has ended: SQLite rolled it back, or it was committed";
            return Err(Error::new(ErrorKind::Conflict, text));
        }
        let storage = self.storage()?;
        storage.inner.file.check_all()?;
        let db = Db::new(self.connection, storage.prefix());
        let known = db
            .one("SELECT value FROM jk_meta WHERE key = 'version'", [], |row| row.get::<_, i64>(0));
        if !matches!(known, Ok(Some(_))) {
            let text =
                "the transaction's file holds no storage of this namespace; open the same file";
            return Err(Error::new(ErrorKind::Schema, text));
        }
        crate::schema::check_again(&db)?;
        db.run("SAVEPOINT jobkit", []).map_err(sqlite)?;
        let mut txn = Txn::new(&db, storage.clock(), Carried::default());
        let done = work(&mut txn).and_then(|answer| txn.finish_nested().map(|()| answer));
        drop(txn);
        match done {
            Ok(answer) => {
                db.run("RELEASE jobkit", []).map_err(sqlite)?;
                Ok(answer)
            }
            Err(fault) => {
                // An error here means that SQLite has rolled back all of it.
                let _ = db.run("ROLLBACK TO jobkit", []);
                let _ = db.run("RELEASE jobkit", []);
                Err(fault.into())
            }
        }
    }
}
