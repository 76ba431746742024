//! What a handler returns: outputs, failures, and errors that say what to do next.

use std::any::{Any, type_name};
use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::model::failure::{ErrorDetail, is_box};

type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// A handler's failure: what went wrong, and whether running again can help.
///
/// Every error converts into it: own types, boxed errors, and `anyhow::Error` with its chain.
/// [`permanent`], [`retry_after`] and [`snooze`] are found anywhere in the chain of sources.
pub struct Failure {
    error_type: String,
    message: String,
    chain: Vec<String>,
    backtrace: Option<String>,
    advice: Retry,
}

/// What should follow a failure: what an error says itself, or a kind's `classify` about errors of its own.
///
/// [`permanent`], [`retry_after`] and [`snooze`] at the place of the failure take precedence over `classify`.
///
/// # Example: an enum of one's own
/// ```
/// use std::time::Duration;
/// use jobkit::retry::Retry;
///
/// enum PayError { CardExpired, Busy, Network }
///
/// fn classify(error: &PayError) -> Retry {
///     match error {
///         PayError::CardExpired => Retry::Permanent,
///         PayError::Busy => Retry::After(Duration::from_secs(60)),
///         PayError::Network => Retry::ByPolicy,
///     }
/// }
/// # assert_eq!(classify(&PayError::CardExpired), Retry::Permanent);
/// # classify(&PayError::Busy); classify(&PayError::Network);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// As the retry policy says.
    ByPolicy,
    /// Not again: running again cannot help.
    Permanent,
    /// After this long, if attempts are left.
    After(Duration),
    /// After this long; no attempt is used up.
    Snooze(Duration),
}

/// An error that says what should follow, a [`Retry`]; made by [`permanent`], [`retry_after`] and [`snooze`].
#[derive(Debug)]
pub struct Directive {
    advice: Retry,
    cause: Option<BoxError>,
}

/// Marks an error as one that no repetition fixes: the job is Failed at once.
///
/// # Example: a mailbox that does not exist
/// ```
/// use jobkit::permanent;
/// fn deliver(known: bool) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
///     if !known {
///         return Err(permanent("no such mailbox").into());
///     }
///     Ok(())
/// }
/// # assert!(deliver(false).is_err());
/// ```
pub fn permanent(error: impl Into<BoxError>) -> Directive {
    Directive { advice: Retry::Permanent, cause: Some(error.into()) }
}

/// Sets when the job runs again, instead of its retry policy; the failure counts as an attempt.
pub fn retry_after(delay: Duration, error: impl Into<BoxError>) -> Directive {
    Directive { advice: Retry::After(delay), cause: Some(error.into()) }
}

/// Asks to run again later without having failed: no attempt is used up.
pub fn snooze(delay: Duration) -> Directive {
    Directive { advice: Retry::Snooze(delay), cause: None }
}

impl fmt::Display for Directive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.cause, self.advice) {
            (Some(cause), _) => fmt::Display::fmt(cause, f),
            (None, Retry::Snooze(delay)) => write!(f, "snoozed for {delay:?}"),
            (None, _) => f.write_str("stopped"),
        }
    }
}

impl StdError for Directive {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        // The cause's text is already this error's own.
        self.cause.as_deref().and_then(|cause| cause.source())
    }
}

impl Failure {
    /// A failure in words, without an error value.
    pub fn message(error_type: &str, message: impl Into<String>) -> Self {
        Self {
            error_type: error_type.to_owned(),
            message: message.into(),
            chain: Vec::new(),
            backtrace: None,
            advice: Retry::ByPolicy,
        }
    }

