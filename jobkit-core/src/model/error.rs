//! The one error type of JobKit.
//!
//! A refused item of a set is not an error but an outcome (see [`Refusal`](crate::model::refusal::Refusal));
//! an [`Error`] means that a whole call failed.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync + 'static>;

/// What a caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument is outside what is documented; repeating the call cannot help.
    InvalidInput,
    /// Options contradict each other or their documentation.
    Configuration,
    /// What was named does not exist.
    NotFound,
    /// What was asked contradicts what is stored.
    Conflict,
    /// The storage does not offer this; nothing changed.
    Unsupported,
    /// The server has not announced itself, or was removed as dead; announce, then repeat.
    NotAnnounced,
    /// The database cannot be reached, or refuses for now.
    Unavailable,
    /// The call took longer than it may.
    Timeout,
    /// The database is read-only, full, or otherwise refuses every write until a person helps.
    NotWritable,
    /// What is stored cannot be read back.
    Corrupt,
    /// The schema is missing, or newer than this release can use.
    Schema,
    /// The storage, client or server was shut down.
    Closed,
    /// A bug in JobKit or in a storage.
    Internal,
}

impl ErrorKind {
    /// The kind's name in lowercase words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidInput => "invalid input",
            Self::Configuration => "configuration",
            Self::NotFound => "not found",
            Self::Conflict => "conflict",
            Self::Unsupported => "unsupported",
            Self::NotAnnounced => "not announced",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::NotWritable => "not writable",
            Self::Corrupt => "corrupt",
            Self::Schema => "schema",
            Self::Closed => "closed",
            Self::Internal => "internal",
        }
    }
}

/// Whether a failed call may have changed the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Applied {
    /// Nothing changed.
    NotApplied,
    /// The answer was lost: the call may have been applied, wholly. Repeating the same call applies
    /// no effect twice.
    Unknown,
}

/// Why a call failed: the kind, the operation, what and why, and the native error.
///
/// Messages never contain secrets or job arguments.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    applied: Applied,
    operation: &'static str,
    message: Cow<'static, str>,
    field: Option<&'static str>,
    context: Vec<(&'static str, String)>,
    source: Option<Source>,
}

impl Error {
    /// An error of `kind` that changed nothing; the message says what failed, then why.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            applied: Applied::NotApplied,
            operation: "",
            message: message.into(),
            field: None,
            context: Vec::new(),
            source: None,
        }))
    }

    /// [`ErrorKind::InvalidInput`], with the field that is wrong.
    pub fn invalid(field: &'static str, reason: impl fmt::Display) -> Self {
        let mut error = Self::new(ErrorKind::InvalidInput, format!("{field}: {reason}"));
        error.0.field = Some(field);
        error
    }

    /// [`ErrorKind::Unsupported`]: `what` is not offered by this storage.
    pub fn unsupported(what: &'static str) -> Self {
        Self::new(ErrorKind::Unsupported, format!("this storage does not support {what}"))
    }

    /// [`ErrorKind::Corrupt`]: what was read, and what is wrong with it.
    pub fn corrupt(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }

    /// [`ErrorKind::Closed`]: `what` was shut down.
    pub fn closed(what: &'static str) -> Self {
        Self::new(ErrorKind::Closed, format!("{what} was shut down"))
    }

    /// The same error for another caller, without its source.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        let Inner { kind, applied, operation, message, field, context, .. } = &*self.0;
        Self(Box::new(Inner {
            kind: *kind,
            applied: *applied,
            operation,
            message: message.clone(),
            field: *field,
            context: context.clone(),
            source: None,
        }))
    }

    /// Names the operation that failed, such as `"settle"`.
    #[must_use]
    pub fn during(mut self, operation: &'static str) -> Self {
        self.0.operation = operation;
        self
    }

    /// Adds a fact that helps to find the cause, such as `("queue", "mail")`.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((key, value.to_string()));
        self
    }

    /// Marks that the answer was lost and the call may have been applied.
    #[must_use]
    pub fn maybe_applied(mut self) -> Self {
        self.0.applied = Applied::Unknown;
        self
    }

    /// Attaches the native error.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The native error, for those who ask for its type. [`source`](StdError::source) leaves it out where
    /// the message repeats its text.
    pub fn native(&self) -> Option<&(dyn StdError + Send + Sync + 'static)> {
        self.0.source.as_deref()
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the call may have been applied.
    pub fn applied(&self) -> Applied {
        self.0.applied
    }

    /// The operation that failed; empty when it was not named.
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// The field that is wrong, for invalid input.
    pub fn field(&self) -> Option<&'static str> {
        self.0.field
    }

    /// The message alone, without operation and context.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Whether the same call may succeed later, and repeating it is safe.
    ///
    /// True for [`Unavailable`](ErrorKind::Unavailable), [`Timeout`](ErrorKind::Timeout) and
    /// [`NotWritable`](ErrorKind::NotWritable): by the storage contract a repeated call applies no
    /// effect twice.
    pub fn is_retryable(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::NotWritable)
    }

    /// Whether what was asked contradicts what is stored.
    pub fn is_conflict(&self) -> bool {
        self.0.kind == ErrorKind::Conflict
    }

    /// Whether what was named does not exist.
    pub fn is_not_found(&self) -> bool {
        self.0.kind == ErrorKind::NotFound
    }
}

/// `None` for what a storage does not offer; other errors stay.
///
/// # Errors
/// Those of `answer`, but for [`Unsupported`](ErrorKind::Unsupported).
pub fn offered<T>(answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(None),
        Err(error) => Err(error),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        if !inner.operation.is_empty() {
            write!(f, "{} failed: ", inner.operation)?;
        }
        f.write_str(&inner.message)?;
        for (i, (key, value)) in inner.context.iter().enumerate() {
            write!(f, "{}{key} {value}", if i == 0 { " (" } else { ", " })?;
        }
        if !inner.context.is_empty() {
            f.write_str(")")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("applied", &self.0.applied)
            .field("message", &self.to_string())
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let source: &(dyn StdError + 'static) = self.0.source.as_deref()?;
        // Whoever prints the chain prints the message before it: what that repeats would be read twice.
        if self.0.message.contains(&source.to_string()) { None } else { Some(source) }
    }
}
