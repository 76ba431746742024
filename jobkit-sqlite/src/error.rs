//! SQLite's result codes as core errors.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use jobkit_core::{Error, ErrorKind};
use rusqlite::ErrorCode;

/// What can go wrong between a statement and an answer.
#[derive(Debug)]
pub(crate) enum Fault {
    Sql(rusqlite::Error),
    Core(Error),
}

/// The result of everything that uses a connection.
pub(crate) type SqlResult<T = ()> = Result<T, Fault>;

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Core(error)
    }
}

impl From<serde_json::Error> for Fault {
    fn from(error: serde_json::Error) -> Self {
        Self::Core(Error::corrupt("stored JSON cannot be read").caused_by(error))
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Sql(error) => sqlite(error),
            Fault::Core(error) => error,
        }
    }
}

impl Fault {
    /// Whether one row cannot be read while others can.
    pub(crate) fn is_corrupt_row(&self) -> bool {
        match self {
            Self::Core(error) => error.kind() == ErrorKind::Corrupt,
            // A column holds a value of the wrong type.
            Self::Sql(error) => matches!(
                error,
                rusqlite::Error::FromSqlConversionFailure(..)
                    | rusqlite::Error::IntegralValueOutOfRange(..)
                    | rusqlite::Error::InvalidColumnType(..)
                    | rusqlite::Error::Utf8Error(..)
            ),
        }
    }
}

impl Fault {
    /// Whether one of several items in a transaction cannot be carried out while the others can.
    pub(crate) fn concerns_one_item(&self) -> bool {
        if self.is_corrupt_row() {
            return true;
        }
        let Self::Sql(error) = self else { return false };
        // An error after which SQLite rolls back by itself, or which it will repeat, concerns all
        // items.
        matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig)
        )
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sql(error) => error.fmt(f),
            Self::Core(error) => error.fmt(f),
        }
    }
}

/// Warns once of a row that is skipped because it cannot be read.
pub(crate) fn warn_corrupt_row(seq: i64, fault: &Fault) {
    static WARNED: Mutex<BTreeSet<i64>> = Mutex::new(BTreeSet::new());
    let mut warned = WARNED.lock().unwrap_or_else(PoisonError::into_inner);
    if warned.len() < 1_000 && warned.insert(seq) {
        tracing::warn!(sequence = seq, error = %fault, "skipped an unreadable job");
    }
}

/// Another process writes.
pub(crate) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// Maps a native error; the codes are those of <https://www.sqlite.org/rescode.html>.
pub(crate) fn sqlite(error: rusqlite::Error) -> Error {
    use ErrorCode as Code;
    let (kind, what) = match error.sqlite_error_code() {
        Some(Code::DatabaseBusy | Code::DatabaseLocked) => {
            (ErrorKind::Unavailable, "another process holds the database")
        }
        Some(Code::ReadOnly | Code::PermissionDenied | Code::AuthorizationForStatementDenied) => {
            (ErrorKind::NotWritable, "the database or its directory is read-only")
        }
        Some(Code::DiskFull) => (ErrorKind::NotWritable, "the disk is full"),
        Some(Code::CannotOpen) => {
            (ErrorKind::Unavailable, "the database file cannot be opened or created")
        }
        Some(Code::NotADatabase) => (ErrorKind::Corrupt, "the file is no SQLite database"),
        Some(Code::DatabaseCorrupt) => (ErrorKind::Corrupt, "the database file is damaged"),
        Some(
            Code::SystemIoFailure
            | Code::FileLockingProtocolFailed
            | Code::OutOfMemory
            | Code::SchemaChanged
            | Code::OperationInterrupted,
        ) => (ErrorKind::Unavailable, "the database cannot be used now"),
        _ => (ErrorKind::Internal, "SQLite refused a statement"),
    };
    Error::new(kind, format!("{what}: {error}")).caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_codes_say_what_a_caller_can_do() {
        for (code, kind) in [
            (5, ErrorKind::Unavailable),
            (6, ErrorKind::Unavailable),
            (8, ErrorKind::NotWritable),
            (10, ErrorKind::Unavailable),
            (11, ErrorKind::Corrupt),
            (13, ErrorKind::NotWritable),
            (26, ErrorKind::Corrupt),
            (1, ErrorKind::Internal),
            (19, ErrorKind::Internal),
        ] {
            let native = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
            assert_eq!(sqlite(native).kind(), kind, "{code}");
        }
    }
}
