//! Versions of a kind's arguments, and how older ones become the present one.

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::jobs::job::Job;
use crate::jobs::outcome::Failure;
use crate::model::error::{Error, Result};
use crate::model::name::Name;

/// Why stored arguments do not become a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ArgumentMismatch {
    /// The argument, as a path: `address.street`; none where it is not known.
    pub(crate) field: Option<String>,
    pub(crate) reason: String,
}

impl ArgumentMismatch {
    /// Leaves the field, and takes back what may quote a value that nobody may see.
    pub(crate) fn hide(&mut self, why: &str) {
        if !self.reason.starts_with("missing field") {
            why.clone_into(&mut self.reason);
        }
    }
}

impl fmt::Display for ArgumentMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.field {
            Some(field) => write!(f, "the stored argument `{field}` does not fit: {}", self.reason),
            None => write!(f, "the stored arguments do not fit: {}", self.reason),
        }
    }
}

pub(crate) type Decode<J> =
    Arc<dyn Fn(&[u8]) -> std::result::Result<J, ArgumentMismatch> + Send + Sync>;

/// How arguments of older versions of a kind become those of the present one.
///
/// # Example: a name became two
/// ```
/// use jobkit::Job;
/// use jobkit::upgrade::Upgrades;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Welcome { first: String, last: String }
///
/// /// As it was stored by version 1.
/// #[derive(Deserialize)]
/// struct WelcomeV1 { name: String }
///
/// impl Job for Welcome {
///     const KIND: &'static str = "welcome";
///     const VERSION: u32 = 2;
///     type Output = ();
///     fn upgrades() -> Upgrades<Self> {
///         Upgrades::new().version(1, |old: WelcomeV1| {
///             let (first, last) = old.name.split_once(' ').unwrap_or((&old.name, ""));
///             Welcome { first: first.into(), last: last.into() }
///         })
///     }
/// }
/// ```
pub struct Upgrades<J> {
    steps: Vec<(u32, Decode<J>)>,
}

impl<J> Upgrades<J> {
    /// None: older versions are not served.
    pub const fn new() -> Self {
        Self { steps: Vec::new() }
    }

    /// Serves jobs that `version` stored: `upgrade` is given their arguments, and gives the job, or a
    /// `Result` of it.
    ///
    /// An upgrade that fails ends the job as arguments that do not decode: Failed at once, so that it can be
    /// requeued when the code is fixed.
    #[must_use]
    pub fn version<Old, New>(
        mut self,
        version: u32,
        upgrade: impl Fn(Old) -> New + Send + Sync + 'static,
    ) -> Self
    where
        Old: DeserializeOwned,
        New: Upgraded<J>,
    {
        let step = move |args: &[u8]| {
            upgrade(decode::<Old>(args)?).upgraded().map_err(|failure| ArgumentMismatch {
                field: None,
                reason: format!("the upgrade from version {version} failed: {}", failure.text()),
            })
        };
        self.steps.push((version, Arc::new(step)));
        self
    }

    pub(crate) fn into_steps(self) -> Vec<(u32, Decode<J>)> {
        self.steps
    }
}

impl<J> Default for Upgrades<J> {
    fn default() -> Self {
        Self::new()
    }
}

impl<J> fmt::Debug for Upgrades<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let versions: Vec<_> = self.steps.iter().map(|(version, _)| version).collect();
        f.debug_tuple("Upgrades").field(&versions).finish()
    }
}

/// What an upgrade may give: the new value, or a `Result` of it.
#[diagnostic::on_unimplemented(
    message = "an upgrade cannot give `{Self}` here",
    label = "the present version is made of `{T}`",
    note = "under `#[job]` an upgrade gives the stored arguments in their order, as a tuple: `(A, B)`, or `(A,)` for one; or a `Result` of that"
)]
pub trait Upgraded<T> {
    /// The new value.
    ///
    /// # Errors
    /// The upgrade's own.
    fn upgraded(self) -> std::result::Result<T, Failure>;
}

impl<T> Upgraded<T> for T {
    fn upgraded(self) -> std::result::Result<T, Failure> {
        Ok(self)
    }
}

impl<T, E: Into<Failure>> Upgraded<T> for std::result::Result<T, E> {
    fn upgraded(self) -> std::result::Result<T, Failure> {
        self.map_err(Into::into)
    }
}

pub(crate) fn decode<T: DeserializeOwned>(args: &[u8]) -> std::result::Result<T, ArgumentMismatch> {
    let mut json = serde_json::Deserializer::from_slice(args);
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner().to_string();
        // A missing field is named in the reason, and its path is that of the object around it.
        let missing =
            reason.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
        let field = match (path.as_str(), missing) {
            ("." | "?", None) => None,
            ("." | "?", Some(missing)) => Some(missing.to_owned()),
            (path, None) => Some(path.to_owned()),
            (path, Some(missing)) => Some(format!("{path}.{missing}")),
        };
        ArgumentMismatch { field, reason }
    })
}

/// The name under which a version of a kind is stored: `resize`, then `resize@2`.
pub(crate) fn stored_name(base: &str, version: u32) -> String {
    match version {
        0 | 1 => base.to_owned(),
        version => format!("{base}@{version}"),
    }
}

/// The name of a kind without its version.
pub(crate) fn base_name(stored: &str) -> &str {
    match stored.rsplit_once('@') {
        Some((base, version)) if is_version(version) => base,
        _ => stored,
    }
}

fn is_version(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a kind may be called so: as any name, and not as a version of another kind.
pub(crate) fn check_base(base: &str) -> Result<()> {
    Name::new("kind", base)?;
    if base_name(base) == base {
        return Ok(());
    }
    let text = format!(
        "`{base}` ends like a version of `{}`; versions are named by `version = …`",
        base_name(base)
    );
    Err(Error::invalid("kind", text))
}

/// The name under which jobs of a type are stored.
pub(crate) fn kind_of<J: Job>() -> Result<Name> {
    check_base(J::KIND)?;
    Name::new("kind", stored_name(J::KIND, J::VERSION))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_version() {
        assert_eq!(stored_name("resize", 1), "resize");
        assert_eq!(stored_name("resize", 12), "resize@12");
        assert_eq!(base_name("resize@12"), "resize");
        for other in ["resize", "a@b", "a@", "a@2b", "a@2.x"] {
            assert_eq!(base_name(other), other);
            assert!(check_base(other).is_ok(), "{other}");
        }
        let error = check_base("resize@2").expect_err("is a version").to_string();
        assert!(error.contains("`resize@2` ends like a version of `resize`"), "{error}");
    }

    #[derive(Debug, serde::Deserialize)]
    struct Letter {
        #[allow(dead_code, reason = "decoded only")]
        to: Address,
    }

    #[derive(Debug, serde::Deserialize)]
    struct Address {
        #[allow(dead_code, reason = "decoded only")]
        lines: Vec<u32>,
    }

    #[test]
    fn a_misfit_names_its_place() {
        let field = |json: &str| decode::<Letter>(json.as_bytes()).expect_err("does not fit").field;
        assert_eq!(field("{}").as_deref(), Some("to"));
        assert_eq!(field(r#"{"to":{}}"#).as_deref(), Some("to.lines"));
        assert_eq!(field(r#"{"to":{"lines":[1,"x"]}}"#).as_deref(), Some("to.lines[1]"));
        assert_eq!(field(r#"{"to":7}"#).as_deref(), Some("to"));
        assert_eq!(field("7"), None);
    }
}