    /// From any error; see the type's documentation.
    pub fn from_error<E: Into<BoxError> + 'static>(error: E) -> Self {
        #[cfg(feature = "anyhow")]
        if let Some(error) = (&error as &dyn Any).downcast_ref::<anyhow::Error>() {
            // Boxing would lose the chain's types, so it is read before.
            let backtrace = error.backtrace();
            let captured = backtrace.status() == std::backtrace::BacktraceStatus::Captured;
            let mut failure = Self::from_chain("error", error.chain());
            failure.backtrace = captured.then(|| backtrace.to_string());
            return failure;
        }
        let name = type_name::<E>();
        // A box or a text says nothing of what went wrong.
        let name = if is_box(name) { "error" } else { name };
        let error: BoxError = error.into();
        Self::from_chain(name, sources(&*error))
    }

    fn from_chain<'a>(
        name: &str,
        chain: impl Iterator<Item = &'a (dyn StdError + 'static)>,
    ) -> Self {
        let mut failure = Self::message(name, "");
        for (depth, error) in chain.take(64).enumerate() {
            if depth == 0 {
                failure.message = error.to_string();
            } else {
                failure.chain.push(error.to_string());
            }
            if failure.advice == Retry::ByPolicy
                && let Some(directive) = error.downcast_ref::<Directive>()
            {
                failure.advice = directive.advice;
            }
        }
        failure
    }

    /// A caught panic, with its message and where it happened.
    pub(crate) fn from_panic(payload: &(dyn Any + Send), location: Option<String>) -> Self {
        let message = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "panicked with a value that is not a text".to_owned());
        let mut failure = Self::message("panic", message);
        failure.backtrace = location;
        failure
    }

    /// What the error said should follow; [`Retry::ByPolicy`] if it said nothing.
    pub fn advice(&self) -> Retry {
        self.advice
    }

    /// This failure, with what should follow it.
    #[must_use]
    pub fn advise(mut self, advice: Retry) -> Self {
        self.advice = advice;
        self
    }

    /// This failure, followed by what its kind says about such errors, unless the error said it itself.
    #[must_use]
    pub fn classified(mut self, retry: Retry) -> Self {
        if self.advice == Retry::ByPolicy {
            self.advice = retry;
        }
        self
    }

    /// The message.
    pub fn text(&self) -> &str {
        &self.message
    }

    /// This failure as one of a time limit, with its causes.
    pub(crate) fn timed_out(mut self) -> Self {
        self.message = format!("time was up: {}", self.message);
        "timeout".clone_into(&mut self.error_type);
        self
    }

    /// Cleaned and bounded, for the storage.
    pub(crate) fn into_detail(self, kind: &str) -> ErrorDetail {
        ErrorDetail::new(kind, &self.error_type, &self.message, self.chain, self.backtrace)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failure")
            .field("error_type", &self.error_type)
            .field("message", &self.message)
            .field("advice", &self.advice)
            .finish_non_exhaustive()
    }
}

impl<E: Into<BoxError> + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::from_error(error)
    }
}

/// An error and its sources, outermost first.
fn sources<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    let next = |error: &&'a (dyn StdError + 'static)| {
        let error: &'a (dyn StdError + 'static) = *error;
        error.source()
    };
    std::iter::successors(Some(error), next)
}

/// What a function under `#[job]` may return: `Result<T, E>` or nothing.
#[diagnostic::on_unimplemented(
    message = "a job cannot return `{Self}`",
    note = "return `Result<T, E>` with an error that converts into `jobkit::Failure`, or nothing"
)]
pub trait IntoJobResult {
    /// What success gives.
    type Ok;
    /// What failure gives.
    type Err;

    /// As a `Result`.
    ///
    /// # Errors
    /// The handler's own error.
    fn into_result(self) -> Result<Self::Ok, Self::Err>;
}

impl<T, E> IntoJobResult for Result<T, E> {
    type Ok = T;
    type Err = E;

    fn into_result(self) -> Self {
        self
    }
}

impl IntoJobResult for () {
    type Ok = ();
    type Err = Infallible;

    fn into_result(self) -> Result<(), Infallible> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Wrapped(Directive);

    impl fmt::Display for Wrapped {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("wrapped")
        }
    }

    impl StdError for Wrapped {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn advice_is_found_through_every_wrapper() {
        let second = Duration::from_secs(1);
        let plain = Failure::from(permanent("no"));
        assert_eq!((plain.advice(), plain.text()), (Retry::Permanent, "no"));
        let boxed: BoxError = Box::new(Wrapped(retry_after(second, "later")));
        assert_eq!(Failure::from(boxed).advice(), Retry::After(second));
        assert_eq!(Failure::from("plain words").advice(), Retry::ByPolicy);
    }

    #[test]
    fn a_kinds_rule_gives_way_to_what_the_error_says() {
        let second = Duration::from_secs(1);
        let plain = || Failure::from("plain words");
        assert_eq!(plain().classified(Retry::ByPolicy).advice(), Retry::ByPolicy);
        assert_eq!(plain().classified(Retry::Permanent).advice(), Retry::Permanent);
        let after = plain().classified(Retry::After(second));
        assert_eq!(after.advice(), Retry::After(second));
        let said = Failure::from(snooze(second)).classified(Retry::Permanent);
        assert_eq!(said.advice(), Retry::Snooze(second));
    }

    #[cfg(feature = "anyhow")]
    #[test]
    fn anyhow_keeps_its_chain() {
        let error = anyhow::Error::new(snooze(Duration::from_secs(9)))
            .context("outer")
            .context("outermost");
        let failure = Failure::from(error);
        assert_eq!(failure.text(), "outermost");
        assert_eq!(failure.error_type, "error", "not the name of the box");
        assert_eq!(failure.advice(), Retry::Snooze(Duration::from_secs(9)));
        assert_eq!(failure.chain.first().map(String::as_str), Some("outer"));
    }
}
